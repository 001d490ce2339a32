"""What `rsd text-to-image` and `rsd text-to-3d` have in common, as a user types it, on a tiny random prior at 16 px."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from rsd.cli import main
from rsd.runs import batch
from rsd.runs.folder import RunFolder
from tests.drawing import outputs, run

COMMANDS = ("text-to-image", "text-to-3d")
every_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def go(tiny_folder, tmp_path, small_networks):
    """``go(command, *arguments, out=, steps=)``: return the exit code and the output folder."""

    def start(command, *arguments, out="out", steps=2):
        return run(command, tiny_folder("epsilon"), tmp_path / out, *arguments, steps=steps), tmp_path / out

    return start


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("text-to-image", ("--gamma", "5")),
        ("text-to-image", ("--gamma", "5", "--method", "particle-guidance")),
        pytest.param("text-to-3d", (), marks=pytest.mark.slow),
        ("text-to-3d", ("--method", "vsd", "--views", "2", "--lr-phi", "0.01", "--renderer", "packed")),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(go, command, flags, monkeypatch):
    flags = ("red dog", "--checkpoint-every", "2", *flags)
    _, whole = go(command, *flags, out="whole", steps=4)
    log = RunFolder.log

    def killed(self, row):
        log(self, row)
        if row["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "log", killed)
    code, out = go(command, *flags, out="cut", steps=4)
    assert code == 130 and not (out / "metrics.json").exists()
    if command == "text-to-3d":
        assert Image.open(out / "contact.png").width > 4 * 192  # the preview: four views a scene
    monkeypatch.undo()
    assert go(command, *flags, out="cut", steps=4)[0] == 2  # the folder contains another run
    assert go(command, *flags, "--resume", out="cut", steps=4)[0] == 0
    assert outputs(out) == outputs(whole) and len(outputs(out)) == (4 if command == "text-to-image" else 2 * 15 + 3)
    assert (out / "steps.jsonl").read_text() == (whole / "steps.jsonl").read_text()
    resumed, at_once = (json.loads((folder / "metrics.json").read_text()) for folder in (out, whole))
    assert resumed["div"] == at_once["div"]
    assert resumed["network_calls"]["unet_forward"] == at_once["network_calls"]["unet_forward"]
    if command == "text-to-image":
        assert resumed["network_calls"] == at_once["network_calls"]
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert go(command, *flags, "--resume", "--seed", "9", out="cut", steps=4)[0] == 2
    assert go(command, "red cat", *flags, "--resume", out="cut", steps=4)[0] == 2


@pytest.mark.parametrize(
    ("command", "first", "more"), [("text-to-image", "red dog", ["red pig"]), ("text-to-3d", "red dog, front view", [])]
)
def test_several_prompts_are_one_run_each_and_a_prompt_is_the_same_alone(go, command, first, more, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text(f"# two\n{first}\nred cat\nred dog\n")
    command = (command, "--method", "sds")
    code, out = go(*command, "--prompts", file, out="many")
    assert code == 0 and ('"front view" is left out of the prompt' in capsys.readouterr().err) == (first != "red dog")
    summary = json.loads((out / "summary.json").read_text())
    assert [row["prompt"] for row in summary["prompts"]] == ["red dog", "red cat"] and summary["failed"] == {}
    assert summary["mean"]["div"] == pytest.approx(sum(row["div"] for row in summary["prompts"]) / 2)
    assert (out / "summary.csv").read_text().count("\n") == 3
    _, alone = go(*command, "red cat", out="alone")
    folder = out / summary["prompts"][1]["folder"]
    assert outputs(folder) == outputs(alone) and len(outputs(alone)) >= 4
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert go(*command, "--prompts", file, *more, "--resume", out="many")[0] == 0
    assert (folder / "metrics.json").stat().st_mtime_ns == before and "already done" in capsys.readouterr().out
    assert len(json.loads((out / "summary.json").read_text())["prompts"]) == 2 + len(more)


@pytest.mark.parametrize(("command", "flags"), [("text-to-image", ()), ("text-to-3d", ("--background", "white"))])
def test_a_run_that_diverges_is_an_error(go, command, flags, capsys):
    code, out = go(command, "red dog", "--lr", "1e30", *flags, steps=4)
    assert code == 2 and "diverged" in capsys.readouterr().err and not (out / "metrics.json").exists()


@every_command
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no prompt"),
        ([""], "--allow-empty"),
        (["dog", "--method", "vds"], 'Did you mean "vsd"'),
        (["dog", "--prior", "head"], 'Did you mean "heads"'),
        (["dog", "--features", "pixel"], 'Did you mean "pixels"'),
        (["dog", "--gama", "3"], "--gamma"),
        (["dog", "--particles", "0"], "particles is 0"),
        (["dog", "--lr", "nan"], "lr is nan"),
        (["dog", "--window", "0.5", "0.5"], "window"),
        (["dog", "--gamma", "nan"], "gamma is nan; give a finite number (below 0 attracts)."),
        (["prompts.txt"], "The prompt prompts.txt is a file; use --prompts prompts.txt to read prompts from it."),
        (["dog", "--config", "bad.yaml"], 'bad.yaml: unknown field "gama". Did you mean "gamma"?'),
        (["dog", "--prompts", "nowhere.txt"], "nowhere.txt does not exist"),
        (["dog", "--prompts", "empty.txt"], "empty.txt contains no prompt"),
        (["dog", "--out", "full"], "contains other files"),
        (["a dog", "cat", "--out", "full"], "contains other files"),
        (["dog", "--device", "gpu"], "Unknown device"),
        (["dog", "--device", "mps"], "Device mps cannot be used here; use --device cpu"),
        (["dog", "--device", "meta"], "Device meta cannot be used here"),
        (["dog", "--device", "cuda:7"], "use --device cpu or see `rsd doctor`"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_before_any_model_is_loaded(refused, command, flags, message):
    refused(command, flags, message)


@every_command
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--prior", "owner/absent", "--features", "owner/no-map"],
            'The prior "owner/absent" is not in the local cache',
        ),
        (["--features", "owner/no-map"], 'The feature map "owner/no-map" is not in the local cache'),
        (["--features", "nowhere:f"], 'The feature map "nowhere:f" cannot be imported'),
        (["--div-features", "nowhere:f"], 'The feature map "nowhere:f" cannot be imported'),
    ],
)
def test_what_is_missing_is_reported_before_the_prior_is_loaded_and_the_prior_first(
    tmp_path, command, flags, message, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    assert main([command, "a man", "--gamma", "1", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_help_and_mistakes_come_without_loading_torch():
    code = (
        "import sys; from rsd.tasks.text_to_image.packaged import parse; parse(['x']); "
        "from rsd.tasks.text_to_3d.packaged import parse; parse(['x']); "
        "import rsd.tasks.text_to_image.sweep; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
