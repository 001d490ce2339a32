"""`rsd restore` on pictures of any size with a tiny random network of the prior of photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

import rsd
from rsd import features, hub
from rsd.cli import main
from rsd.media import fit_to, read_image, read_measurement, write_measurement, write_png
from rsd.priors import has_photos
from rsd.priors.photo import save_photo
from rsd.runs import batch
from rsd.tasks.inverse import choice
from rsd.tasks.inverse.choice import auto_prior
from rsd.tasks.inverse.head import RestoreHead
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.packaged import parse, resolved
from tests.priors.test_photo import build


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The folder of that prior."""
    folder = tmp_path_factory.mktemp("weights") / "photos"
    save_photo(*build(), folder)
    return folder


@pytest.fixture
def restore(photos, tmp_path, monkeypatch):
    """Restore with two steps and return the folder of the run."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments, out="out"):
        fixed = ["--prior", str(photos), "--steps", "2", "--device", "cpu", "--out", out]
        assert main(["restore", *map(str, arguments), *fixed]) == 0
        return tmp_path / out

    return go


def draw(path, height, width, **options):
    """Write a smooth picture with noise and return its values."""
    rows, columns = np.mgrid[0:height, 0:width]
    values = 128 + 100 * np.sin(np.stack([rows / 23, columns / 31, (rows + columns) / 40], 2))
    values = (values + np.random.default_rng(0).normal(0, 4, values.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(values).save(path, **options)
    return values


def mask(path, height, width, *boxes):
    levels = np.full((height, width), 255, dtype=np.uint8)
    for top, bottom, left, right in boxes:
        levels[top:bottom, left:right] = 0
    Image.fromarray(levels).save(path)
    return levels == 255


def answers(folder):
    return [np.asarray(Image.open(path)) for path in sorted((folder / "particles").glob("*"))]


@pytest.mark.parametrize(("height", "width"), [(427, 640), (50, 33), (1, 1), (9, 200)])
def test_a_picture_comes_back_whole_and_untouched_outside_the_damage(restore, tmp_path, height, width, capsys):
    values = draw("photo.png", height, width)
    hole = (0, 1, 0, 1) if height == 1 else (3, 6, 20, 30)
    if height == 1:
        folder = restore("photo.png", "--task", "hdr")
        assert [a.shape for a in answers(folder)] == [(1, 1, 3)] * 2
        return
    known = mask("mask.png", height, width, hole)
    folder = restore("photo.png", "--mask", "mask.png")
    found = answers(folder)
    assert len(found) == 2  # the default for photographs
    for one in found:
        assert one.shape == values.shape and np.array_equal(one[known], values[known])
    assert not np.array_equal(found[0], found[1])
    config = (folder / "config.yaml").read_text()
    assert "fit: whole" in config and "method: diffpir" in config
    shown = "are restored, 96 x 70 px of 640 x 427" if height == 427 else "filled in"
    assert shown in capsys.readouterr().out
    assert not (folder / "preview.png").exists() and not (folder / "frames").exists()
    assert Image.open(folder / "measurement.png").size == (width, height)
    film = Image.open(folder / "evolution.gif")
    assert film.n_frames > 1


def test_a_large_picture_is_restored_at_its_holes_alone(restore):
    values = np.full((700, 1000, 3), 90, dtype=np.uint8)
    values[180:260, 20:100] = np.arange(80)[:, None, None] * 2
    values[550:650, 750:900] = np.arange(100)[:, None, None]
    Image.fromarray(values).save("photo.png")
    known = mask("mask.png", 700, 1000, (200, 212, 40, 52), (600, 606, 800, 830))
    folder = restore("photo.png", "--mask", "mask.png", "-n", "1")
    (one,) = answers(folder)
    assert one.shape == (700, 1000, 3) and np.array_equal(one[known], values[known])
    assert not np.array_equal(one[~known], values[~known])
    # what the network sees: the two holes with their surroundings, one above the other
    height, width = read_measurement(folder / "measurement.safetensors").shape[-2:]
    assert 2 * (64 + 12 + 64) - 12 <= height <= 320 and 64 + 30 + 64 <= width <= 176
    assert Image.open(folder / "estimate.png").size == (1000, 700)


def test_the_kernels_of_a_blind_restoration_are_kept(restore):
    draw("photo.png", 48, 40)
    folder = restore("photo.png", "--task", "deblur_blind", "--sigma-v", "0.01")
    kernels = np.load(folder / "kernel.npy")
    assert kernels.shape == (2, 15, 15) and kernels.dtype == np.float32 and kernels.min() >= 0
    assert kernels.sum((1, 2)) == pytest.approx([1, 1], abs=1e-5)
    assert Image.open(folder / "kernel.png").width > 2 * 15


def test_a_finished_run_is_measured_from_its_pictures(restore, photos):
    draw("photo.png", 300, 200)
    mask("mask.png", 300, 200, (100, 110, 50, 70))
    folder = restore("photo.png", "--mask", "mask.png")
    held = json.loads((folder / "metrics.json").read_text())
    assert held["residual"]["mean"] < 2 and held["div"] is None
    again = restore("photo.png", "--mask", "mask.png", "--resume", "--div-features", "pixels")
    assert json.loads((again / "metrics.json").read_text())["div"] is not None


def test_an_interrupted_run_goes_on_with_the_same_pixels(restore, photos, monkeypatch):
    draw("photo.png", 120, 90)
    mask("mask.png", 120, 90, (20, 24, 20, 60), (80, 90, 30, 40))
    whole = answers(restore("photo.png", "--mask", "mask.png", "--checkpoint-every", "1"))
    from rsd.runs.session import Session

    drive = Session.drive

    def stopped(self, **options):
        steps = self.run.steps

        def once():
            yield next(iter(steps()))
            self.save()
            raise KeyboardInterrupt

        self.run.steps = once
        drive(self, **options)

    monkeypatch.setattr(Session, "drive", stopped)
    flags = ["restore", "photo.png", "--mask", "mask.png", "--prior", str(photos), "--steps", "2", "--out", "again"]
    assert main([*flags, "--checkpoint-every", "1"]) == 130
    monkeypatch.setattr(Session, "drive", drive)
    folder = restore("photo.png", "--mask", "mask.png", "--checkpoint-every", "1", "--resume", out="again")
    for one, other in zip(whole, answers(folder), strict=True):
        assert np.array_equal(one, other)


def test_a_feathered_mask_blends_the_answer_with_the_picture(restore, capsys):
    values = draw("photo.png", 40, 60).astype(float)
    levels = np.full((40, 60), 255, dtype=np.uint8)
    levels[10:20, 10:20], levels[8:10, 10:20] = 0, 204  # a fifth of the answer there
    Image.fromarray(levels).save("mask.png")
    folder = restore("photo.png", "--mask", "mask.png", "-n", "1")
    text = capsys.readouterr().out
    assert "0.833% of the mask mask.png is grey, between black and white: there the answer is blended" in text
    (found,) = answers(folder)
    assert np.array_equal(found[levels == 255], values[levels == 255])
    change = np.abs(found - values)
    assert 0 < change[8:10, 10:20].max() <= 255 / 5 + 1 < change[10:20, 10:20].max() + 255


def test_an_erased_region_of_a_picture_with_depth_profile_and_exif(restore):
    from tests import profiles

    values = draw("plain.png", 90, 70)
    alpha = np.full((90, 70, 1), 255, dtype=np.uint8)
    alpha[30:40, 20:50] = 0
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    p3 = profiles.rgb(profiles.DISPLAY_P3, profiles.SRGB_CURVE)
    Image.fromarray(np.concatenate([values, alpha], 2)).save("photo.png", exif=exif, icc_profile=p3)
    folder = restore("photo.png", "--mask", "alpha", "-n", "1")
    with Image.open(folder / "particles" / "00.png") as out:
        assert out.mode == "RGBA" and out.size == (90, 70) and out.info["icc_profile"] == p3
        assert out.getexif()[0x010E] == "a picture" and 0x0112 not in out.getexif()
        found = np.asarray(out)
    upright = np.rot90(np.concatenate([values, alpha], 2), -1)
    assert found[..., 3].min() == 255 and np.array_equal(found[upright[..., 3] > 0], upright[upright[..., 3] > 0])


def test_a_blurred_and_a_small_picture(restore):
    values = draw("photo.png", 61, 45)
    np.save("kernel.npy", np.ones((3, 3)))
    (one,) = answers(restore("photo.png", "--kernel", "kernel.npy", "-n", "1", "--sigma-v", "0.02", out="blur"))
    assert one.shape == values.shape
    (one,) = answers(restore("photo.png", "--task", "sr2", "--method", "proximal-guidance", "-n", "1", out="sr2"))
    assert one.shape == (122, 90, 3)
    assert json.loads(Path("sr2/metrics.json").read_text())["residual"]["mean"] < 1


def test_benchmarks_take_the_whole_picture(restore):
    draw("photo.png", 61, 45)
    folder = restore("photo.png", "--clean", "--task", "sr2", "-n", "1")
    assert [a.shape for a in answers(folder)] == [(60, 44, 3)]
    assert json.loads((folder / "metrics.json").read_text())["psnr"]["mean"] > 5
    folder = restore("photo.png", "--clean", "--task", "inpaint_random", "--fit", "crop", "-n", "1", out="square")
    assert [a.shape for a in answers(folder)] == [(32, 32, 3)]


def test_known_pixels_beside_a_small_hole_are_kept_unless_told_otherwise(restore):
    values = draw("photo.png", 300, 400)
    known = mask("mask.png", 300, 400, (100, 130, 200, 204), (126, 130, 200, 230))  # an L: its box has known pixels
    inside = np.zeros_like(known)
    inside[100:126, 204:230] = True
    for flags, same in (((), True), (("--no-keep-known",), False), (("--sigma-v", "0.02"), False)):
        (one,) = answers(restore("photo.png", "--mask", "mask.png", "-n", "1", *flags, out=f"out{len(flags)}"))
        assert np.array_equal(one[known & inside], values[known & inside]) == same
        assert np.array_equal(one[:30], values[:30])  # beyond the surroundings of the hole


def test_the_function_keeps_known_pixels_as_the_command_does(photos):
    f = make_operator("inpaint_half_face", size=32)
    y = f(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    for sigma_v, same in ((0.001, True), (0.02, False)):
        images = rsd.restore(y, f, prior=str(photos), steps=2, particles=1, sigma_v=sigma_v).images
        assert torch.equal(torch.where(f.observed, y, images), images) == same


def test_small_clean_pictures_are_scored_or_refused_before_the_run(restore, photos, capsys):
    draw("photo.png", 6, 20)
    folder = restore("photo.png", "--clean", "--task", "inpaint_random", "-n", "1")
    assert -1 <= json.loads((folder / "metrics.json").read_text())["ssim"]["mean"] < 1
    flags = ["--clean", "--task", "inpaint_random", "--prior", str(photos), "--metrics", "lpips", "--out", "other"]
    assert main(["restore", "photo.png", *flags]) == 2
    assert "LPIPS needs at least 32 px, but images have 6 px" in capsys.readouterr().err
    assert not list(Path().rglob("other/particles"))


@pytest.fixture
def compare(photos, tmp_path, monkeypatch):
    """Compare on task sr2 with the prior of photographs, two steps and two particles each; return the rows."""
    monkeypatch.chdir(tmp_path)
    Path("clean").mkdir()
    draw("clean/a.png", 61, 45)
    draw("clean/b.png", 40, 52)

    def go(methods, *more, code=0):
        fixed = [
            "--prior",
            str(photos),
            "--pixel-prior",
            str(photos),
            "--steps",
            "2",
            "-n",
            "2",
            "--device",
            "cpu",
            "--out",
            "out",
        ]
        fixed += ["--images", "clean", "--div-features", "pixels", "--tasks", "sr2"]
        assert main(["compare", "--methods", methods, *fixed, *more]) == code
        return json.loads(Path("out/compare.json").read_text())

    return go


def test_whole_pictures_are_compared_as_they_were_restored(compare, capsys):
    for row in compare("diffpir,rlsd", "--metrics", "fid"):
        own, common = row["metrics"], row["metrics"]["common"]
        assert common["size"] is None and row["fid"] is None
        assert common["psnr"]["mean"] == pytest.approx(own["psnr"]["mean"], abs=0.02)  # 8 bits
        assert common["ssim"]["mean"] == pytest.approx(own["ssim"]["mean"], abs=0.002)
    assert "of whole images, at their own size" in Path("out/compare.md").read_text()
    assert "no fid: pixels of images of different sizes cannot be compared" in capsys.readouterr().out


def test_cropped_photographs_are_compared_at_their_size(compare):
    (size,) = {row["metrics"]["common"]["size"] for row in compare("diffpir", "--fit", "crop", "--metrics", "fid")}
    assert size == 32 and "of images at 32 px" in Path("out/compare.md").read_text()


def test_a_prior_of_any_size_crops_as_the_prior_beside_it(compare, tiny_folder):
    rows = compare("latent-dps,diffpir", "--prior", str(tiny_folder("epsilon")))
    rows = [row for row in rows if row["method"] == "diffpir"]
    for row in rows:  # the tiny latent prior has 16 px
        assert row["metrics"]["common"]["size"] == 16
        clean, one = (read_image(p) for p in (f"clean/{row['image']}", f"out/{row['folder']}/particles/00.png"))
        side = one.shape[-1]
        assert one.shape[-2] == side == 32
        assert row["metrics"]["common"]["psnr"]["mean"] == pytest.approx(
            np.mean([common_psnr(clean, p) for p in sorted(Path(f"out/{row['folder']}/particles").glob("*"))]), abs=0.01
        )


def common_psnr(clean, path):
    """Return the PSNR of a square sample and the centre of a clean picture at 16 px."""
    sample = read_image(path)
    a, b = (F.interpolate(x, size=(16, 16), mode="area") for x in (sample, fit_to(clean, sample.shape[-1], "crop")[0]))
    return -10 * np.log10(float((a - b).square().mean()) / 4)


def test_each_failure_of_a_comparison_is_named(compare, capsys):
    for name in ("a", "b"):
        Path(f"clean/{name}.png").write_bytes(b"no picture")
    draw("clean/c.png", 40, 52)
    assert [row["image"] for row in compare("diffpir", code=1)] == ["c.png"]
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert [("a.png" in line, "b.png" in line) for line in failed] == [(True, False), (False, True)]


def test_a_frechet_distance_leaves_out_the_damaged_lines_of_a_manifest(restore, capsys):
    for k in range(3):
        draw(f"{k}.png", 20, 30)
    lines = [{"image": f"{k}.png", "task": "sr2", "clean": k < 2} for k in range(3)]
    Path("all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folder = restore("all.jsonl", "-n", "1", "--metrics", "fid", "--fid-features", "pixels")
    assert json.loads((folder / "summary.json").read_text())["fid"]["images"] == 2


def test_grey_pictures_and_measurements_of_other_shapes(restore):
    values = draw("photo.png", 20, 30)
    grey = values.mean(2).astype(np.uint8)
    Image.fromarray(grey).save("grey.png")
    known = mask("mask.png", 20, 30, (5, 9, 5, 9))
    (one,) = answers(restore("grey.png", "--mask", "mask.png", "-n", "1", out="grey"))
    assert one.shape == (20, 30) and np.array_equal(one[known], grey[known])
    for k, shape in enumerate([(1, 1, 20, 30), (20, 30), (3, 20, 30)]):
        y = torch.rand(1 if shape[0] == 1 or len(shape) == 2 else 3, 20, 30).reshape(shape) * 2 - 1
        write_measurement(Path(f"y{k}.safetensors"), y)
        (one,) = answers(restore(f"y{k}.safetensors", "--mask", "mask.png", "-n", "1", out=f"y{k}"))
        assert one.shape == (20, 30, 3)


def test_particles_repel_on_pictures_of_any_shape(restore):
    draw("photo.png", 40, 70)
    flags = ["--task", "inpaint_random", "--gamma", "5", "--features", "pixels", "--feature-size", "16"]
    folder = restore("photo.png", *flags, "--window", "0", "1")
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert rows[0]["repulsion"] > 0


def test_the_prior_auto_knows_heads_by_their_mark(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw("photo.png", 80, 100)
    assert main(["heads", "--out", "heads", "--number", "1"]) == 0
    head = next((tmp_path / "heads").glob("*.png"))
    Image.open(head).resize((256, 256)).save("large.png", pnginfo=marked(head))
    weights = tmp_path / "weights"
    weights.mkdir()
    for part in hub.BUILT_IN.iterdir():
        if part.name != "photos":
            (weights / part.name).symlink_to(part)
    monkeypatch.setattr(hub, "BUILT_IN", weights)
    monkeypatch.setattr(choice, "has_photos", has_photos)
    assert auto_prior([tmp_path / "photo.png"]) == "heads"
    capsys.readouterr()
    monkeypatch.setattr(batch, "load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
    assert main(["restore", "photo.png", "--task", "hdr", "--prior", "photos"]) == 2
    assert "photos is missing" in capsys.readouterr().err
    (weights / "photos").symlink_to(photos)
    for picture, prior in (("photo.png", "photos"), (head, "heads"), ("large.png", "heads"), ("heads", "heads")):
        options, _ = parse([str(picture), "--task", "hdr"])
        assert options.prior == prior and resolved(options)["prior"] == prior
        assert options.particles == (2 if prior == "photos" else 4)
    (tmp_path / "jobs.jsonl").write_text('{"image": "photo.png", "task": "hdr"}\n')
    assert parse(["jobs.jsonl"])[0].prior == "photos"
    assert parse(["photo.png", "--task", "hdr", "--prior", "heads"])[0].prior == "heads"


def test_small_pictures_are_heads_only_with_their_background(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "has_photos", lambda: True)
    draw("photo.png", 64, 48)
    assert auto_prior([Path("photo.png")]) == "photos"
    assert main(["heads", "--out", "heads", "--number", "12"]) == 0
    for k, file in enumerate(sorted(Path("heads").glob("*.png"))):
        x = read_image(file)
        for task in ("sr4", "hdr", "colorize", "inpaint_random", "denoise", "deblur_gaussian"):
            f = make_operator(task, size=64)
            write_png(Path("seen.png"), f.picture(measure(f, x, 0.1, seed=k)))
            assert auto_prior([Path("seen.png")]) == "heads", (file, task)


def test_a_hole_over_transparent_pixels_becomes_opaque(restore):
    values = draw("photo.png", 40, 60)
    alpha = np.full((40, 60, 1), 255, dtype=np.uint8)
    alpha[10:20, 20:30] = 0
    Image.fromarray(np.concatenate([values, alpha], 2)).save("photo.png")
    mask("mask.png", 40, 60, (8, 16, 18, 40))
    (one,) = answers(restore("photo.png", "--mask", "mask.png", "-n", "1"))
    assert one[8:16, 18:40, 3].min() == 255 and one[16:20, 20:30, 3].max() == 0


def test_a_jpeg_has_no_noise_for_a_residual_and_far_residuals_are_noted(restore, capsys):
    draw("photo.jpg", 40, 56, quality=20)
    folder = restore("photo.jpg", "--task", "jpeg", "-n", "1")
    held = json.loads((folder / "metrics.json").read_text())
    assert held["residual"] is None and held["reasons"]["residual"].startswith("there is no noise")
    capsys.readouterr()
    draw("photo.png", 40, 56)
    restore("photo.png", "--task", "deblur_gaussian", "--blur", "2", "-n", "1", out="far")
    assert "sigma_v (1 would explain the measurement: check the task, its options" in capsys.readouterr().out


def test_what_was_estimated_of_a_picture_is_kept(restore):
    draw("photo.png", 40, 56)
    folder = restore("photo.png", "--task", "denoise", "-n", "1")
    (note,) = json.loads((folder / "provenance.json").read_text())["notes"]
    assert note.startswith("photo.png: noise of ") and "as estimated" in note
    levels = float(note.split("noise of ")[1].split()[0])
    with safe_open(folder / "measurement.safetensors", "pt") as file:
        assert 127.5 * float(file.metadata()["sigma_v"]) == pytest.approx(levels, abs=0.06)


def test_nearly_equal_photographs_are_told_to_draw_more(photos):
    options, _ = parse([str(__file__), "--task", "sr2", "--prior", str(photos), "-n", "2"])
    assert RestoreHead(options, []).diversity_remedy(options).endswith("draw more, --draw 4 --keep 2")


def marked(path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("head", Image.open(path).text["head"])
    return info


def test_a_preview_is_written_while_a_run_is_under_way(restore, monkeypatch):
    draw("photo.png", 30, 40)
    found = []
    from rsd.runs.folder import RunFolder

    log = RunFolder.log

    def spy(self, row):
        found.append((self.path / "preview.png").exists() and read_image(self.path / "preview.png").shape)
        log(self, row)

    monkeypatch.setattr(RunFolder, "log", spy)
    restore("photo.png", "--task", "inpaint_random")
    assert found == [False, (1, 3, 30, 80)]


def test_the_function_takes_pictures_of_any_size(photos):
    y = torch.rand(1, 3, 10, 14) * 2 - 1
    for operator, sides in (
        (make_operator("sr2", size=(20, 28)), (20, 28)),
        (make_operator("deblur_gaussian", size=(10, 14)), (10, 14)),
    ):
        found = rsd.restore(y, operator, prior=str(photos), steps=2, particles=1)
        assert found.images.shape == (1, 3, *sides) and found.source.startswith(
            ("any_photos.yaml", "sr4_photos.yaml", "deblur_motion_photos.yaml", "inpaint_half_face_photos.yaml")
        )


def test_the_function_compares_pictures_of_the_packaged_size(photos, monkeypatch):
    loaded = []
    real = features.load_features
    monkeypatch.setattr(
        features, "load_features", lambda name, **k: loaded.append((name, k["size"])) or real(name, **k)
    )
    y, operator = torch.zeros(1, 3, 10, 14), make_operator("sr2", size=(20, 28))
    rsd.restore(y, operator, prior=str(photos), steps=2, particles=2, gamma=1.0)
    rsd.restore(torch.zeros(1, 3, 16, 16), make_operator("sr4", size=64), steps=2, particles=2, gamma=1.0)
    assert loaded == [("pixels", 64), ("heads", None)]


def test_a_prior_of_one_size_restores_larger_pictures_too(tiny_folder, tmp_path, monkeypatch, capsys):
    """Around holes, squares of its size; otherwise windows of it. Its pictures have 16 px."""
    monkeypatch.chdir(tmp_path)
    values = draw("photo.png", 50, 70)
    known = mask("mask.png", 50, 70, (5, 9, 5, 9), (20, 45, 30, 60))
    np.save("kernel.npy", np.ones((3, 3)))
    fixed = ["--prior", str(tiny_folder("epsilon")), "--steps", "2", "-n", "1", "--features", "pixels"]
    assert main(["restore", "photo.png", "--mask", "mask.png", *fixed, "--out", "holes"]) == 0
    assert "2 parts, are restored, 16 x 32 px of 70 x 50, at 0.36 of their size" in capsys.readouterr().out
    (one,) = answers(tmp_path / "holes")
    assert one.shape == values.shape and np.array_equal(one[known], values[known])
    assert not np.array_equal(one[5:9, 5:9], values[5:9, 5:9])
    values = draw("small.png", 20, 26)
    assert main(["restore", "small.png", "--kernel", "kernel.npy", *fixed, "--out", "blur"]) == 0
    assert answers(tmp_path / "blur")[0].shape == values.shape
    assert main(["restore", "small.png", "--kernel", "kernel.npy", "--fit", "crop", *fixed, "--out", "crop"]) == 0
    assert answers(tmp_path / "crop")[0].shape == (16, 16, 3)


def test_a_sheet_that_is_the_whole_picture_takes_figures_later(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw("photo.png", 40, 50)
    mask("mask.png", 40, 50, *((y, y + 2, x, x + 2) for y in (2, 19, 36) for x in (2, 16, 31, 46)))
    words = [
        "--prior",
        str(tiny_folder("epsilon")),
        "--steps",
        "2",
        "-n",
        "2",
        "--features",
        "pixels",
        "--fit",
        "whole",
    ]
    run = ["restore", "photo.png", "--mask", "mask.png", *words, "--out", "out"]
    assert main(run) == 0 and read_measurement(tmp_path / "out" / "measurement.safetensors").shape[-2:] == (40, 50)
    assert main([*run, "--resume", "--div-features", "pixels"]) == 0
    assert "already done in out; added: div" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--task", "denoise"], ["--task", "jpeg", "--method", "rlsd"], ["--mask", "alpha"]])
def test_photographs_are_compared_by_pixels_which_needs_no_network(tmp_path, words):
    options, _ = parse([str(tmp_path), "--prior", "photos", "--draw", "8", *words])
    assert options.features_name == "pixels"
