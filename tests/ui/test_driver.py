"""The driver of rsd ui without a page: requests, the queue, progress, cancelling and resuming."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
import torch
import yaml
from PIL import Image

from rsd.engine import Record
from rsd.runs.batch import run_all
from rsd.runs.folder import RunFolder
from rsd.runs.run import Run
from rsd.runs.session import Session, listening
from rsd.tasks.ui.driver import LONGEST, Driver, can_continue
from rsd.tasks.ui.request import Request, continued

PROMPT = "a man with a beard"


class Counting(Run):
    """A run whose particles are the number of steps done."""

    def __init__(self, steps: int, gate=None):
        self.prior = type("Prior", (), {"calls": Counter(), "device": torch.device("cpu")})()
        self.total, self.gate, self.value = steps, gate, 0.0
        self.particles = self

    def images(self):
        return torch.full((2, 3, 8, 8), self.value)

    def state(self):
        return {"step": self.step, "value": torch.tensor(self.value)}

    def load_state(self, state):
        self.step, self.value = int(state["step"]), float(state["value"])

    def steps(self):
        for step in range(self.step, self.total):
            if self.gate:
                self.gate(step)
            self.value += 0.125
            self.step = step + 1
            yield Record(step, 0, {"fit": 1.0}, residual=0.5, repulsion=0.1, ratio=0.2, bandwidth=None, distance=None)


class Runner:
    """Runs requests by :class:`Counting`. ``gates``: what each step of a run waits for, by the prompt."""

    def __init__(self):
        self.gates, self.ran = {}, []

    def __call__(self, request: Request):
        options = request.head().options
        self.ran.append(request.inputs[0])
        run = Counting(options.steps, self.gates.get(request.inputs[0]))
        folder = RunFolder(options.out, resume=options.resume)
        folder.open({"prompt": request.inputs[0], "steps": options.steps, "seed": options.seed}, later=())
        session = Session(run, folder, run.prior)
        session.drive(steps=options.steps, name="run", checkpoint_every=100, remedy="wait")
        folder.finish({"value": run.value})


class Gate:
    """A step that waits: ``at`` it sets ``reached`` and waits for ``go``."""

    def __init__(self, at: int):
        self.at, self.reached, self.go = at, threading.Event(), threading.Event()

    def __call__(self, step: int):
        if step == self.at:
            self.reached.set()
            assert self.go.wait(60)


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def driver(tmp_path, runner):
    driver = Driver(tmp_path / "runs", run=runner)
    yield driver
    driver.close(20)


def request(prompt: str = PROMPT, **settings) -> Request:
    return Request("text-to-image", (prompt,), {"steps": 4, **settings})


def test_a_request_is_the_line_that_the_command_line_takes():
    one = request(gamma=2.0, method=None, negative_prompt="-a hat")
    assert one.argv == [PROMPT, "--steps", "4", "--gamma", "2.0", "--negative-prompt=-a hat"]
    assert one.shell() == f'rsd text-to-image "{PROMPT}" --steps 4 --gamma 2.0 "--negative-prompt=-a hat"'
    options, name = one.options()
    assert (options.steps, options.gamma, options.negative_prompt) == (4, 2.0, "-a hat")
    assert name == "heads.yaml: vsd"
    assert one.python() == (
        f"import rsd\n\nresult = rsd.text_to_image('{PROMPT}', steps=4, gamma=2.0, negative_prompt='-a hat')"
    )
    dashed = Request("text-to-image", ("-a degree",), {"steps": 4})
    assert dashed.argv == ["--steps", "4", "--", "-a degree"] and dashed.head().options.prompt == ("-a degree",)


def test_a_restoration_is_requested_with_its_picture(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    one = Request("restore", (str(tmp_path / "a.png"),), {"task": "sr4", "keep_known": True, "clean": True})
    assert one.argv[1:] == ["--task", "sr4", "--keep-known", "--clean"]
    with pytest.raises(ValueError, match="--keep-known goes with the inpaint tasks, but the task is sr4"):
        one.head()
    one = one.with_settings(keep_known=None)
    assert one.head().options.task == "sr4"
    assert "main(['restore', '" in one.python()
    compile(one.python(), "call", "exec")


def test_a_run_reports_its_steps_and_the_time_left(driver, runner, tmp_path):
    now = iter([10.0, 12.0, 14.0, 16.0])
    driver.clock = lambda: next(now)
    gate = runner.gates[PROMPT] = Gate(3)
    job = driver.submit(request())
    assert gate.reached.wait(60)
    assert (job.state, job.step, job.steps, job.left) == ("running", 3, 4, 2.0)
    assert (job.folder / "preview.png").exists()
    gate.go.set()
    assert driver.wait(job, 60)
    assert (job.state, job.step, job.error, job.left) == ("done", 4, "", None)
    assert job.folder == (tmp_path / "runs" / "text-to-image" / job.folder.name)
    assert json.loads((job.folder / "metrics.json").read_text()) == {"value": 0.5}


def test_one_run_at_a_time_and_the_others_see_their_place(driver, runner):
    gate = runner.gates[PROMPT] = Gate(0)
    first, second, third = (driver.submit(request(prompt)) for prompt in (PROMPT, "a woman", "a man"))
    assert gate.reached.wait(60)
    assert [driver.place(job) for job in (first, second, third)] == [0, 1, 2]
    driver.cancel(second)
    assert second.state == "stopped" and driver.place(third) == 1
    assert driver.latest("text-to-image") is third and driver.latest("restore") is None
    gate.go.set()
    assert driver.wait(third, 20) and third.state == "done"
    assert runner.ran == [PROMPT, "a man"]


def test_a_cancelled_run_keeps_its_checkpoint_and_goes_on(driver, runner):
    gate = runner.gates[PROMPT] = Gate(1)
    job = driver.submit(request())
    assert gate.reached.wait(60)
    driver.cancel(job)
    assert job.state == "stopping"
    gate.go.set()
    assert driver.wait(job, 60)
    assert (job.state, job.step) == ("stopped", 2)  # the current step is finished
    assert (job.folder / "checkpoint.safetensors").exists() and can_continue(job.folder)
    del runner.gates[PROMPT]
    # config.yaml of these runs is not a real one, so the flags of the resumed run are given here
    config = yaml.safe_load((job.folder / "config.yaml").read_text())
    assert config["prompt"] == PROMPT
    again = driver.resume(job.folder)
    assert again.request.settings["resume"] and driver.job(job.folder) is again
    assert driver.wait(again, 20)
    assert (again.state, again.error) == ("done", "")
    rows = [json.loads(line)["step"] for line in (job.folder / "steps.jsonl").read_text().splitlines()]
    assert rows == [0, 1, 2, 3]
    assert json.loads((job.folder / "metrics.json").read_text()) == {"value": 0.5}
    with pytest.raises(ValueError, match="is finished; start a new run"):
        driver.resume(job.folder)


def test_mistakes_are_the_command_lines_sentences(driver, runner, tmp_path):
    with pytest.raises(ValueError, match=r"^steps is 0; give 1 or more\.$"):
        driver.submit(request(steps=0))
    with pytest.raises(FileNotFoundError, match="none.png does not exist; check the path"):
        driver.submit(Request("restore", (str(tmp_path / "none.png"),), {"task": "sr4"}))
    assert driver.jobs == []

    def fail(step):
        raise ValueError("The disk is full; delete something.")

    runner.gates[PROMPT] = fail
    job = driver.submit(request())
    assert driver.wait(job, 60) and (job.state, job.error) == ("failed", "The disk is full; delete something.")
    later = driver.submit(request("a woman"))
    assert driver.wait(later, 20) and later.state == "done"  # the thread goes on


def test_equal_requests_have_folders_of_their_own(driver):
    first, second = driver.submit(request()), driver.submit(request())
    assert second.folder.name == f"{first.folder.name}-2"
    assert driver.wait(second, 20)


def test_only_folders_of_runs_are_opened(driver, tmp_path):
    (tmp_path / "other").mkdir()
    for folder in ("..", "../other", tmp_path / "other", "/etc", "."):
        with pytest.raises(ValueError, match="is not in the folder of runs"):
            driver.resume(folder)


def test_the_queue_is_limited(driver, runner):
    gate = runner.gates[PROMPT] = Gate(0)
    driver.submit(request())
    assert gate.reached.wait(60)
    for _ in range(LONGEST):
        driver.submit(request("a man"))
    with pytest.raises(ValueError, match="32 runs wait already"):
        driver.submit(request("a man"))
    for job in driver.jobs:
        driver.cancel(job)
    gate.go.set()


def test_closing_keeps_a_checkpoint(tmp_path, runner):
    driver = Driver(tmp_path / "runs", run=runner)
    gate = runner.gates[PROMPT] = Gate(1)
    job = driver.submit(request())
    assert gate.reached.wait(60)
    ending = threading.Thread(target=driver.close)
    ending.start()
    gate.go.set()
    ending.join(20)
    assert job.state == "stopped" and (job.folder / "checkpoint.safetensors").exists()
    with pytest.raises(ValueError, match="rsd ui is ending"):
        driver.submit(request())


def test_listeners_are_of_the_thread_that_added_them(tmp_path):
    heard = []

    def drive(name):
        run = Counting(3)
        folder = RunFolder(tmp_path / name)
        folder.open({})
        Session(run, folder, run.prior).drive(steps=3, name=name, checkpoint_every=9, remedy="wait")

    with listening(lambda session, record: heard.append((session.folder.path.name, record.step))):
        other = threading.Thread(target=drive, args=("other",))
        other.start()
        other.join()
        drive("own")
    drive("later")
    assert heard == [("own", 0), ("own", 1), ("own", 2)]


def test_a_real_run_is_cancelled_continued_and_equals_an_uninterrupted_one(tmp_path, tiny_folder):
    """Through the runner, on a random model. A run that the command line began goes on too."""
    settings = {
        "prior": str(tiny_folder()), "steps": 3, "particles": 2, "method": "sds", "gamma": 0.0, "features": "pixels",
        "div_features": "pixels", "checkpoint_every": 1,
    }  # fmt: skip
    one = Request("text-to-image", ("re",), settings)
    driver = Driver(tmp_path / "runs", device="cpu")
    whole = driver.submit(one)
    assert driver.wait(whole, 60) and (whole.state, whole.error) == ("done", "")
    steps = []

    def stop(session, record):
        steps.append(record.step)
        return record.step == 0

    out = tmp_path / "runs" / "begun"
    with listening(stop), pytest.raises(KeyboardInterrupt):
        run_all(one.with_settings(out=out, device="cpu").head())
    assert steps == [0]
    assert continued(out).inputs == ("re",)
    rest = driver.resume(out)
    assert driver.wait(rest, 60) and (rest.state, rest.error) == ("done", "")
    for name in ("00.png", "01.png"):
        assert (out / "particles" / name).read_bytes() == (whole.folder / "particles" / name).read_bytes()
    driver.close(20)
