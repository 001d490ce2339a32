"""`rsd restore --metrics lpips clip fid`: requirements, outputs, and errors before anything runs."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rsd import metrics
from rsd.cli import main
from rsd.media import read_image
from rsd.metrics import networks as diversity
from rsd.tasks.inverse import results
from rsd.tasks.inverse.packaged import parse, resolved
from tests.tasks import tasked


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


@pytest.fixture
def restore(tiny_folder, tmp_path):
    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--steps", "2", "--particles", "2"]
    fixed += ["--div-features", "pixels"]

    def go(*arguments, out="out"):
        return main(["restore", *tasked(arguments), *fixed, "--out", str(tmp_path / out)]), tmp_path / out

    return go


@pytest.fixture
def networks_at_hand(monkeypatch):
    """Replace LPIPS by the mean absolute difference and CLIP by the mean intensity; record the requested models."""
    asked, clamped = [], lambda x: x.clamp(-1, 1)
    monkeypatch.setattr(results, "SMALLEST", 0)
    monkeypatch.setattr(
        metrics,
        "load_lpips",
        lambda **k: asked.append("lpips") or (lambda x, y: (clamped(x) - y).abs().mean((1, 2, 3))),
    )
    monkeypatch.setattr(
        metrics,
        "load_clip_score",
        lambda name, **k: asked.append(name) or (lambda x, prompt: clamped(x).mean((1, 2, 3))),
    )
    return asked


def read(path):
    return json.loads(path.read_text())


def pictures(folder):
    return torch.cat([read_image(p) for p in sorted((folder / "particles").glob("*.png"))])


def test_lpips_and_clip_are_reported_for_each_image(restore, photos, networks_at_hand):
    code, out = restore(photos / "0.png", "--clean", "--prompt", "red", "--metrics", "lpips", "clip")
    assert code == 0 and networks_at_hand == ["lpips", "openai/clip-vit-large-patch14"]
    found, x = read(out / "metrics.json"), pictures(out)
    far = (x - read_image(photos / "0.png")).abs().mean((1, 2, 3))
    assert found["lpips"] == pytest.approx(
        {"mean": float(far.mean()), "best": float(far.min()), "std": float(far.std(correction=0))}, abs=0.005
    )
    scores = 100 * x.mean((1, 2, 3)).clamp(min=0)
    assert found["clip"].pop("model") == "openai/clip-vit-large-patch14"
    assert found["clip"]["mean"] == pytest.approx(float(scores.mean()), abs=0.5)
    assert found["clip"]["best"] == pytest.approx(float(scores.max()), abs=0.5)
    assert not {"lpips", "clip"} & set(found["reasons"])


def test_what_cannot_be_compared_is_null_and_its_network_is_not_loaded(restore, photos, networks_at_hand, capsys):
    code, out = restore(photos / "0.png", "--metrics", "lpips", "clip", "fid", "--sigma-v", "0")
    found = read(out / "metrics.json")
    assert code == 0 and networks_at_hand == [] and found["lpips"] is found["clip"] is None
    assert "--clean" in found["reasons"]["lpips"] and "--prompt" in found["reasons"]["clip"]
    assert "fid will be null" in capsys.readouterr().out
    _, out = restore(photos / "0.png", "--clean", out="plain")
    assert "not requested" in read(out / "metrics.json")["reasons"]["lpips"]


def test_the_distance_of_all_particles_to_all_images(restore, photos):
    code, out = restore(photos, "--clean", "--metrics", "fid")
    assert code == 0
    summary = read(out / "summary.json")
    answers = torch.cat([pictures(out / f"{k}.png") for k in range(2)]).flatten(1)
    truths = torch.cat([read_image(photos / f"{k}.png") for k in range(2)]).flatten(1)
    assert summary["fid"] == {
        "value": pytest.approx(metrics.frechet(answers, truths)),
        "kid": pytest.approx(metrics.kernel_distance(answers, truths)),
        "features": "pixels", "images": 2, "particles": 4,
    }  # fmt: skip
    assert summary["fid"]["value"] > 1 and summary["reasons"] == {}
    assert "lpips_mean" not in summary["images"][0]


def test_the_distance_is_null_with_its_reason(restore, photos):
    _, out = restore(photos)
    assert read(out / "summary.json")["fid"] is None
    assert "not requested" in read(out / "summary.json")["reasons"]["fid"]
    (photos / "1.png").unlink()
    _, out = restore(photos, "--clean", "--metrics", "fid", out="one")
    assert "2 restored images" in read(out / "summary.json")["reasons"]["fid"]


def test_fid_features_are_named_and_scored_by_their_own_network(restore, photos, tiny_vit):
    code, out = restore(photos, "--clean", "--metrics", "fid", "--fid-features", tiny_vit)
    assert code == 0 and read(out / "summary.json")["fid"]["features"] == str(tiny_vit)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--metrics", "lpips"], "rsd[lpips]"),
        (["--metrics", "clip", "--prompt", "red"], "go online once"),
        (["--metrics", "clip", "--prompt", "red", "--clip-model", "clip"], 'Unknown CLIP model "clip"'),
        (["--metrics", "fid", "--fid-features", "inception"], 'Unknown feature map "inception"'),
        (["--metrics", "lpisp"], "lpisp"),
    ],
)
def test_an_unavailable_metric_is_reported_before_anything_is_restored(
    restore, photos, flags, expected, monkeypatch, capsys
):
    import sys

    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setattr(results, "SMALLEST", 0)
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    try:
        code, out = restore(photos, "--clean", *flags)
    except SystemExit as stopped:
        code, out = stopped.code, photos.parent / "out"
    captured = capsys.readouterr()
    assert code == 2 and expected in captured.err + captured.out and not out.exists()


def test_images_too_small_for_lpips_are_reported_first(restore, photos, monkeypatch, capsys):
    monkeypatch.setattr(metrics, "load_lpips", lambda **k: lambda x, y: pytest.fail("it was measured"))
    code, out = restore(photos / "0.png", "--clean", "--metrics", "lpips")
    assert code == 2 and not out.exists() and "16 px" in capsys.readouterr().err


def test_a_finished_run_is_measured_when_resumed_with_metrics(restore, photos, networks_at_hand, monkeypatch):
    _, out = restore(photos, "--clean", "--prompt", "red")
    before = read(out / "0.png" / "metrics.json")
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    asked = ["--clean", "--prompt", "red", "--resume", "--metrics", "lpips", "clip", "fid"]
    assert restore(photos, *asked)[0] == 0
    after = read(out / "0.png" / "metrics.json")
    far = (pictures(out / "0.png") - read_image(photos / "0.png")).abs().mean((1, 2, 3))
    assert after["lpips"]["mean"] == pytest.approx(float(far.mean()))
    assert {k: after[k] for k in ("psnr", "div", "seconds")} == {k: before[k] for k in ("psnr", "div", "seconds")}
    assert not {"lpips", "clip"} & set(after["reasons"]) and "coverage" in after["reasons"]
    summary = read(out / "summary.json")
    assert summary["mean"]["lpips_mean"] > 0 and summary["fid"]["particles"] == 4
    written = (out / "0.png" / "metrics.json").stat().st_mtime_ns
    assert restore(photos, *asked)[0] == 0 and (out / "0.png" / "metrics.json").stat().st_mtime_ns == written
    assert restore(photos, *asked, "--clip-model", "some/other")[0] == 0
    assert read(out / "0.png" / "metrics.json")["clip"]["model"] == "some/other"


def test_an_interrupted_run_may_resume_with_other_metrics(restore, photos, networks_at_hand):
    _, out = restore(photos / "0.png", "--clean")
    (out / "metrics.json").unlink()
    shutil.rmtree(out / "particles")
    assert restore(photos / "0.png", "--clean", "--resume", "--metrics", "lpips")[0] == 0
    assert read(out / "metrics.json")["lpips"]["mean"] > 0


def test_metrics_in_a_yaml_file_do_not_swallow_the_images(photos, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("metrics: [lpips, fid]\n")
    options, _ = parse(tasked([photos, "--config", own]))
    assert options.metrics == ("lpips", "fid") and options.images == (photos,)
    assert parse(tasked([photos, "--config", own, "--metrics", "clip"]))[0].metrics == ("clip",)
    assert not {"metrics", "clip_model", "fid_features"} & set(resolved(options))


@pytest.fixture
def plain_restore(restore, tiny_folder, tmp_path):
    """RLSD repels here, and --div-features is not set."""

    def go(*arguments, out="out"):
        fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--steps", "2", "--particles", "2"]
        return main(
            ["restore", "--method", "rlsd", *fixed, *tasked(arguments), "--out", str(tmp_path / out)]
        ), tmp_path / out

    return go


def test_div_is_not_measured_on_what_the_repulsion_used(plain_restore, photos, tiny_vit, monkeypatch, capsys):
    code, out = plain_restore(photos / "0.png")
    found = read(out / "metrics.json")
    assert code == 0 and found["div"] is found["div_features"] is None and "--div-features" in found["reasons"]["div"]
    monkeypatch.setattr(diversity, "DIV", str(tiny_vit))
    _, out = plain_restore(photos / "0.png", out="two")
    found = read(out / "metrics.json")
    assert found["div_features"] == str(tiny_vit) and found["div"] > 0 and "div" not in found["reasons"]
    assert "says too much" not in capsys.readouterr().err
    plain_restore(photos / "0.png", "--div-features", "pixels", out="three")
    assert "rsd: note: Div is measured with pixels, which the repulsion or --draw used" in capsys.readouterr().err


def test_div_of_different_networks_has_no_mean(plain_restore, photos, tiny_vit):
    (photos / "1.png").rename(photos.parent / "1.png")
    flags = ["--clean", "--resume", "--div-features"]
    assert plain_restore(photos, *flags, "pixels")[0] == 0
    (photos.parent / "1.png").rename(photos / "1.png")
    _, out = plain_restore(photos, *flags[:2])
    file = out / "1.png" / "metrics.json"
    file.write_text(json.dumps({**read(file), "div": 0.5, "div_features": "another"}))
    plain_restore(photos, *flags[:2])
    summary = read(out / "summary.json")
    assert summary["mean"]["div"] is None and "different networks (another, pixels)" in summary["reasons"]["div"]
    before = read(out / "0.png" / "metrics.json")
    assert plain_restore(photos, *flags, "pixels")[0] == 0
    summary = read(out / "summary.json")
    apart = [metrics.diversity(pictures(out / f"{k}.png").flatten(1)) for k in range(2)]
    assert [row["div_features"] for row in summary["images"]] == ["pixels", "pixels"]
    assert summary["images"][1]["div"] == pytest.approx(apart[1]) and "div" not in summary["reasons"]
    assert summary["mean"]["div"] == pytest.approx(sum(apart) / 2, abs=0.01)
    assert read(out / "0.png" / "metrics.json") == before


def test_the_distance_needs_available_features(plain_restore, photos, monkeypatch, capsys):
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    assert plain_restore(photos, "--clean", "--metrics", "fid")[0] == 2
    assert "give --fid-features" in capsys.readouterr().err
