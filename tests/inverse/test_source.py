"""Answers have the size, bit depth, colours, profile, EXIF and transparency of the file, and equal it outside."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from rsd.media import read_image
from rsd.tasks.inverse.pictures.source import read_source
from tests import profiles

HEIGHT, WIDTH = 12, 9
DATA = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
RGB = Image.fromarray(DATA[..., :3])
MUTED = Image.fromarray(96 + DATA[..., :3] // 4)
"""Colours that sRGB has too; others are cut where they are restored."""
P3 = profiles.rgb(profiles.DISPLAY_P3, profiles.SRGB_CURVE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def palette():
    return RGB.quantize(16)


PICTURES = {
    "1-bit": (Image.fromarray(DATA[..., 0] > 128), "png", {}),
    "grey": (Image.fromarray(DATA[..., 0]), "png", {}),
    "grey 16-bit": (Image.fromarray(DEEP[..., 0]), "png", {}),
    "grey 16-bit tiff": (Image.fromarray(DEEP[..., 0]), "tif", {}),
    "grey and alpha": (Image.fromarray(DATA[..., :2], "LA"), "png", {}),
    "palette": (palette(), "png", {}),
    "palette, transparent": (palette(), "png", {"transparency": 3}),
    "rgb": (RGB, "png", {}),
    "rgb, one transparent colour": (RGB, "png", {"transparency": tuple(int(v) for v in DATA[0, 0, :3])}),
    "rgba": (Image.fromarray(DATA, "RGBA"), "png", {}),
    "rgba webp": (Image.fromarray(DATA, "RGBA"), "webp", {"lossless": True, "exact": True}),
    "cmyk": (Image.fromarray(DATA, "CMYK"), "tif", {}),
    "float": (Image.fromarray(DATA[..., 0] / np.float32(255)), "tif", {}),
    "display p3": (MUTED, "png", {"icc_profile": P3}),
    "srgb profile": (RGB, "png", {"icc_profile": SRGB, "dpi": (300, 300)}),
    "bmp": (RGB, "bmp", {}),
}


def seen(path):
    """What a viewer shows, in the values of the file: its mode, pixels and transparency."""
    with Image.open(path) as picture:
        mode = "RGBA" if picture.has_transparency_data else "CMYK" if picture.mode == "CMYK" else None
        return np.asarray(picture.convert(mode) if mode else picture if picture.mode[0] in "1LIF" else
                          picture.convert("RGB"))  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_outside_the_damage_equal_the_files(tmp_path, name):
    picture, suffix, options = PICTURES[name]
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **options)
    source = read_source(path)
    share = torch.zeros(HEIGHT, WIDTH)
    share[3:6, 2:7] = 1
    share[6, 2:7] = 0.5
    x = -read_image(path)[0]
    out = source.answer(x, share).save(tmp_path / "out.png", {"seed": "1"})
    assert out.suffix == (".tif" if name in ("cmyk", "float") else ".png")
    before, after = seen(path), seen(out)
    keep = (share == 0).numpy()
    assert before.dtype == after.dtype and np.array_equal(before[keep], after[keep])
    colours = slice(0, 3) if before.ndim == 3 and name != "cmyk" else slice(None)
    assert not np.array_equal(before[~keep][..., colours], after[~keep][..., colours])
    with Image.open(path) as a, Image.open(out) as b:
        assert a.size == b.size and (b.info.get("icc_profile") or b"") == options.get("icc_profile", b"")
        assert [round(v) for v in b.info.get("dpi", ())] == [round(v) for v in a.info.get("dpi", ())]
        if out.suffix == ".png":
            assert b.text == {"seed": "1"}
    # The picture itself as the answer changes nothing but rounding (1 bit: nothing at all).
    same = source.answer(read_image(path)[0])
    difference = np.abs(same.values.astype(float) - source.values.astype(float)) / source.top
    shown = source.values[..., -1:] > 0 if source.has_alpha else np.ones((), dtype=bool)
    if name != "cmyk":  # inks are not unique
        assert (difference * shown).max() < (0.03 if name == "display p3" else 0.005)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_16_bits(tmp_path, channels, suffix):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / f"deep.{suffix}"
    if suffix == "png":
        from rsd.tasks.inverse.pictures.source import Source

        modes = {2: "LA", 3: "RGB", 4: "RGBA"}
        Source(DEEP[..., :channels], modes[channels]).save(path)
        with Image.open(path) as picture:  # Pillow reads the high bytes
            shown = np.asarray(picture.convert(modes[channels]))
        assert np.abs(shown.astype(int) - (DEEP[..., :channels] >> 8)).max() <= 1
    elif channels == 3:
        tifffile.imwrite(path, DEEP[..., :3], photometric="rgb")
    else:
        pytest.skip("one kind of TIFF is enough")
    source = read_source(path)
    assert source.values.dtype == np.uint16 and np.array_equal(source.values, DEEP[..., :channels])
    share = torch.zeros(HEIGHT, WIDTH)
    share[0, 0] = 1
    again = read_source(source.answer(torch.zeros(3, HEIGHT, WIDTH), share).save(tmp_path / "out.png"))
    assert np.array_equal(again.values[1:], DEEP[1:, :, :channels]) and not np.array_equal(again.values, source.values)
    x = torch.from_numpy(DEEP[..., :3].astype(np.float32) / 32767.5 - 1).permute(2, 0, 1).contiguous()
    whole = read_source(source.answer(x).save(tmp_path / "whole.png")).values
    assert whole.dtype == np.uint16 and whole.shape == source.values.shape
    assert channels != 3 or np.abs(whole.astype(int) - DEEP[..., :3]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_picture_is_upright_with_its_other_exif(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "maker"
    path = tmp_path / "a.png"
    RGB.save(path, exif=exif)
    x = read_image(path)[0]
    out = read_source(path).answer(-x, torch.zeros(x.shape[1:])).save(tmp_path / "out.png")
    with Image.open(out) as picture:
        assert picture.getexif().get(0x0112, 1) == 1 and picture.getexif()[0x010F] == "maker"
    assert torch.equal(read_image(out)[0], x)


def test_colours_of_display_p3_are_put_back(tmp_path):
    path = tmp_path / "p3.png"
    MUTED.save(path, icc_profile=P3)
    x = read_image(path)
    assert not torch.equal(x, read_image_without_profile(path))
    out = read_source(path).answer(x[0]).save(tmp_path / "out.png")
    assert float((read_image(out) - x).abs().max()) < 0.02


def read_image_without_profile(path):
    with Image.open(path) as picture:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", icc_profile=None)
    path = path.with_name("plain.png")
    path.write_bytes(buffer.getvalue())
    return read_image(path)


def test_filled_transparency_becomes_opaque_and_enlarged_pictures_keep_theirs(tmp_path):
    path = tmp_path / "a.png"
    data = DATA.copy()
    data[..., 3] = 255
    data[3:6, 2:7, 3] = 0
    Image.fromarray(data, "RGBA").save(path)
    source = read_source(path)
    share = torch.from_numpy(data[..., 3] == 0).float()
    filled = source.answer(torch.zeros(3, HEIGHT, WIDTH), share, fill=True).values
    assert filled[..., 3].min() == 255 and np.array_equal(filled[:3], data[:3]) and (filled[3:6, 2:7, :3] == 128).all()
    twice = source.answer(torch.zeros(3, 2 * HEIGHT, 2 * WIDTH))
    assert twice.values.shape == (2 * HEIGHT, 2 * WIDTH, 4) and twice.values[..., 3].min() == 0


def test_colours_for_a_grey_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(DEEP[..., 0]).save(path)
    found = read_source(path).answer(torch.rand(3, HEIGHT, WIDTH), colour=True)
    assert found.values.shape == (HEIGHT, WIDTH, 3) and found.values.dtype == np.uint16 and found.mode == "RGB"


def test_colours_for_a_grey_picture_of_floating_point_values(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)).save(path)
    x = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = read_source(path).answer(x, colour=True)
    assert found.values.dtype == np.uint16 and found.mode == "RGB"
    again = read_source(found.save(tmp_path / "out")).values
    assert np.abs(again / 65535 - (x.permute(1, 2, 0).numpy() + 1) / 2).max() < 1e-4
