"""Several processes (gloo) give the results of one process, and their communication is counted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsd.distributed import ALONE, Ensemble, Processes, describe_shares, share
from rsd.media import read_image
from tests.ensembles import CASES, N, run_apart

HALF = ("--task", "inpaint_half_face")

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment() -> dict[str, str]:
    """Return the environment of processes that meet on this machine."""
    return {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launch(ranks: int, *command: object) -> subprocess.CompletedProcess[str]:
    """``torchrun --module COMMAND`` on this machine."""
    flags = ["--nproc-per-node", ranks, "--master-addr", "127.0.0.1", "--master-port", free_port(), "--module"]
    words = (sys.executable, "-m", "torch.distributed.run", *map(str, flags), *map(str, command))
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=900)


@pytest.fixture
def forked(tmp_path):
    """``forked(RANKS, COMMAND)``: run a command of ``tests.ensembles`` in several processes. All of them are forked
    from this one, since it takes seconds to import everything."""

    def run(ranks: int, *command: object) -> subprocess.CompletedProcess[str]:
        words, port = list(map(str, command)), free_port()
        output = [tmp_path / f"{port}.{name}" for name in ("out", "err")]
        code = run_apart(ranks, port, words, output, environment())
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in output))

    return run


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_find_what_one_finds(forked, tiny_folder, tmp_path, ranks):
    out, model = tmp_path / "result", tiny_folder("epsilon")
    done = forked(ranks, "found", out, model)
    assert done.returncode == 0, done.stderr
    found = [torch.load(f"{out}.{rank}") for rank in range(ranks)]
    for name, case in CASES.items():
        alone = case(Ensemble.of(N), model)
        for one in found:
            for what, value in alone.items():
                torch.testing.assert_close(
                    one[name][what], value, rtol=2e-3, atol=2e-4, msg=f"{name}, {what}: {{}}".format
                )
        if alone.get("z") is not None:  # in float64; the records' norms are in float32
            torch.testing.assert_close(found[0][name]["z"], alone["z"], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[0][name]["records"], alone["records"], rtol=1e-6, atol=1e-6)
    for one in found:  # what travels are features and a few numbers
        pixels, steps, numbers = 3 * 16 * 16, 3, 5
        assert one["restored"]["bytes"] == {
            "features": steps * N * pixels * 4,
            "sums": ((steps - 1) * numbers + numbers - 1) * 2 * 8,  # a mean and its weight each; no data loss at first
            "pictures": N * pixels * 4,  # the result, once
        }
        assert one["hybrid"]["bytes"]["features"] == 10 * 2 * 4 * 8  # only of those that interact, in float64


def test_shares():
    three = [Ensemble.of(5, Processes(rank, 3)) for rank in range(3)]
    assert [e.mine for e in three] == [[0], [1, 2], [3, 4]] and {e.total for e in three} == {5}
    rows, places = three[1].among(torch.tensor([4, 2, 0, 1]))
    assert (rows.tolist(), places.tolist()) == ([1, 0], [1, 3])
    with pytest.raises(ValueError, match="3 processes cannot share 2 particles; start at most 2"):
        Ensemble.of(2, Processes(0, 3))
    assert [share("abcdefg", Processes(rank, 3)) for rank in range(3)] == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert (
        describe_shares(Processes(0, 3), "images", 5, several=False) == "3 processes share the 5 particles: 1 + 2 + 2"
    )


def test_alone_nothing_travels():
    alone, x = Ensemble.of(2), torch.ones(2, 3, requires_grad=True)
    assert torch.equal(alone.gather(x), x) and not alone.gather(x).requires_grad
    assert alone.means({"a": (0.1, 2)}) == {"a": 0.1} and ALONE.collect(1) == [1] and not alone.agree(False)
    alone.add([x])
    assert not alone.bytes


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_process_that_dies_ends_the_run_which_can_be_resumed(forked, photo, tiny_folder, tmp_path, capsys):
    from rsd.cli import main

    fixed = ["restore", str(photo), *HALF, "--clean", "--prior", str(tiny_folder("epsilon")), "--features", "pixels"]
    fixed += ["--steps", "6", "-n", "3", "--draw", "5", "--gamma", "5", "--checkpoint-every", "2", "--device", "cpu"]
    fixed += ["--out"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*fixed, str(whole)]) == 0
    killed = forked(2, "killed", *fixed, out)
    assert killed.returncode != 0 and "Continue with the same command and --resume" in killed.stderr
    assert not (out / "metrics.json").exists() and (out / "checkpoint.safetensors").exists()
    capsys.readouterr()
    assert main([*fixed, str(out), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "2 process(es) shared the particles in" in said and "but there are 1 now; start 2 to resume" in said
    done = forked(2, "rsd", *fixed, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prior: ") == 1 and "2 processes share the 5 particles: 2 + 3" in done.stdout
    for k in range(3):
        a, b = (read_image(folder / "particles" / f"{k:02d}.png") for folder in (whole, out))
        assert (a - b).abs().max() <= 2 / 127.5
    assert len((out / "steps.jsonl").read_text().splitlines()) == 6
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, out))
    assert one["network_calls"] == two["network_calls"] and one["selection"]["kept"] == two["selection"]["kept"]
    assert json.loads((out / "provenance.json").read_text())["processes"]["number"] == 2


def test_images_are_shared_out_and_one_that_fails_leaves_the_others(forked, photo, tiny_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "d.png").write_bytes(b"no picture")  # the second process has b and d
    fixed = ["restore", folder, *HALF, "--clean", "--prior", tiny_folder("epsilon"), "--features", "pixels"]
    fixed += ["--device", "cpu"]  # a forked process cannot begin to use CUDA
    done = forked(2, "rsd", *fixed, "--steps", "2", "-n", "1", "--out", tmp_path / "out")
    assert done.returncode == 1 and "d.png is not a picture" in done.stderr.replace("\n", " ")
    assert "2 processes share 4 images" in done.stdout and "3 done, 1 failed" in done.stdout
    assert done.stdout.count("done, 1 failed") == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["image"] for row in summary["images"]] == ["a.png", "b.png", "c.png"]
    assert [Path(name).name for name in summary["failed"]] == ["d.png"]


@pytest.mark.slow
def test_prompts_are_shared_out_and_a_prompt_s_particles_too(tiny_folder, tmp_path):
    from rsd.cli import main

    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--steps", "3", "--gamma", "2"]
    fixed += ["--div-features", "pixels", "--out"]
    assert main(["text-to-image", "red", *fixed, str(tmp_path / "whole"), "-n", "3"]) == 0
    one = launch(2, "rsd", "text-to-image", "red", *fixed, tmp_path / "one", "-n", "3")
    assert one.returncode == 0, one.stderr
    for k in range(3):
        a, b = (read_image(tmp_path / out / "particles" / f"{k:02d}.png") for out in ("whole", "one"))
        assert (a - b).abs().max() <= 2 / 127.5
    several = launch(2, "rsd", "text-to-image", "red red", "re re", "dog", *fixed, tmp_path / "several", "-n", "1")
    assert several.returncode == 0, several.stderr
    assert len(json.loads((tmp_path / "several" / "summary.json").read_text())["prompts"]) == 3
    refused = launch(2, "rsd", "text-to-image", "red", "--method", "svgd", *fixed, tmp_path / "no")
    assert refused.returncode != 0 and "svgd averages the scores of all particles" in refused.stderr


@pytest.mark.slow
def test_a_prompt_s_scenes_are_shared_out_and_prompts_too(tiny_folder, tmp_path):
    from rsd.cli import main

    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--steps", "4", "--checkpoint-every", "2"]
    fixed += ["--encoding", "grid", "--grid", "3", "6", "--samples", "6", "--fine", "0", "--views", "1", "--gamma", "2"]
    fixed += ["--div-features", "pixels", "--turntable", "3", "--mesh-resolution", "12", "--size", "16", "--out"]
    assert main(["text-to-3d", "red", *fixed, str(tmp_path / "whole"), "-n", "3"]) == 0
    one = launch(2, "rsd", "text-to-3d", "red", *fixed, tmp_path / "one", "-n", "3")
    assert one.returncode == 0, one.stderr
    names = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (tmp_path / "whole", tmp_path / "one")]
    assert names[0] == names[1]
    for path in (tmp_path / "whole" / "scenes").rglob("views/*.png"):
        other = tmp_path / "one" / path.relative_to(tmp_path / "whole")
        assert (read_image(path) - read_image(other)).abs().max() <= 2 / 127.5
    several = launch(2, "rsd", "text-to-3d", "red red", "re re", "dog", *fixed, tmp_path / "several", "-n", "1")
    assert several.returncode == 0, several.stderr
    assert len(json.loads((tmp_path / "several" / "summary.json").read_text())["prompts"]) == 3
