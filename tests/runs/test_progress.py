"""Progress lines: when they are printed, and their estimates."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from rsd.runs import progress
from rsd.runs.progress import Progress, format_duration


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(seconds: list[float], **about) -> tuple[Clock, Progress]:
    clock = Clock()
    lines = Progress(about.pop("total", len(seconds)), "photo.png: step", clock=clock, **about)
    for spent in seconds:
        clock.now += spent
        lines.tick("residual 0.5")
    return clock, lines


def test_an_estimate_comes_after_three_steps_and_leaves_out_the_first(capsys):
    run([5.0, 2, 2], total=100)  # the first is slow
    assert capsys.readouterr().out == "photo.png: step 3 of 100, residual 0.5, 9 s so far, about 3 min 14 s left\n"


def test_slow_steps_are_reported_after_the_first(capsys):
    run([10.0], total=7)
    assert capsys.readouterr().out == "photo.png: step 1 of 7, residual 0.5, 10 s so far, about 1 min left\n"


def test_then_a_line_at_least_every_30_seconds_and_none_after_the_last(capsys):
    run([7.0] * 20)
    lines = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[2]) for line in lines]
    assert steps == [2, 6, 10, 14, 18]  # 14 s > 10 s, then every 28 s: the next would be 35 s later
    assert lines[-1] == "photo.png: step 18 of 20, residual 0.5, 2 min 6 s so far, about 14 s left"
    run([50.0] * 4)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_quick_steps_have_one_line(capsys):
    run([0.01] * 100)
    assert capsys.readouterr().out == "photo.png: step 3 of 100, residual 0.5, 0 s so far, about 1 s left\n"


@pytest.mark.parametrize(("steps", "told"), [(1, []), (2, [1]), (3, [2]), (4, [3])])
def test_few_steps(steps, told, capsys):
    run([1.0] * steps)
    assert [int(line.split()[2]) for line in capsys.readouterr().out.splitlines()] == told


def test_what_was_done_before_does_not_count_for_the_time(capsys):
    run([4.0, 1, 1], total=90, done=50)
    assert capsys.readouterr().out == "photo.png: step 53 of 90, residual 0.5, 6 s so far, about 37 s left\n"


def test_times_for_people():
    told = [format_duration(s) for s in (0.4, 59.4, 59.6, 61, 600, 3599, 3600, 3900, 90000)]
    assert told == ["0 s", "59 s", "1 min", "1 min 1 s", "10 min", "59 min", "1 h", "1 h 5 min", "25 h"]


@pytest.fixture
def ticking(monkeypatch):
    """A clock that advances by a second at each call, for all progress lines; other code sees the system's clock."""
    clock = Clock()

    def tick():
        clock.now += 1
        return clock.now

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=tick))


FIXED = ["--div-features", "pixels", "-n", "2", "--prior"]


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.parametrize("method", ["rlsd", "latent-dps"])
def test_restorations_print_their_steps_and_images(method, photos, tiny_folder, tmp_path, ticking, capsys):
    from rsd.cli import main

    gamma = ["--gamma", "0"] if method == "rlsd" else []
    flags = ["--task", "sr2", "--clean", "--method", method, "--steps", "5", *gamma]
    flags += ["--out", str(tmp_path / "out")]
    assert main(["restore", str(photos), *flags, *FIXED, str(tiny_folder("epsilon"))]) == 0
    said = capsys.readouterr().out
    for name in ("a.png", "b.png"):
        line = (
            rf"\n{name}: step 3 of 5, \w+ [\d.e+-]+, residual [\d.e+-]+, repulsion ratio 0.00, "
            r"3 s so far, about 2 s left\n"
        )
        assert re.search(line, said)
    # the images' own clock: a second each for their start, and for what the steps of the first have asked
    assert "\nimages: 1 of 2, 7 s so far, about 7 s left\n" in said
    assert said.count("\nimages: ") == 1


@pytest.mark.parametrize("method", ["sds", "ancestral"])
def test_prompts_print_their_steps(method, tiny_folder, tmp_path, ticking, capsys):
    from rsd.cli import main

    flags = ["--method", method, "--steps", "5", "--out", str(tmp_path / "out")]
    assert main(["text-to-image", "a red", "a dog", *flags, *FIXED, str(tiny_folder("epsilon"))]) == 0
    said = capsys.readouterr().out
    assert "\na red: step 3 of 5, " in said and "\na dog: step 3 of 5, " in said and "\nprompts: 1 of 2, " in said


def test_a_terminal_has_its_bar_and_no_lines(photos, tiny_folder, tmp_path, ticking, capsys, monkeypatch):
    from rsd.cli import main

    monkeypatch.setattr("rsd.runs.session.output_redirected", lambda: False)
    flags = ["--task", "sr2", "--clean", "--steps", "5", "--gamma", "0", "--out", str(tmp_path / "out")]
    assert main(["restore", str(photos / "a.png"), *flags, *FIXED, str(tiny_folder("epsilon"))]) == 0
    assert "step 3 of 5" not in capsys.readouterr().out
