"""Data, training and evaluation of "photos", on tiny pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from rsd.priors.photo import PhotoNet, save_photo
from scripts.photos import data, evaluate, restoring, train
from scripts.photos.leaves import leaves, radius, shade
from scripts.photos.sources import LEFT_OUT, PACKAGES, PHOTOGRAPHS, SKIMAGE, SKIMAGE_LICENCES, Photograph


@pytest.fixture(autouse=True)
def fresh_accelerate():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return a folder with shards of two small pictures, one of them held out."""
    pictures = [Photograph("a", SKIMAGE, "a.png"), Photograph("b", SKIMAGE, "b.png", held=True)]
    monkeypatch.setattr(data, "PHOTOGRAPHS", pictures)
    monkeypatch.setattr(data, "LEVELS", (144, 128))
    monkeypatch.setattr(data, "SHARES", (0.5, 0.5))
    y, x = np.mgrid[:150, :200]
    for name in "ab":
        picture = np.stack([120 + 80 * np.sin(x / 9), 120 + 80 * np.cos(y / 7), x * 0 + 90], -1).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(data, "file_of", lambda photo, work: work / photo.file)
    data.make_shards(tmp_path)
    return tmp_path


def small():
    torch.manual_seed(0)
    return PhotoNet(widths=(8, 8, 8), blocks=(1, 1, 1), embedded=16)


def test_the_split_is_fixed_and_a_quarter_is_held_out():
    assert len({photo.name for photo in PHOTOGRAPHS}) == len(PHOTOGRAPHS)
    debian = [photo for photo in PHOTOGRAPHS if photo.package != SKIMAGE]
    assert len(debian) == 37 and sum(photo.held for photo in debian) == 9
    own = {photo.name for photo in PHOTOGRAPHS if photo.package == SKIMAGE and photo.held}
    assert own == {"astronaut", "chelsea", "coffee", "rocket"}
    assert {photo.package for photo in debian} <= set(PACKAGES)
    assert {photo.name for photo in PHOTOGRAPHS if photo.package == SKIMAGE} == set(SKIMAGE_LICENCES)
    for photo in debian:
        assert not any(photo.package in key and f"/{photo.name}" in key for key in LEFT_OUT)


def test_copies_are_antialiased_and_crops_are_of_their_split(work):
    copies = data.levels_of(work / "a.png")
    assert [copy.shape for copy in copies] == [(144, 192, 3), (128, 171, 3)]
    assert len(list((work / "shards").glob("train-a-*.npy"))) == 2
    crop = data.Crops(work, "train")(np.random.default_rng(0), 64)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    assert data.Crops(work, "held").names == ["b"]
    x = data.augmented(crop, np.random.default_rng(0))
    assert x.shape == (64, 64, 3) and x.dtype == np.float32 and -1 <= x.min() < x.max() <= 1
    (picture,) = data.held_pictures(work, long=160, short=100).values()
    assert picture.shape == (96, 160, 3)


def test_missing_shards_are_an_error(tmp_path):
    with pytest.raises(OSError, match="run the stage data"):
        data.Crops(tmp_path, "train")


def test_noise_is_drawn_where_restoration_works():
    noise = train.draw_noise(np.random.default_rng(0), 4000, 157.0)
    low, high = train.AIM
    assert noise.min() >= low and 100 < noise.max() <= 157
    assert float((noise <= high).float().mean()) == pytest.approx(train.AIMED, abs=0.02)
    z = train.noisy(torch.zeros(1, 3, 8, 8), torch.tensor([3.0]), torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(z, torch.full_like(z, 0.9**0.5))


def test_leaves_have_the_colours_of_the_photographs_and_edges_at_all_scales():
    """Of photographs in two colours, sharp leaves show these two and what lies between; of one colour, nothing."""
    first, second = np.array([200, 40, 10]), np.array([20, 60, 220])

    def halves(rng, side):
        return np.where(rng.random((side, side, 1)) < 0.5, first, second).astype(np.uint8)

    made = [leaves(np.random.default_rng(k), 64, halves) for k in range(6)]
    assert all(one.shape == (64, 64, 3) and one.dtype == np.uint8 for one in made)
    assert np.array_equal(made[0], leaves(np.random.default_rng(0), 64, halves)) and not np.array_equal(*made[:2])
    share = np.stack([(one - second) @ (first - second) / ((first - second) ** 2).sum() for one in made])
    off = np.abs(np.stack(made) - second - share[..., None] * (first - second))
    assert share.min() > -0.15 and share.max() < 1.15 and off.max() < 25  # enlarging overshoots a little
    assert share.std() > 0.25
    one_colour = leaves(np.random.default_rng(0), 64, lambda rng, side: np.full((side, side, 3), first, np.uint8))
    assert np.abs(one_colour.astype(int) - first).max() <= 1


def test_radii_fall_with_their_cube():
    """P(r > x) = (low^2 / x^2 - low^2 / high^2) / (1 - low^2 / high^2)."""
    rng = np.random.default_rng(0)
    found = np.array([radius(rng, 2, 50) for _ in range(20_000)])
    assert found.min() >= 2 and found.max() <= 50
    for x in (3, 6, 12):
        assert (found > x).mean() == pytest.approx((4 / x**2 - 4 / 2500) / (1 - 4 / 2500), abs=0.01)


def test_a_shade_is_straight_between_its_colours():
    rows = shade(np.random.default_rng(3), np.array([0.0, 100, 50]), np.array([200.0, 100, 250]), 32).astype(int)
    assert rows[..., 0].min() == 0 and rows[..., 0].max() == 200 and (rows[..., 1] == 100).all()
    assert np.abs(rows[..., 2] - 50 - rows[..., 0]).max() <= 1
    assert np.abs(rows[1:-1] * 2 - rows[2:] - rows[:-2])[..., 0].max() <= 2  # no curvature


def test_a_network_grows_deeper_without_a_change(tmp_path):
    """New blocks start as the identity."""
    shallow = PhotoNet(widths=(8, 8, 8), blocks=(1, 1, 2), embedded=16)
    for p in shallow.parameters():
        torch.nn.init.normal_(p, std=0.2)
    save_photo(shallow, train.build_scheduler(), tmp_path)
    deep = train.begun(PhotoNet(widths=(8, 8, 8), blocks=(2, 2, 2), embedded=16), tmp_path)
    assert sum(p.numel() for p in deep.parameters()) > sum(p.numel() for p in shallow.parameters())
    z = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(deep(z, torch.tensor(-1.0)), shallow(z, torch.tensor(-1.0)))


class Power(Exception):
    """The machine is switched off."""


def test_a_stopped_run_ends_as_one_that_was_not(work, monkeypatch, capsys):
    def run(folder):
        folder.mkdir(exist_ok=True)
        if not (folder / "shards").exists():
            (folder / "shards").symlink_to(work / "shards")
        return train.train(folder, 6, net=small(), cooldown=2, every=2, sides=((64, 2), (72, 1)))

    monkeypatch.setattr(train, "CHECKS", 2)
    whole = run(work / "whole").state_dict()
    real, taken = train.draw_noise, []

    def off(*args):
        taken.append(1)
        if len(taken) == 4:
            raise Power
        return real(*args)

    monkeypatch.setattr(train, "draw_noise", off)
    with pytest.raises(Power):
        run(work / "pieces")
    monkeypatch.setattr(train, "draw_noise", real)
    again = run(work / "pieces").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    told = capsys.readouterr().out
    assert "resuming at step 2 of 6" in told and "denoised dB" in told and "noisy dB 20." in told


def test_evaluation_of_a_folder(work):
    save_photo(small().to(torch.float16), train.build_scheduler(), work / "model")
    figures = evaluate.compare(work / "model", work, with_bm3d=False, long=64, short=48)
    assert figures["mean"]["noisy"] == pytest.approx(20.3, abs=0.5)
    assert figures["mean"]["photos"] > figures["mean"]["noisy"] and (work / "photos-samples.png").exists()


def test_licences_are_read_from_the_copyright_file(tmp_path, monkeypatch):
    folder = tmp_path / "unpacked/p/usr/share/doc/p"
    folder.mkdir(parents=True)
    (folder / "copyright").write_text(
        "Files: *\nCopyright: 2001 Nobody\nLicense: MIT\n\nFiles: nature/X.jpg\n nature/Y.jpg\n"
        "Copyright: 2008, Ann Example <a@example.org>\n           2009, Bo\nLicense: GPL-2+\nComment: c\n\n"
        "Files: debian/*\nCopyright: 2012 Packager\nLicense: Expat\n"
    )
    assert data.licence_of(Photograph("X", "p", "/nature/X.jpg"), tmp_path) == ("Ann Example, Bo", "GPL-2+")
    assert data.licence_of(Photograph("Z", "p", "/nature/Z.jpg"), tmp_path) == ("Nobody", "MIT")
    monkeypatch.setattr(data, "PHOTOGRAPHS", [Photograph("X", "p", "/nature/X.jpg", held=True)])
    card = tmp_path / "card.md"
    card.write_text("no marks")
    with pytest.raises(ValueError, match="has no marks"):
        data.write_table(tmp_path, card)
    card.write_text("Before\n\n<!-- photographs -->\nold\n<!-- end of photographs -->\n\nAfter\n")
    data.write_table(tmp_path, card)
    assert "\n| X | Ann Example, Bo | GPL-2+ | p | held out |\n" in card.read_text() and "old" not in card.read_text()


def test_settings_to_try_are_the_packaged_ones_with_other_steps_and_hyper_parameters():
    found = restoring.tried("deblur", "7/start=0.2/calls=3", Path("photos"))
    assert found.method == "diffpir" and found.steps == 7 and found.hyper == ("start=0.2", "calls=3")
    for wrong, message in (("start=0.2", "give steps and hyper-parameters"), ("7/stat=1", "has no hyper-parameter")):
        with pytest.raises(ValueError, match=message):
            restoring.tried("deblur", wrong, Path("photos"))
