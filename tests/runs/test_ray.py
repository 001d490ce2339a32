"""Runs on a Ray cluster give the results of one process, also if a worker is killed in the middle."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from rsd.cli import main
from rsd.runs import cluster
from rsd.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
NAMES = ("a.png", "b.png", "c.png", "d.png")
STEPS, EVERY = 24, 3
TIMES = ("seconds", "peak_bytes")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Write four pictures to photos/ in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def flags(tiny_folder):
    given = ["--clean", "--prior", tiny_folder("epsilon"), "--features", "pixels", "--div-features", "pixels"]
    return [str(one) for one in (*given, "-n", "2", "--gamma", "5", "--device", "cpu")]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Start a Ray cluster of two workers with another working folder than the command."""
    ray = pytest.importorskip("ray")
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    finally:
        os.chdir(before)
    yield
    ray.shutdown()


class Killer(threading.Thread):
    """Kill the first worker that has saved a checkpoint and has not finished. ``killed``: its run, its process id, and
    the steps in its log and its checkpoint at that time."""

    def __init__(self, out: Path):
        super().__init__(daemon=True)
        self.out, self.killed, self.ended = out, None, threading.Event()

    def run(self) -> None:
        while not (self.killed or self.ended.is_set()):
            for checkpoint in self.out.glob("*/checkpoint.safetensors"):
                self.killed = self.killed or self.kill(checkpoint.parent)
            time.sleep(0.005)

    def kill(self, run: Path):
        try:
            number = json.loads((run / ".lock").read_text())["pid"]
            os.kill(number, signal.SIGSTOP)  # so that no clock decides whether it is in the middle
        except (OSError, ValueError):
            return None
        steps = len((run / "steps.jsonl").read_text().splitlines())
        if (run / "metrics.json").exists() or steps >= STEPS:
            os.kill(number, signal.SIGCONT)
            return None
        os.kill(number, signal.SIGKILL)
        return run.name, number, steps


def without_times(value):
    """Return JSON without the values that differ between any two runs."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def made(out: Path) -> dict[str, object]:
    """Return what a command wrote: JSON without times, and the bytes of all other files except summary.csv."""
    files = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file() and p.name != "summary.csv"}
    plain = {n: p for n, p in files.items() if p.name in ("summary.json", "metrics.json")}
    found = {n: without_times(json.loads(p.read_text())) for n, p in plain.items()}
    left_out = ("provenance.json", "checkpoint.safetensors")  # hold the time of day, and the times again
    return found | {n: p.read_bytes() for n, p in files.items() if n not in plain and p.name not in left_out}


@pytest.mark.ray
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(photos, flags, workers, capfd):
    page = (ROOT / "docs" / "scale.md").read_text()
    (command,) = re.findall(r"^    rsd (restore .*--engine ray)$", page, re.MULTILINE)
    on_ray = [*shlex.split(command), *flags, "--steps", str(STEPS), "--checkpoint-every", str(EVERY)]
    out = Path(on_ray[on_ray.index("--out") + 1])
    killer = Killer(out.resolve())
    killer.start()
    try:
        assert main(on_ray) == 0
    finally:
        killer.ended.set()
        killer.join()
    name, number, steps = killer.killed
    assert name in NAMES and EVERY <= steps < STEPS and not Path(f"/proc/{number}").exists()
    for one in NAMES:
        rows = [json.loads(line)["step"] for line in (out / one / "steps.jsonl").read_text().splitlines()]
        assert rows == list(range(STEPS))
    assert not list(out.rglob(".lock"))
    said = capfd.readouterr().out
    assert "Ray distributes 4 images, 1 CPU each" in said and "4 done, 0 failed" in said
    summary = json.loads((out / "summary.json").read_text())
    assert [row["image"] for row in summary["images"]] == list(NAMES) and summary["failed"] == {}

    locally = ["local" if one == "ray" else "here" if one == str(out) else one for one in on_ray]
    assert main(locally) == 0
    assert "Ray" not in capfd.readouterr().out
    there, here = made(out), made(Path("here"))
    assert there.keys() == here.keys() and len([n for n in here if "/particles/" in n]) == 8
    assert [n for n in here if there[n] != here[n]] == []  # config.yaml and the calls of the networks among them


@pytest.mark.ray
def test_one_that_fails_leaves_the_others_and_resume_does_what_is_left(photos, flags, workers, capfd):
    (photos / "b.png").write_bytes(b"no picture")
    command = ["restore", "photos", "--task", "sr2", "--out", "out", "--engine", "ray", *flags, "--steps", "2"]
    assert main(command) == 1
    assert "failed: photos/b.png is not a picture" in capfd.readouterr().err.replace("\n", " ")
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes())
    before = {name: (Path("out") / name / "metrics.json").stat().st_mtime_ns for name in ("a.png", "c.png", "d.png")}
    assert main([*command, "--resume"]) == 0
    said = capfd.readouterr().out
    assert "Ray distributes 1 images" in said and "4 done, 0 failed" in said
    assert said.count("already done in") == 3
    assert before == {name: (Path("out") / name / "metrics.json").stat().st_mtime_ns for name in before}


@pytest.mark.ray
def test_ctrl_c_lets_workers_save_checkpoints(photos, flags, workers, capfd):
    ended = threading.Event()

    def press() -> None:
        while not any(len(log.read_text().splitlines()) > 1 for log in Path("out").glob("*/steps.jsonl")):
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    command = ["restore", "photos", "--task", "sr2", "--out", "out", "--engine", "ray", *flags, "--steps", "900"]
    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        assert main([*command, "--checkpoint-every", "1000"]) == 130
    finally:  # a command that ends by itself must not be followed by Ctrl-C in another test
        ended.set()
        pressing.join()
    assert "what was done is kept, continue with --resume" in capfd.readouterr().err
    begun = [log.parent for log in Path("out").glob("*/steps.jsonl")]
    assert begun and not list(Path("out").glob("*/metrics.json"))
    for run in begun:
        saved = RunFolder(run.resolve(), resume=True).load_checkpoint()
        assert saved is not None and saved[1]["step"] == len((run / "steps.jsonl").read_text().splitlines())


@pytest.mark.ray
def test_without_a_cluster_one_is_started_and_ends(tiny_folder, tmp_path):
    pytest.importorskip("ray")
    flags = ["--prior", tiny_folder("epsilon"), "--features", "pixels", "--div-features", "pixels", "-n", "1"]
    command = ["text-to-image", "red red", "re re", *flags, "--steps", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    for engine in ("ray", "local"):
        whole = [sys.executable, "-m", "rsd", *map(str, command), "--engine", engine, "--out", engine]
        done = subprocess.run(whole, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
        assert done.returncode == 0, done.stderr
    there, here = made(tmp_path / "ray"), made(tmp_path / "local")
    assert there.keys() == here.keys() and [n for n in here if there[n] != here[n]] == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["photos/a.png"], "--engine ray requires several images, but there is one; leave it out"),
        (["photos", "--shard", "0/2"], "--engine ray does not go with --shard 0/2: Ray distributes all images itself"),
        (["photos", "--device", "cuda:1"], "--engine ray does not go with --device cuda:1: Ray picks the GPUs"),
    ],
)
def test_what_does_not_go_with_ray(photos, flags, given, why, capsys):
    assert main(["restore", "--task", "sr2", "--engine", "ray", *flags, *given]) == 2
    assert why in capsys.readouterr().err
    assert [p.name for p in Path().iterdir()] == ["photos"]


def test_a_launcher_and_a_missing_ray_are_reported(photos, flags, capsys, monkeypatch):
    command = ["restore", "photos", "--task", "sr2", "--engine", "ray", *flags]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else find(name, *a))
    assert main(command) == 2
    assert "--engine ray needs Ray: pip install '.[ray]'." in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 2
    assert "does not go with a launcher, which has started 2 processes" in capsys.readouterr().err


def test_what_a_run_takes():
    has = {"CPU": 4.0, "GPU": 2.0}
    assert [cluster.gpus_each(device, has, 4) for device in ("auto", "cuda", "cpu", "mps")] == [1, 1, 0, 0]
    assert cluster.gpus_each("auto", {"CPU": 4.0}, 1) == 0
    with pytest.raises(ValueError, match="the Ray cluster has no GPU; use --device cpu"):
        cluster.gpus_each("cuda", {"CPU": 4.0}, 1)
    with pytest.raises(ValueError, match="OMP_NUM_THREADS is 5, the CPUs per run, but the Ray cluster has 4;"):
        cluster.gpus_each("cpu", has, 5)
