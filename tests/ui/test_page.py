"""The page in Chromium, with the built-in heads: upload, paint, run, reload, cancel, go on, download, compare, gallery,
meshes.

Needs gradio, playwright and Debian's Chromium; run with pytest -m ui. A run waits at a step until the test has looked.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

from rsd.heads.command import main as heads
from rsd.runs.batch import run_all
from rsd.runs.session import listening
from rsd.tasks.ui.driver import Driver

CHROMIUM = shutil.which("chromium")
MISSING = [name for name in ("gradio", "playwright") if find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
SLOW = 1000 * int(os.environ.get("RSD_UI_SECONDS", 60))
"""Milliseconds that the browser waits for something, at most."""
DRAWN = """async canvas => {
  await new Promise(done => setTimeout(done, 1000));
  const gl = canvas.getContext("webgl"), [w, h] = [canvas.width, canvas.height], seen = new Uint8Array(4 * w * h);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, seen);
  const colours = new Set();
  for (let k = 0; k < seen.length; k += 4) colours.add(seen[k] << 16 | seen[k + 1] << 8 | seen[k + 2]);
  return colours.size > 8;
}"""
"""Whether a canvas shows something: more than a few colours."""
pytestmark = [pytest.mark.ui, pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}")]


class Pause:
    """Runs requests as the driver does, but waits after step ``at`` until :attr:`go` is set."""

    def __init__(self):
        self.at: int | None = None
        self.go = threading.Event()

    def __call__(self, request):
        def wait(session, record):
            if record.step == self.at:
                assert self.go.wait(300)

        with listening(wait):
            run_all(request.head())

    def hold(self, step: int):
        self.go.clear()
        self.at = step

    def move_to(self, step: int):
        """Let the run go on to another step."""
        before, self.go, self.at = self.go, threading.Event(), step
        before.set()

    def release(self):
        self.at = None
        self.go.set()


@pytest.fixture(scope="module")
def pause():
    return Pause()


@pytest.fixture(scope="module")
def driver(tmp_path_factory, pause):
    driver = Driver(tmp_path_factory.mktemp("ui") / "runs", device="cpu", run=pause)
    yield driver
    pause.release()
    driver.close(60)


@pytest.fixture(scope="module")
def address(driver):
    from rsd.tasks.ui.serve import launch

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = launch(driver, port)
    yield f"http://127.0.0.1:{port}"
    page.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(accept_downloads=True, viewport={"width": 1200, "height": 1000})
    context.set_default_timeout(SLOW)
    return context


@pytest.fixture(scope="module")
def page(context, address):
    """One tab for all tests, and the addresses that it asked for."""
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    open_page(page, address)
    return page


def open_page(page, address):
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector("#restore-run")


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A head whose left half is transparent."""
    folder = tmp_path_factory.mktemp("heads")
    heads(["--out", str(folder), "--number", "1"])
    whole = Image.open(folder / "head-0000.png").convert("RGBA")
    whole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    whole.save(folder / "half.png")
    return folder / "half.png"


def fill(page, tab: str, **values):
    """Fill in a tab's fields of text by their labels."""
    panel = page.get_by_role("tabpanel").filter(has=page.locator(f"#{tab}-run"))
    for label, value in values.items():
        panel.get_by_label(label.replace("_", " "), exact=True).fill(str(value))


def choose(page, tab: str, label: str, value: str):
    """Choose from a tab's list."""
    field = page.get_by_role("tabpanel").filter(has=page.locator(f"#{tab}-run")).get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")


def says(page, tab: str, words: str):
    page.locator(f"#{tab}-view").get_by_text(words).first.wait_for()


def next_job(page, driver, before):
    """Return the restoration that the page starts after ``before``, when it is over; the page may still show that."""
    for _ in range(SLOW // 100):
        if driver.latest("restore") is not before:
            break
        page.wait_for_timeout(100)
    job = driver.latest("restore")
    assert job is not before and driver.wait(job, SLOW / 1000)
    return job


def test_a_transparent_half_is_restored_while_the_page_is_reloaded_cancelled_and_continued(
    page, address, driver, pause, picture
):
    page.set_input_files("#restore-picture input[type=file]", picture)
    page.get_by_label("what is transparent").first.check()
    fill(page, "restore", Samples=2, Steps=4, Seed=3)
    page.locator("#restore-picture img").first.wait_for()
    pause.hold(0)
    page.click("#restore-run")
    says(page, "restore", "Step 1 of 4")
    first = page.get_attribute("#restore-view .rsd-particles", "data-preview")
    assert page.locator("#restore-view [role=img][aria-label^=particle]").count() == 2

    open_page(page, address)  # a reload in the middle
    says(page, "restore", "Step 1 of 4")
    pause.move_to(1)
    says(page, "restore", "Step 2 of 4")
    assert page.get_attribute("#restore-view .rsd-particles", "data-preview") != first  # they have moved

    page.click("#restore-cancel")
    says(page, "restore", "Stopping after this step.")
    pause.release()
    says(page, "restore", "Stopped after 3 steps; “Go on” resumes it.")
    job = driver.latest("restore")
    assert job.state == "stopped" and (job.folder / "checkpoint.safetensors").exists()

    page.click("#restore-resume")
    says(page, "restore", "Finished in")
    assert len((job.folder / "steps.jsonl").read_text().splitlines()) == 4


def test_a_download_is_the_run_folders_file(page, driver):
    folder = driver.latest("restore").folder
    links = page.locator("#restore-view .rsd-samples a")
    assert links.count() == 2
    for k in range(2):
        with page.expect_download() as got:
            links.nth(k).click()
        name = got.value.suggested_filename
        assert Path(got.value.path()).read_bytes() == (folder / "particles" / name).read_bytes()


def test_the_slider_and_the_spread_follow_the_keyboard(page):
    view = page.locator("#restore-view .rsd-result")
    for label, name in (("Before and after", "--at"), ("Spread", "--spread")):
        slider = page.locator("#restore-view").get_by_label(label)
        slider.focus()
        slider.press("Home")
        slider.press("ArrowRight")
        assert view.evaluate(f"node => node.style.getPropertyValue('{name}')") == "1%"
    page.locator("#restore-view").get_by_label("show sample 1").press("Enter")
    assert page.get_attribute("#restore-view .rsd-after", "alt") == "sample 1"


def test_the_command_can_be_copied(page, driver):
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#restore-run"))
    panel.get_by_text("Copy as command").click()
    panel.get_by_text("rsd restore").first.wait_for()
    shown = panel.locator(".cm-content").first.inner_text()
    assert " ".join(shown.split()) == driver.latest("restore").request.shell()


def test_a_bad_upload_is_refused_in_a_sentence_and_nothing_runs(page, address, driver, picture):
    before = len(driver.jobs)
    bad = picture.with_name("bad.png")
    bad.write_text("no picture")
    open_page(page, address)
    page.click("#restore-run")
    page.locator("#restore-error").get_by_text("There is no picture; drop one on the page.").wait_for()
    page.set_input_files("#restore-picture input[type=file]", bad)
    page.get_by_label("what is transparent").first.check()
    page.locator("#restore-defaults").get_by_text("bad.png is not a picture in a supported format").wait_for()
    assert len(driver.jobs) == before
    assert page.get_by_text("Finished in").first.is_visible()  # the last run is still shown


def test_a_second_tab_waits_and_a_wrong_number_is_the_command_lines_error(context, page, address, driver, pause):
    second = context.new_page()
    open_page(second, address)
    settings = {"Samples": 1, "Steps": 3}
    pause.hold(0)
    for tab in (page, second):
        tab.get_by_role("tab", name="Text to image").click()
        tab.get_by_label("Prompt", exact=True).first.fill("a man with a beard")
        fill(tab, "text-to-image", **settings)
        tab.click("#text-to-image-run")
        says(tab, "text-to-image", "Step 1 of 3" if tab is page else "Waiting: 1 run is before this one.")
    second.click("#text-to-image-cancel")
    says(second, "text-to-image", "Stopped before it began.")
    second.close()  # closing a tab ends nothing
    fill(page, "text-to-image", Steps="many")
    page.click("#text-to-image-run")
    page.locator("#text-to-image-error").get_by_text('steps is "many"; give a whole number.').wait_for()
    pause.release()
    says(page, "text-to-image", "Finished in")


def test_what_is_painted_is_restored(page, address, driver, picture):
    open_page(page, address)
    page.set_input_files("#restore-picture input[type=file]", picture)
    canvas = page.locator("#restore-editor canvas").first
    canvas.scroll_into_view_if_needed()
    fill(page, "restore", Samples=1, Steps=2)
    page.click("#restore-run")
    page.locator("#restore-error").get_by_text("Nothing is painted; paint over what is missing").wait_for()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + box["width"] / 20, middle[1], steps=4)
    page.mouse.up()
    before = driver.latest("restore")
    page.click("#restore-run")
    job = next_job(page, driver, before)
    assert job.state == "done"
    mask = Image.open(job.request.settings["mask"])
    assert mask.size == (64, 64) and mask.getpixel((32, 32)) == 0
    assert {mask.getpixel(corner) for corner in ((0, 0), (63, 0), (0, 63), (63, 63))} == {255}


def test_what_is_taken_for_scratches_is_shown(page, address, tmp_path):
    scratched = Image.linear_gradient("L").resize((200, 160)).convert("RGB")
    ImageDraw.Draw(scratched).line([(70, 30), (120, 130)], fill="white", width=2)
    scratched.save(tmp_path / "old.png")
    open_page(page, address)
    page.set_input_files("#restore-picture input[type=file]", tmp_path / "old.png")
    choose(page, "restore", "What happened to it", "scratches")
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#restore-run"))
    panel.get_by_role("button", name="Show the scratches").click()
    panel.get_by_text("of the pixels are taken for scratches").wait_for()
    shown = panel.get_by_alt_text("the picture, its scratches in red")
    page.wait_for_function("picture => picture.naturalWidth == 200", arg=shown.element_handle())
    with page.expect_download() as got:
        panel.get_by_role("link", name="old-mask.png").click()
    mask = Image.open(got.value.path()).convert("L")
    assert mask.size == (200, 160) and mask.getpixel((95, 80)) == 0 and mask.getpixel((20, 80)) == 255


def test_a_task_has_its_own_fields(page, address, driver, picture):
    open_page(page, address)
    page.set_input_files("#restore-picture input[type=file]", picture)
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#restore-run"))
    quality, blur = (page.locator(f"#restore-{name} :is(input, textarea)") for name in ("quality", "blur"))
    assert not quality.is_visible() and not blur.is_visible()
    choose(page, "restore", "What happened to it", "jpeg")
    quality.wait_for()
    assert not blur.is_visible()
    panel.get_by_label("The picture is clean").check()
    fill(page, "restore", Samples=1, Steps=2)
    quality.fill("much")
    page.click("#restore-run")
    page.locator("#restore-error").get_by_text('quality is "much"; give a whole number').wait_for()
    quality.fill("20")
    before = driver.latest("restore")
    page.click("#restore-run")
    config = yaml.safe_load((next_job(page, driver, before).folder / "config.yaml").read_text())
    assert (config["task"], config["quality"], config["clean"]) == ("jpeg", 20, True)


def test_two_methods_are_compared_side_by_side(page, address, driver, picture):
    open_page(page, address)
    page.get_by_role("tab", name="Compare").click()
    page.set_input_files("#compare-picture input[type=file]", picture)
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#compare-run"))
    panel.get_by_label("what is transparent").check()
    fill(page, "compare", Samples=1, Steps=2)
    choose(page, "compare", "Other method", "proximal-guidance")
    page.click("#compare-run")
    page.locator("#compare-error").get_by_text("Both methods are the same; choose another one.").wait_for()
    choose(page, "compare", "Other method", "rlsd")
    page.click("#compare-run")
    view = page.locator("#compare-view")
    view.get_by_text("Finished in").nth(1).wait_for()
    assert view.locator("h3").all_inner_texts() == ["proximal-guidance", "rlsd"]
    pictures = view.locator(".rsd-pair > div")
    for k, job in enumerate(driver.jobs[-2:]):
        with page.expect_download() as got:
            pictures.nth(k).locator(".rsd-samples a").click()
        assert Path(got.value.path()).read_bytes() == (job.folder / "particles" / "00.png").read_bytes()


def test_earlier_runs_are_listed_and_open(page, driver):
    page.get_by_role("tab", name="Runs").click()
    buttons = page.locator(".grid-container button")
    finished = [job.folder for job in driver.jobs if job.state == "done"]
    buttons.nth(len(finished) - 1).wait_for()
    assert buttons.count() == len(finished)
    buttons.last.click()  # the oldest
    page.locator("#runs-view .rsd-before").wait_for(state="attached")
    assert str(finished[0]) in page.inner_text("#runs-view")


def test_a_scene_is_shown_as_a_mesh(page, driver):
    page.get_by_role("tab", name="Text to 3D").click()
    page.get_by_label("Prompt", exact=True).last.fill("a man")
    fill(page, "text-to-3d", Samples=1, Steps=2)
    fill(page, "text-to-3d", **{"Pixels of the rendered views": 16, "Samples a side of the mesh": 24})
    page.click("#text-to-3d-run")
    says(page, "text-to-3d", "Finished in")
    viewer = page.frame_locator("#text-to-3d-view iframe")
    viewer.get_by_label("a mesh that can be turned").wait_for()
    assert viewer.locator("canvas").evaluate(DRAWN)
    with page.expect_download() as got:
        page.get_by_role("link", name="Download mesh.glb").first.click()
    mesh = driver.latest("text-to-3d").folder / "scenes" / "00" / "mesh.glb"
    assert Path(got.value.path()).read_bytes() == mesh.read_bytes()


def test_only_files_of_the_runs_are_served_and_nothing_is_fetched_from_elsewhere(page, address, driver, picture):
    def get(path: Path) -> int:
        try:
            with urllib.request.urlopen(f"{address}/gradio_api/file={urllib.parse.quote(str(path))}") as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    folder = driver.latest("restore").folder
    assert get(folder / "grid.png") == 200
    for path in (picture, "/etc/passwd", folder / ".." / ".." / ".." / "x", Path(__file__)):
        assert get(path) == 403
    assert {urllib.parse.urlsplit(url).hostname for url in page.asked if url.startswith("http")} == {"127.0.0.1"}
