"""The selection of samples: closed forms, brute force, and runs of each head."""

from __future__ import annotations

import functools
import json
import math
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import rsd
from rsd.cli import main
from rsd.features import load_features
from rsd.heads.attributes import ATTRIBUTES, Head
from rsd.heads.data import head_at
from rsd.heads.render import render
from rsd.media import read_image, to_uint8
from rsd.metrics import diversity, selection
from rsd.metrics.scoring import Scorers
from rsd.metrics.selection import best_set, greedy_set, kernel, select, to_best
from rsd.priors import load_prior
from rsd.runs.session import Session
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.operators.base import measurement_fit
from rsd.tasks.inverse.run import Settings
from rsd.tasks.text_to_image.scores import prompt_fit


def points(n: int, d: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def random_scores(n: int, seed: int = 1) -> torch.Tensor:
    return 0.6 + 0.4 * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def brute_force(L: torch.Tensor, number: int) -> list[int]:
    """Return the set with the largest determinant, computed from its definition as a sum over permutations."""

    def determinant(rows: tuple[int, ...]) -> float:
        total = 0.0
        for order in permutations(range(number)):
            swaps = sum(order[i] > order[j] for i, j in combinations(range(number), 2))
            total += (-1) ** swaps * math.prod(float(L[rows[i], rows[j]]) for i, j in enumerate(order))
        return total

    return list(max(combinations(range(len(L)), number), key=determinant))


def test_the_kernel_is_1_over_e_at_the_largest_distance():
    K = kernel(torch.tensor([[0.0], [1.0], [3.0]]))  # distances 1, 2, 3
    expected = [[1, math.exp(-1 / 9), math.exp(-1)], [0, 1, math.exp(-4 / 9)], [0, 0, 1]]
    torch.testing.assert_close(K.triu(), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(K, K.T)


def test_two_of_three_on_a_line_are_its_ends():
    """det = 1 - k^2 is largest for the pair that is farthest apart."""
    assert select(torch.tensor([[0.0], [1.0], [3.0]]), 2).kept == [0, 2]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_largest_determinant_is_that_of_brute_force(number, seed):
    q = to_best(random_scores(7, seed), 7)
    L = q[:, None] * kernel(points(7, seed=seed)) * q
    expected = brute_force(L, number)
    assert best_set(L, number) == expected
    scores = random_scores(7, seed)
    fits = [i for i in range(7) if scores[i] >= scores.max() / math.sqrt(2)]
    found = select(points(7, seed=seed), number, scores)
    own = to_best(scores, 7)[fits] ** 0.25
    assert found.fitting == fits
    assert found.kept == [fits[i] for i in brute_force(own[:, None] * kernel(points(7, seed=seed)[fits]) * own, number)]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_close_to_the_largest_determinant(seed, monkeypatch):
    """The incremental decomposition gives the same: each row increases the determinant most."""
    L = kernel(points(9, seed=seed))
    det = lambda rows: float(torch.linalg.det(L[rows][:, rows]))  # noqa: E731
    grown = []
    for first in range(9):
        rows = [first]
        while len(rows) < 4:
            rows.append(max((i for i in range(9) if i not in rows), key=lambda i: det([*rows, i])))  # noqa: B023
        grown.append(sorted(rows))
    found = greedy_set(L, 4)
    assert det(found) == pytest.approx(max(map(det, grown)), rel=1e-9)
    assert det(found) >= 0.9 * det(best_set(L, 4))
    assert greedy_set(L, 2) == best_set(L, 2) and greedy_set(L, 1) == [0]
    monkeypatch.setattr(selection, "SETS", 10)
    assert select(points(9, seed=seed), 4).kept == found


def test_many_particles_are_selected_greedily():
    kept = select(points(60, d=8), 8).kept
    assert len(kept) == len(set(kept)) == 8 and kept == sorted(kept)
    assert math.comb(60, 8) > selection.SETS
    phi = points(60, d=8)
    assert diversity(phi[kept]) > diversity(phi)


@pytest.mark.parametrize(("n", "number"), [(8, 3), (30, 6)])  # all sets, greedy
def test_the_order_of_the_particles_does_not_matter(n, number):
    phi, scores = points(n, d=5), random_scores(n)
    expected = select(phi, number, scores)
    for seed in range(3):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        found = select(phi[order], number, scores[order])
        assert sorted(order[found.kept].tolist()) == expected.kept
        assert sorted(order[found.fitting].tolist()) == expected.fitting
    torch.testing.assert_close(kernel(7 * phi + 3), kernel(phi))  # nor do shifts and units


def test_of_equal_sets_the_first_is_kept_and_equal_samples_are_not_kept_twice():
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert select(square, 2).kept == [0, 2] and select(square, 1).kept == [0]
    twice = torch.tensor([[0.0], [0.0], [1.0], [5.0], [5.0]])
    assert select(twice, 3).kept == [0, 2, 3]
    assert select(torch.zeros(4, 2), 2).kept == [0, 1]
    assert select(torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0]]), 2).kept == [0, 1]


def test_particles_that_do_not_fit_are_left_out_however_different():
    phi = torch.tensor([[0.0], [1.0], [2.0], [100.0]])
    assert select(phi, 2).kept == [0, 3]
    found = select(phi, 2, 1 / torch.tensor([1.0, 1.0, 1.1, 1.5]))
    assert (found.kept, found.fitting) == ([0, 2], [0, 1, 2])
    close = select(phi, 2, 1 / torch.tensor([1.0, 3.0, 2.0, 9.0]))  # one fits; the next best is added
    assert (close.kept, close.fitting) == ([0, 2], [0])
    edge = select(phi, 2, 1 / torch.tensor([1.0, 1.41, 1.42, 1.0]))
    assert edge.fitting == [0, 1, 3]


def test_implausible_particles_come_last():
    phi, plausible = torch.tensor([[0.0], [1.0], [2.0], [100.0]]), torch.tensor([True, True, True, False])
    found = select(phi, 2, None, plausible)
    assert (found.kept, found.fitting) == ([0, 2], [0, 1, 2])
    scores = torch.tensor([0.1, 0.1, 0.1, 9.0])  # the best score is of those that are plausible
    assert select(phi, 2, scores, plausible).fitting == [0, 1, 2]
    assert select(phi, 4, scores, plausible).kept == [0, 1, 2, 3]
    assert select(phi, 3, torch.tensor([1.0, 0.1, 0.2, 9.0]), plausible).kept == [0, 1, 2]


def broken(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """A head with a green blot, with specks, and half of it upside down."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    weight = (-((rows - 36) ** 2 + (columns - 46) ** 2) / 40).exp()
    blot = image * (1 - weight) + weight * torch.tensor([-0.3, 0.5, -0.5])[:, None, None]
    specks, turned = image.clone(), image.clone()
    specks[..., 32:] += 0.3 * torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(0))
    turned[..., 32:] = image[..., 32:].flip(-2)
    return {"blot": blot, "specks": specks, "turned": turned}


def test_where_none_is_plausible_all_are():
    phi, scores = points(6), random_scores(6)
    assert select(phi, 3, scores, torch.zeros(6, dtype=torch.bool)) == select(phi, 3, scores)


def test_a_broken_head_is_left_out(monkeypatch):
    """Heads with the same left half; of the broken ones some differ most in features, and all are implausible."""
    monkeypatch.setattr(selection, "denoising_errors", functools.cache(selection.denoising_errors))  # found once
    prior, features = load_prior("heads"), load_features("heads")
    head = head_at("validation", 3, "frontal")
    drawn = [Head({**head.values, "glasses": value}, head.camera, head.light) for value in ATTRIBUTES["glasses"]]
    images = torch.cat([torch.tensor(render(one, 64)).permute(2, 0, 1)[None] / 127.5 - 1 for one in drawn])
    wrong = broken(images[0, :])
    images = torch.cat([images, torch.stack(list(wrong.values()))])
    n = len(drawn)
    errors = selection.denoising_errors(images, prior, None)
    assert errors[:n].max() < selection.IMPLAUSIBLE < errors[n:].min()
    with_prior = selection.choose(images, 2, features=features, fit=None, device="cpu", prior=prior)
    assert with_prior.fitting == list(range(n)) and with_prior.errors == errors.tolist()


def test_of_samples_that_differ_alike_the_better_fit_is_kept():
    phi = torch.eye(4)
    assert select(phi, 2, torch.tensor([0.9, 1.0, 0.9, 0.95])).kept == [1, 3]
    assert select(phi, 1, torch.tensor([0.9, 1.0, 0.9, 0.95])).kept == [1]
    assert torch.equal(to_best(torch.zeros(3), 3), torch.ones(3, dtype=torch.float64))  # nothing is measured


def test_the_fit_of_a_restoration_is_its_residual():
    f = make_operator("sr2", size=16, seed=0)
    x = torch.zeros(1, 3, 16, 16)
    images = torch.cat([x, x + 0.01, x + 0.03])
    fit = measurement_fit(f, images, f(x), 0.01)
    torch.testing.assert_close(fit.values, torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fit.scores, torch.tensor([100, 100, 100 / 3], dtype=torch.float64), atol=1e-3, rtol=1e-4)
    exact = measurement_fit(f, images, f(x), 0.0)
    assert float(exact.values[2]) == pytest.approx(0.03, rel=1e-4) and exact.scores.isfinite().all()


class Judge:
    """A classifier that is certain of hair colours, or uncertain."""

    def __init__(self, attribute: str, found: list[int | None]):
        self.attribute, self.found = attribute, found

    def probabilities(self, images):
        probabilities = {a: torch.full((len(images), len(v)), 1 / len(v)) for a, v in ATTRIBUTES.items()}
        for row, value in enumerate(self.found):
            if value is not None:
                probabilities[self.attribute][row] = torch.eye(len(ATTRIBUTES[self.attribute]))[value]
        return probabilities


def test_the_fit_of_a_picture_of_a_head_is_its_agreement_otherwise_clip():
    right, wrong = ATTRIBUTES["hair"].index("long"), ATTRIBUTES["hair"].index("short")
    images, scorers = torch.zeros(3, 3, 64, 64), Scorers(judge=Judge("hair", [right, wrong, None]))
    fit = prompt_fit(images, "a man with long hair", scorers)
    assert fit.name == "agreement" and fit.scores.tolist()[1:] == [0, 0] and float(fit.scores[0]) > 0
    assert prompt_fit(images, "", scorers) is None and prompt_fit(images, "a fox", Scorers()) is None
    clip = Scorers(clip=lambda images, prompt: torch.tensor([0.30, 0.25, 0.28]))
    fit = prompt_fit(images, "a fox", clip)
    assert fit.name == "clip" and fit.values.tolist() == pytest.approx([30, 25, 28])
    assert select(points(3), 1, fit.scores).fitting == [0, 2]


# Runs.


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def restore(photo, tiny_folder, tmp_path):
    prior = str(tiny_folder("epsilon"))

    def go(*flags, out="out"):
        fixed = ["--clean", "--task", "sr2", "--prior", prior, "--features", "pixels", "--div-features", "pixels"]
        code = main(["restore", str(photo), *fixed, "--steps", "4", "--out", str(tmp_path / out), *flags])
        return code, tmp_path / out

    return go


def particles(folder):
    return torch.cat([read_image(p) for p in sorted((folder / "particles").glob("*.png"))])


def levels(images):
    return [to_uint8(image).tolist() for image in images]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_restoration_keeps_some_of_what_it_draws(restore):
    _, all_ = restore("-n", "5", "--gamma", "3", out="all")
    code, out = restore("--draw", "5", "--keep", "2", "--gamma", "3")
    assert code == 0
    found = metrics(out)["selection"]
    fit = 1 / torch.tensor(found["values"]).clamp(min=1)
    drawn = particles(all_)
    assert found["drawn"] == 5 and found["fit"] == "residual" and found["features"] == "pixels"
    expected = select(drawn.flatten(1), 2, fit)  # from 8-bit pictures: equal up to rounding
    assert (found["kept"], found["fitting"]) == (expected.kept, expected.fitting)
    assert torch.equal(particles(out), drawn[found["kept"]])
    assert metrics(out)["div"] == pytest.approx(diversity(drawn[found["kept"]].flatten(1)), rel=0.02)
    assert found["div_drawn"] == pytest.approx(metrics(all_)["div"], rel=1e-6) and (out / "drawn.png").is_file()
    assert found["values"] == pytest.approx(found["values"])
    assert "selection" not in metrics(all_) and not (all_ / "drawn.png").exists()
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["draw"], config["keep"]) == (5, 2)
    assert "chen2018" in (out / "citations.bib").read_text()
    assert restore("--draw", "5", "--keep", "2", "--gamma", "3", "--resume")[0] == 0  # it is finished
    assert restore("--draw", "5", "--keep", "3", "--gamma", "3", "--resume")[0] == 2  # other settings


def test_without_repulsion_and_whatever_the_chunk_the_same_are_kept(restore):
    flags = ("--draw", "4", "-n", "2", "--method", "latent-dps")  # a method that reads no --features otherwise
    whole, parts = (restore(*flags, "--chunk", chunk, out=f"chunk{chunk}")[1] for chunk in ("4", "1"))
    assert metrics(whole)["selection"]["kept"] == metrics(parts)["selection"]["kept"]
    assert len(particles(whole)) == 2


def test_a_run_that_is_cut_off_keeps_the_same(restore, monkeypatch):
    flags = ("--draw", "4", "-n", "2", "--gamma", "3", "--checkpoint-every", "2")
    _, whole = restore(*flags, out="whole")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "finish", lambda *args, **kwargs: (_ for _ in ()).throw(ValueError("cut off")))
        assert restore(*flags)[0] == 2
    code, out = restore(*flags, "--resume")
    assert code == 0 and metrics(out)["selection"] == metrics(whole)["selection"]
    assert torch.equal(particles(out), particles(whole))


def test_python_keeps_what_the_command_keeps(restore, photo, tiny_folder):
    _, out = restore("--draw", "4", "--keep", "2", "--gamma", "3")
    f = make_operator("sr2", size=16, seed=0)
    y = measure(f, read_image(photo), 0.001, seed=0, image="photo")
    prior = load_prior(str(tiny_folder("epsilon")))
    found = rsd.restore(
        y, f, prior=prior, features="pixels", draw=4, keep=2, gamma=3.0, steps=4, image="photo"
    )  # fmt: skip
    assert found.selection.kept == metrics(out)["selection"]["kept"]
    assert levels(found.images) == levels(particles(out))
    alone = rsd.restore(y, f, prior=prior, features="pixels", draw=3, keep=1, method="latent-dps", steps=2)
    assert len(alone.images) == 1 and alone.selection is not None
    assert rsd.restore(y, f, prior=prior, features="pixels", particles=1, gamma=0.0, steps=2).selection is None


def test_pictures_of_a_prompt_are_the_command_s(tmp_path):
    prompt, flags = "a man with a beard", ["--method", "ancestral", "--steps", "2", "--draw", "3", "--keep", "2"]
    assert main(["text-to-image", prompt, *flags, "--out", str(tmp_path / "out")]) == 0
    drawn = rsd.text_to_image(prompt, method="ancestral", steps=2, draw=3, keep=2)
    found = metrics(tmp_path / "out")["selection"]
    assert drawn.selection.kept == found["kept"] and found["features"] == "heads"
    assert levels(drawn.images) == levels(particles(tmp_path / "out"))


def test_lines_of_a_manifest_draw_and_keep_their_own(tiny_folder, tmp_path):
    lines = [{"prompt": "red"}, {"prompt": "dog", "draw": 4, "keep": 1}, {"prompt": "re", "keep": 3}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--div-features", "pixels", "--steps", "2"]
    flags = ["--method", "sds", "--draw", "3", "-n", "2", "--out", str(tmp_path / "out")]
    assert main(["text-to-image", "--prompts", str(tmp_path / "prompts.jsonl"), *fixed, *flags]) == 0
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["prompts"]
    assert [len(particles(tmp_path / "out" / row["folder"])) for row in rows] == [2, 1, 3]
    assert "selection" not in metrics(tmp_path / "out" / rows[2]["folder"])  # it keeps all three


def test_a_comparison_keeps_as_many_of_each_method(heads_pixels, tiny_folder, photo, tmp_path):
    fixed = ["--images", str(photo.parent), "--out", str(tmp_path / "runs" / "out"), "--steps=2"]
    fixed += ["--prior", str(tiny_folder("epsilon")), "--div-features", "pixels", "--pixel-prior", "heads-pixels"]
    assert main(["compare", "--methods", "dps", "--tasks", "sr2", "--draw", "3", "--keep", "2", *fixed]) == 0
    (row,) = json.loads((tmp_path / "runs" / "out" / "compare.json").read_text())
    assert row["particles"] == 2 and len(row["metrics"]["selection"]["kept"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--draw", "3"), "draw is 3, fewer than the 4 samples to keep; give --draw 4 or more, or a smaller --keep."),
        (("--draw", "3", "--keep", "5"), "draw is 3, fewer than the 5 samples to keep"),
        (("--keep", "3"), "keep is 3, but draw is missing; give the number of particles to choose from too, --draw 6"),
        (("--draw", "0"), "draw is 0; give 1 or more."),
        (("--draw", "8", "--keep", "0"), "keep is 0; give 1 or more."),
        (("--draw", "8", "--keep", "3", "-n", "2"), "--particles goes with runs without --keep, but keep is 3, not 2"),
    ],
)
@pytest.mark.parametrize("command", ["restore", "text-to-image", "compare"])
def test_numbers_that_exclude_one_another_are_errors_before_any_work(command, flags, message, photo, tmp_path, capsys):
    given = {
        "restore": [str(photo), "--task", "sr4"], "text-to-image": ["a man"],
        "compare": ["--images", str(photo.parent), "--methods", "rlsd", "--tasks", "sr4"],
    }[command]  # fmt: skip
    assert main([command, *given, *flags, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_as_many_as_are_kept_is_no_selection():
    assert not Settings(draw=3, keep=3).selects and not Settings(particles=3, draw=3).selects
    assert Settings(particles=3, draw=4).selects and Settings(particles=3).drawn == 3
    with pytest.raises(ValueError, match="Method hybrid needs 3 particles or more"):
        Settings(method="hybrid", particles=2, draw=2)
    assert Settings(method="hybrid", particles=1, draw=4).interaction.interacting == 3
    f = make_operator("sr2", size=16, seed=0)
    with pytest.raises(ValueError, match="particles goes with runs without keep, but keep is 2, not 3"):
        rsd.restore(torch.zeros(1, 3, 8, 8), f, particles=3, draw=4, keep=2)


def test_scenes_are_all_kept(capsys):
    assert main(["text-to-3d", "a man", "--draw", "8"]) == 2
    assert "rsd text-to-3d has no --draw: every scene that runs is kept" in capsys.readouterr().err
