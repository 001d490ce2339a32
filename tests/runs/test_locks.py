"""Only one process works in a run folder: a second one fails with the holder, and a killed one locks nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from rsd.cli import main
from rsd.runs import folder as runs
from rsd.runs.folder import LOCK, RunFolder, check_folder_of_runs, check_own, lock_holder, locked

SETTINGS = {"seed": 0}
HOLD = "import sys; from pathlib import Path; from rsd.runs.folder import locked\nwith locked(Path(sys.argv[1])):\n"
HOLD += "    print('here', flush=True); sys.stdin.read()"
ROOT = Path(__file__).parents[2]


@contextmanager
def another(path: Path):
    """Start another process that works in a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def told(process: int) -> str:
    return rf"process {process} on \S+ has used it since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait until"


def test_a_lock_says_who_works_there_and_is_gone_afterwards(tmp_path):
    with locked(tmp_path / "a" / "b"):
        about = json.loads((tmp_path / "a" / "b" / LOCK).read_text())
        assert about["pid"] == os.getpid() and set(about) == {"pid", "host", "since"}
        with locked(tmp_path / "a" / "b"):  # this process has it already
            RunFolder(tmp_path / "a" / "b").open(SETTINGS)
        assert (tmp_path / "a" / "b" / LOCK).exists() and lock_holder(tmp_path / "a" / "b") is None
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["config.yaml"]


def test_a_folder_in_which_nothing_was_written_is_gone_afterwards(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_reported_who_works_there_until_that_is_killed(tmp_path):
    RunFolder(tmp_path).open(SETTINGS)
    with another(tmp_path) as process:
        with pytest.raises(ValueError, match=f"The output folder .* is in use: {told(process.pid)}"), locked(tmp_path):
            pass
        with pytest.raises(ValueError, match=told(process.pid)):  # --resume would be no remedy
            RunFolder(tmp_path)
        assert lock_holder(tmp_path) and RunFolder(tmp_path, resume=True)
        process.kill()
        process.wait()
        assert (tmp_path / LOCK).exists() and lock_holder(tmp_path) is None
        with pytest.raises(ValueError, match="contains another run; choose another --out, or continue with --resume"):
            RunFolder(tmp_path)
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_what_a_killed_process_leaves_is_no_foreign_file(tmp_path):
    (tmp_path / LOCK).write_text("half a")
    RunFolder(tmp_path)
    check_folder_of_runs(tmp_path, resume=False)
    check_own(tmp_path, ["toy.json"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    check_folder_of_runs(tmp_path, resume=False)
    with locked(tmp_path), locked(tmp_path / "run"):
        RunFolder(tmp_path / "run").open(SETTINGS)
    check_folder_of_runs(tmp_path, resume=True)


def test_a_run_that_another_process_began_meanwhile_is_not_taken_over(tmp_path):
    folder, later = RunFolder(tmp_path), RunFolder(tmp_path)
    folder.open(SETTINGS)
    folder.open(SETTINGS)  # its own
    with pytest.raises(ValueError, match="contains another run"):
        later.open(SETTINGS)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_note_is_all(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    for _ in range(2):
        with pytest.warns(UserWarning, match="file system without locks; make sure that no other"), locked(tmp_path):
            RunFolder(tmp_path, resume=True).open(SETTINGS)
            assert lock_holder(tmp_path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_a_lock_that_is_given_back_at_that_moment_is_taken(tmp_path, monkeypatch):
    """The other process unlinks the file that we have opened, so our lock is not on the folder's file any more."""
    lock, seen = runs._lock, []

    def late(file, **how):
        if not seen:
            seen.append(file)
            (tmp_path / LOCK).unlink()
        return lock(file, **how)

    monkeypatch.setattr(runs, "_lock", late)
    monkeypatch.setattr(runs, "PAUSE", 0)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        monkeypatch.undo()
        with another_cannot(tmp_path) as error:
            assert f"process {os.getpid()} on" in error


@contextmanager
def another_cannot(path: Path):
    """Return the output of another process that tries to work in a folder."""
    done = subprocess.run([sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    yield done.stderr.splitlines()[-1]


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def fixed(tiny_folder, tmp_path):
    flags = ["--prior", tiny_folder("epsilon"), "--div-features", "pixels", "-n", "2", "--out", tmp_path / "out"]
    return [str(flag) for flag in flags]


def start_and_stop(command: list[str]) -> int:
    """Start ``rsd`` in a forked process, which needs no imports, and stop it after its first checkpoint. Return its
    number."""
    process = os.fork()
    if process == 0:
        save = RunFolder.save_checkpoint

        def stop(self, *rest):
            save(self, *rest)
            os.kill(os.getpid(), signal.SIGSTOP)

        RunFolder.save_checkpoint = stop
        try:
            main(command)
        finally:
            os._exit(1)
    return process


def test_two_restorations_in_one_folder_of_which_the_first_is_killed(photo, fixed, tmp_path, capsys, monkeypatch):
    """The first stops itself after a checkpoint, so that no clock decides."""
    out = tmp_path / "out"
    command = ["restore", str(photo), "--clean", "--task", "inpaint_half_face", *fixed, "--features", "pixels"]
    command += ["--steps", "12", "--gamma", "0", "--checkpoint-every", "5"]
    first = start_and_stop(command)
    try:
        assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
        assert (out / "checkpoint.safetensors").exists()
        before = (out / "steps.jsonl").read_text()
        with monkeypatch.context() as patch:
            patch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
            for flags in ([], ["--resume"]):
                assert main([*command, *flags]) == 2
                assert re.search(told(first), capsys.readouterr().err)
        assert (out / "steps.jsonl").read_text() == before
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    assert (out / LOCK).exists()
    assert main([*command, "--resume"]) == 0
    rows = [json.loads(line)["step"] for line in (out / "steps.jsonl").read_text().splitlines()]
    assert rows == list(range(12))
    assert not (out / LOCK).exists()


COMMANDS = {
    "restore": ["restore", "PHOTOS", "--task", "sr2", "--steps", "1"],
    "text-to-image": ["text-to-image", "red dog", "red", "--steps", "1"],
    "text-to-3d": ["text-to-3d", "red dog", "--steps", "1"],
    "sweep": ["sweep", "red dog", "--methods", "sds", "--gammas", "0"],
    "compare": ["compare", "--images", "PHOTOS", "--methods", "latent-dps", "--tasks", "sr2"],
    "toy": ["toy", "--realisations", "2", "--steps", "2"],
    "reproduce": ["reproduce", "fig30", "--steps", "1"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_who_works_in_its_folder_before_it_loads_anything(
    name, photo, fixed, tmp_path, capsys, monkeypatch
):
    (tmp_path / "photos").mkdir()
    photo.rename(tmp_path / "photos" / "photo.png")
    # load_prior itself may have been imported by name; this is what it asks first.
    monkeypatch.setattr("rsd.priors.base.check_dtype", lambda *a, **k: pytest.fail("a model was loaded"))
    with another(tmp_path / "out") as process:
        command = [str(tmp_path / "photos") if part == "PHOTOS" else part for part in COMMANDS[name]]
        flags = fixed[-2:] if name in ("toy", "reproduce") else fixed
        assert main([*command, *flags]) == 2
        assert re.search(f"rsd: The output folder .*out is in use: {told(process.pid)}", capsys.readouterr().err)
        assert [p.name for p in (tmp_path / "out").iterdir()] == [LOCK]


def test_of_several_one_that_another_process_works_on_fails_alone_and_shards_share_a_folder(
    photo, fixed, tmp_path, capsys
):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(photo.read_bytes())
    command = ["restore", str(folder), "--clean", "--task", "sr2", *fixed, "--features", "pixels", "--steps", "2"]
    with another(out / "c.png") as process:  # say another shard
        assert main([*command, "--shard", "0/2"]) == 1
    said = capsys.readouterr()
    assert re.search(rf"failed: .*c\.png: The output folder .*c\.png is in use: {told(process.pid)}", said.err)
    assert "shard 0/2: 1 of 2 images done, 1 failed" in said.out
    assert (out / "a.png" / "metrics.json").exists() and not (out / "b.png").exists()
    assert main([*command, "--resume"]) == 0
    assert {p.name for p in out.iterdir()} == {"a.png", "b.png", "c.png", "summary.json", "summary.csv"}
    assert not list(out.rglob(LOCK))
