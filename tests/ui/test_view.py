"""What the page shows of a folder, its uploads, and how samples rank. No browser."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from rsd import media
from rsd.tasks.ui import history, uploads, view
from rsd.tasks.ui.driver import Driver, Job
from rsd.tasks.ui.history import Ranking
from rsd.tasks.ui.request import Request, continued


@pytest.fixture
def driver(tmp_path):
    driver = Driver(tmp_path / "runs", run=lambda request: None)
    yield driver
    driver.close(60)


def make_run(folder, *, done=True, prompt="a man", **config):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"prompt": prompt, "particles": 3, "method": "sds", **config}))
    rows = [{"step": k, "residual": 0.5 - 0.1 * k, "repulsion": 0.1} for k in range(3)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "resi')
    if done:
        (folder / "metrics.json").write_text(json.dumps({"seconds": 61.0}))
        for k, value in enumerate((0.0, 0.5, -0.75)):
            media.write_png(folder / "particles" / f"{k:02d}.png", torch.full((1, 3, 8, 8), value))
        media.write_png(folder / "grid.png", torch.zeros(1, 3, 8, 24))
    else:
        media.write_png(folder / "preview.png", torch.zeros(1, 3, 8, 24))
        (folder / "checkpoint.safetensors").touch()
    return folder


def test_the_runs_of_a_folder_are_found_whoever_made_them(tmp_path):
    runs = tmp_path / "runs"
    done = make_run(runs / "text-to-image" / "a", prompt="a man <b>")
    make_run(runs / "restore" / "b", done=False, images=["/somewhere/photo.png"], task="sr4")
    (runs / "toy").mkdir()
    (runs / "toy" / "config.yaml").write_text("gamma: 2\n")
    make_run(runs / "uploads" / "c")
    found = {entry.name: entry for entry in history.entries(runs)}
    assert found.keys() == {"text-to-image/a", "restore/b"}
    assert (found["restore/b"].about, found["restore/b"].state) == ("photo.png, sr4, sds", "interrupted")
    assert found["restore/b"].picture.name == "preview.png"
    assert (found["text-to-image/a"].command, found["text-to-image/a"].state) == ("text-to-image", "finished")
    assert found["text-to-image/a"].picture == done / "grid.png"


def test_a_finished_run_is_shown_in_the_order_that_is_chosen(driver):
    folder = make_run(driver.runs / "text-to-image" / "a", prior="none")
    ranking = history.rank(folder)
    assert ranking.values == () and ranking.difference == pytest.approx([0.625, 0.875, 1.0], abs=0.01)
    html = view.result(folder, ranking, "difference")
    places = [html.index(f"/{k:02d}.png?v=") for k in (2, 1, 0)]
    assert places == sorted(places)
    assert html.count("download=") == 3 + 3 and "Before and after" not in html
    assert "Finished in 1 min 1 s." in view.status(driver, folder) and view.moving(folder) == ""
    order = Ranking([0.1, 0.3, 0.2], "residual", (3.0, 1.0, 2.0), (1 / 3, 1.0, 1 / 2))
    assert [order.order(by) for by in ("fit", "difference", "")] == [[1, 2, 0], [1, 2, 0], [0, 1, 2]]
    assert Ranking([0.1, 0.3]).order("fit") == [0, 1]


def test_a_run_in_progress_shows_its_particles_and_its_steps(driver):
    folder = make_run(driver.runs / "text-to-image" / "b", done=False)
    assert view.method(driver, folder) == "<h3>sds</h3>"
    html = view.moving(folder)
    assert html.count('role="img" aria-label="particle') == 3
    assert "background-size:300% 100%;background-position:50.0000% 0" in html
    assert "residual 0.3" in html and "3 steps" in html
    assert "Stopped after 3 steps; “Go on” resumes it." in view.status(driver, folder)


def test_states_are_told_in_words_and_messages_are_text(driver):
    request = Request("text-to-image", ("a man",), {})
    folder = driver.runs / "x"
    job = Job(request, folder, 8, state="running", step=3, left=80.0, notes=["a <script>"])
    driver.jobs.append(job)
    html = view.status(driver, folder)
    assert "Step 3 of 8, about 1 min 20 s left." in html and 'value="3"' in html
    assert "a &lt;script&gt;" in html and "<script>" not in html
    job.state = "stopping"
    assert "Stopping after this step." in view.status(driver, folder)
    job.state, job.error = "failed", "It is full."
    assert '<p class="rsd-error" role="alert">It is full.</p>' in view.status(driver, folder)
    driver.jobs.clear()


def test_uploads_are_checked_and_kept_by_their_content(tmp_path):
    runs = tmp_path / "runs"
    Image.new("RGB", (8, 6), "red").save(tmp_path / "my photo.png")
    kept = uploads.keep(tmp_path / "my photo.png", runs)
    assert kept.read_bytes() == (tmp_path / "my photo.png").read_bytes()
    assert kept.parts[-3] == "uploads" and kept.name == "my-photo.png"
    assert uploads.keep(tmp_path / "my photo.png", runs) == kept
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(ValueError, match="^no.png is not a picture in a supported format"):
        uploads.keep(tmp_path / "no.png", runs)
    (tmp_path / "page.html").write_text("<script>")
    with pytest.raises(ValueError, match="The picture page.html is not a picture; give a PNG"):
        uploads.keep(tmp_path / "page.html", runs)
    with pytest.raises(ValueError, match="The mask k.npy is not a picture"):
        (tmp_path / "k.npy").touch()
        uploads.keep(tmp_path / "k.npy", runs, what="mask", arrays=False)


def test_files_and_pictures_that_are_too_large_are_refused(tmp_path, monkeypatch):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    monkeypatch.setattr(uploads, "PIXELS", 40)
    with pytest.raises(ValueError, match="The picture a.png has 8 x 6 pixels"):
        uploads.keep(tmp_path / "a.png", tmp_path)
    monkeypatch.setattr(uploads, "LIMIT", 10)
    with pytest.raises(ValueError, match="The picture a.png has 0 MB; give a file of at most"):
        uploads.keep(tmp_path / "a.png", tmp_path)


def test_paint_is_a_mask_of_the_pictures_size(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    layer = Image.new("RGBA", (16, 12))
    layer.paste((255, 0, 255, 255), (0, 0, 8, 6))
    mask = Image.open(uploads.painted({"layers": [layer]}, tmp_path / "a.png", tmp_path))
    assert mask.size == (8, 6) and mask.getpixel((3, 2)) == 0 and mask.getpixel((4, 2)) == mask.getpixel((3, 3)) == 255
    with pytest.raises(ValueError, match="Nothing is painted"):
        uploads.painted({"layers": [Image.new("RGBA", (8, 6))]}, tmp_path / "a.png", tmp_path)
    with pytest.raises(ValueError, match="Nothing is painted"):
        uploads.painted(None, tmp_path / "a.png", tmp_path)


def test_a_folder_that_is_no_runs_cannot_go_on(tmp_path):
    with pytest.raises(ValueError, match="config.yaml is missing or damaged; choose another run"):
        continued(tmp_path)
    (tmp_path / "config.yaml").write_text("gamma: 2\n")
    with pytest.raises(ValueError, match="is not of a run that the page can show"):
        continued(tmp_path)
