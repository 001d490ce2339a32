"""Reading and writing images: values, geometry and errors."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile
from safetensors.torch import save_file

from rsd import media
from tests import profiles

WHITE, RED = [1.0, 1.0, 1.0], [1.0, -1.0, -1.0]


def pixel(x: torch.Tensor, row: int, column: int) -> list[float]:
    return x[0, :, row, column].tolist()


def read(image: Image.Image, path: Path, **options) -> torch.Tensor:
    image.save(path, **options)
    return media.read_image(path)


def of(values, dtype) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=dtype))


def test_values(tmp_path):
    x = read(of([[[0, 51, 255], [255, 0, 102]]], np.uint8), tmp_path / "a.png")
    assert x.shape == (1, 3, 1, 2) and x.dtype == torch.float32
    assert torch.allclose(x[0, :, 0, 0], torch.tensor([-1.0, -0.6, 1.0]), atol=1e-6)
    assert torch.allclose(x[0, :, 0, 1], torch.tensor([1.0, -1.0, -0.2]), atol=1e-6)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right column
    stored = np.full((2, 3, 3), 255, np.uint8)
    stored[0, 0] = [255, 0, 0]
    x = read(Image.fromarray(stored), tmp_path / "a.png", exif=exif)
    assert x.shape == (1, 3, 3, 2)
    assert pixel(x, 0, 1) == RED and pixel(x, 0, 0) == WHITE


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (of([[[0, 0, 0, 0], [255, 0, 0, 255]]], np.uint8), {}),
        (of([[[9, 9, 9], [255, 0, 0]]], np.uint8), {"transparency": (9, 9, 9)}),
    ],
)
def test_transparency_is_laid_on_white(tmp_path, image, options):
    x = read(image, tmp_path / "a.png", **options)
    assert pixel(x, 0, 0) == WHITE and pixel(x, 0, 1) == RED


def test_half_transparent_black_is_grey_and_white_stays_in_range(tmp_path):
    x = read(of([[[0, 0, 0, 51], [255, 255, 255, 77]]], np.uint8), tmp_path / "a.png")
    assert pixel(x, 0, 0) == pytest.approx([0.6] * 3, abs=1e-6)
    assert pixel(x, 0, 1) == WHITE


def test_grey_with_alpha(tmp_path):
    x = read(of([[[100, 0], [0, 255]]], np.uint8), tmp_path / "a.png")
    assert pixel(x, 0, 0) == WHITE and pixel(x, 0, 1) == [-1.0] * 3


@pytest.mark.parametrize(("options", "first"), [({}, RED), ({"transparency": 0}, WHITE)])
def test_palette(tmp_path, options, first):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    x = read(image, tmp_path / "a.png", **options)
    assert pixel(x, 0, 0) == first and pixel(x, 0, 1) == [-1.0, -1.0, 1.0]


@pytest.mark.parametrize(("dtype", "suffix"), [("<u2", "png"), ("<u2", "tif"), (">u2", "tif"), (np.int32, "tif")])
def test_sixteen_bit_grey_is_read_exactly(tmp_path, dtype, suffix):
    values = np.array([[0, 256, 32768], [1, 40000, 65535]])
    x = read(of(values, dtype), tmp_path / f"a.{suffix}")
    expected = torch.from_numpy(values / 65535 * 2 - 1).float()
    assert torch.allclose(x, expected.expand(1, 3, 2, 3), atol=1e-6)


def test_sixteen_bit_colours(tmp_path):
    row = b"\0" + struct.pack(">3H", 0, 0x8080, 0xFFFF)
    chunk = lambda k, d: struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))  # noqa: E731
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert pixel(media.read_image(tmp_path / "a.png"), 0, 0) == pytest.approx([-1, 0x80 / 127.5 - 1, 1], abs=1e-6)


def test_cmyk_jpeg_and_bilevel(tmp_path):
    x = read(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert pixel(x, 8, 8) == pytest.approx(RED, abs=0.05)
    assert pixel(read(of([[0, 1]], bool), tmp_path / "b.png"), 0, 1) == WHITE


def test_float_tiff_and_values_out_of_range(tmp_path):
    assert pixel(read(of([[0.25, 1]], np.float32), tmp_path / "a.tif"), 0, 0) == [-0.5] * 3
    for values, dtype in (([[0, 70000]], np.int32), ([[-1, 5]], np.int32), ([[0, 1.5]], "f4"), ([[0, np.nan]], "f4")):
        with pytest.raises(ValueError, match=r"b\.tif has pixels that are not finite or not in 0 to (1|65535);"):
            read(of(values, dtype), tmp_path / "b.tif")


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), c) for c in ("red", "blue")]
    assert pixel(read(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:]), 0, 0) == RED


def test_too_many_pixels(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (20000, 10000)).save(path)  # 200 million: Pillow itself would only warn
    with pytest.raises(ValueError, match=r"a\.png has more than 100,000,000 pixels; make it smaller"):
        media.read_image(path)
    monkeypatch.setattr(media, "MAX_PIXELS", 10**10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="make it smaller"):
        media.read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_truncated(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with warnings.catch_warnings(), pytest.raises(ValueError, match=rf"{name} is (a damaged|not a) picture"):
        warnings.simplefilter("error")
        media.read_image(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"P6 x 4 255\n", b"qoif" + bytes(9)])
def test_no_picture(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png is (a damaged|not a) picture"):
        media.read_image(tmp_path / "a.png")


def test_only_raster_formats_are_opened(tmp_path, monkeypatch):
    """Pillow would start Ghostscript on an EPS file, whatever it is called."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    assert Image.open(tmp_path / "a.png").format == "EPS"
    with pytest.raises(ValueError, match=r"a\.png is not a picture in a supported format"):
        media.read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("suffix", "format_"), [("jpg", "MPO"), ("webp", "WEBP"), ("bmp", "BMP"), ("ppm", "PPM")])
def test_other_raster_formats_are_opened(tmp_path, suffix, format_):
    images = [Image.new("RGB", (16, 16), "red")] * 2
    more = {"save_all": True, "append_images": images[1:]} if format_ == "MPO" else {}  # some cameras' JPEG
    images[0].save(tmp_path / f"a.{suffix}", format=format_, **more)
    assert pixel(media.read_image(tmp_path / f"a.{suffix}"), 8, 8) == pytest.approx(RED, abs=0.05)


def test_a_text_chunk_that_unpacks_without_end(tmp_path):
    chunk = lambda k, d: struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))  # noqa: E731
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10_000_000)))
    media.write_png(tmp_path / "a.png", torch.zeros(1, 3, 1, 1))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + bomb + data[33:])
    with pytest.raises(ValueError, match=r"a\.png is a damaged picture \(Decompressed data too large"):
        media.read_image(tmp_path / "a.png")


def test_no_file(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        for reader in (media.read_image, media.read_measurement):
            with pytest.raises(FileNotFoundError, match="is not a file; check the path"):
                reader(path)


def test_png_round_trip(tmp_path):
    x = torch.rand(1, 3, 7, 5) * 2 - 1
    x[0, 0, 0] = torch.tensor([-1, 1, 0, -1.5, 1.5])
    media.write_png(tmp_path / "a.png", x)
    back = media.read_image(tmp_path / "a.png")
    assert (back - x.clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6
    media.write_png(tmp_path / "b.png", back)
    assert torch.equal(media.read_image(tmp_path / "b.png"), back)
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_text_round_trip(tmp_path):
    text = {"prompt": "Ein Porträt, 日本, 🙂\nzweite Zeile", "seed": "0", "empty": ""}
    media.write_png(tmp_path / "a.png", torch.zeros(1, 3, 2, 2), text=text)
    assert media.read_text(tmp_path / "a.png") == text
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    assert media.read_text(tmp_path / "a.jpg") == {}


def test_to_uint8_of_half_precision_and_gradients():
    x = torch.tensor([-2.0, -1.0, 0.5, 1.0]).repeat(3, 1)[:, None]
    for given in (x.bfloat16(), x.requires_grad_()):
        assert media.to_uint8(given)[0, :, 0].tolist() == [0, 0, 191, 255]


def ramp(height: int, width: int) -> torch.Tensor:
    """Return an image whose values are the column's number over the width, in [-1, 1]."""
    return (torch.arange(width) / (width - 1) * 2 - 1).expand(1, 3, height, width)


def test_fit_leaves_what_fits():
    x = ramp(8, 8)
    for how in ("crop", "resize", "refuse"):
        fitted, note = media.fit_to(x, 8, how)
        assert fitted is x and note is None


def test_fit_crop():
    x = ramp(8, 20)
    fitted, note = media.fit_to(x, 8, "crop")
    assert torch.equal(fitted, x[..., 6:14])
    assert note == "cropped from 20 x 8 px to its central 8 x 8"
    fitted, note = media.fit_to(x, 4, "crop")
    assert fitted.shape == (1, 3, 4, 4)
    assert note == "cropped from 20 x 8 px to its central 8 x 8 and resized from 8 x 8 px to 4 x 4"
    assert torch.allclose(fitted.mean(), torch.tensor(0.0), atol=1e-5)  # the centre stays the centre


def test_fit_resize():
    x = ramp(8, 20)
    fitted, note = media.fit_to(x, 8, "resize")
    assert fitted.shape == (1, 3, 8, 8) and note == "resized from 20 x 8 px to 8 x 8"
    centres = ((torch.arange(8) + 0.5) * 20 / 8 - 0.5) / 19 * 2 - 1
    assert torch.allclose(fitted[0, 0, 0, 2:6], centres[2:6], atol=2e-3)  # half a pixel is 0.05
    edge = (torch.arange(16) > 7).float().expand(1, 3, 16, 16) * 2 - 1
    up, _ = media.fit_to(edge, 64, "resize")
    assert up.min() == -1 and up.max() == 1  # no bicubic overshoot


def test_fit_refuses():
    with pytest.raises(ValueError, match=r"The image is 20 x 8 px, but 8 x 8 are required; use --fit crop"):
        media.fit_to(ramp(8, 20), 8, "refuse")


def test_fit_knows_four_words():
    for size in (8, 20):  # also where nothing would be done
        with pytest.raises(ValueError, match='Unknown fit "stretch"; use whole, crop, resize, refuse'):
            media.fit_to(ramp(8, 8), size, "stretch")


def test_grid_geometry():
    red = torch.tensor(RED)[None, :, None, None].expand(1, 3, 64, 64)
    sheet = media.grid([red] * 3, labels=["a", "b", "c"], columns=2)
    side, gap, head = media.CELL, media.MARGIN, media.LABEL
    assert sheet.size == (2 * side + 3 * gap, 2 * (side + head) + 3 * gap)
    assert sheet.getpixel((gap, gap + head)) == (255, 0, 0)
    assert sheet.getpixel((gap + side + gap, gap + head)) == (255, 0, 0)
    assert sheet.getpixel((gap + side + gap, gap + head + side + gap + head)) == (255, 255, 255)  # an empty cell
    assert media.grid([red]).size == (side + 2 * gap, side + 2 * gap)


def test_deviation():
    images = torch.zeros(2, 3, 2, 2)
    images[0, :, 0, 0], images[1, :, 0, 0] = -1, 1  # deviation 1 in all colours
    images[1, 0, 1, 1] = 3  # clamped to 1: deviation 0.5 in one of three colours
    values = media.deviation(images)
    assert torch.allclose(values, torch.tensor([[1, 0], [0, 0.5 / 3]]), atol=1e-6)
    assert torch.equal(media.deviation(images[:1]), torch.zeros(2, 2))


def test_spread_is_dark_where_particles_agree():
    images = torch.zeros(2, 3, 2, 2)
    images[0, :, 0, 0], images[1, :, 0, 0] = -1, 1
    sheet = media.spread(images)
    assert sheet.size == (2 * media.CELL + 70, 2 * media.CELL)
    assert sheet.getpixel((0, 0)) == (252, 253, 191)
    assert sheet.getpixel((2 * media.CELL - 1, 0)) == (0, 0, 4)
    assert media.spread(images[:1]).getpixel((0, 0)) == (0, 0, 4)  # one particle: nothing to disagree with


@pytest.mark.parametrize("count", [1, 4])
def test_gif(tmp_path, count):
    frames = [torch.full((2, 3, 8, 8), k / 2 - 1) for k in range(count)]
    media.write_gif(tmp_path / "a.gif", frames, milliseconds=90, hold=2500)
    with Image.open(tmp_path / "a.gif") as gif:
        assert getattr(gif, "n_frames", 1) == count
        assert gif.size == (2 * media.CELL + 3 * media.MARGIN, media.CELL + 2 * media.MARGIN)
        for k in range(count):  # every frame has its own colours, not the last frame's
            gif.seek(k)
            assert gif.convert("RGB").getpixel((50, 50)) == pytest.approx((127.5 * k / 2,) * 3, abs=4)
        assert gif.info["duration"] == 2500


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_measurement_round_trip(tmp_path, dtype):
    y = torch.randn(1, 3, 4, 5, dtype=dtype).transpose(2, 3)
    media.write_measurement(tmp_path / "y.safetensors", y, {"task": "hdr"})
    back = media.read_measurement(tmp_path / "y.safetensors")
    assert back.dtype == dtype and torch.equal(back, y)


def test_measurement_of_other_kinds(tmp_path):
    path = tmp_path / "y.safetensors"
    save_file({"whatever": torch.tensor([[1, 2]], dtype=torch.int32)}, path)
    y = media.read_measurement(path)
    assert y.dtype == torch.float32 and y.tolist() == [[1.0, 2.0]]
    save_file({"y": torch.ones(1), "other": torch.zeros(1)}, path)
    assert media.read_measurement(path).tolist() == [1.0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"y": torch.tensor([1, float("nan")])}, "not finite"),
        ({"y": torch.tensor([1, float("inf")], dtype=torch.complex64)}, "not finite"),
        ({"a": torch.ones(1), "b": torch.zeros(1)}, r"contains \['a', 'b'\]; a measurement is one tensor"),
        ({}, "a measurement is one tensor"),
    ],
)
def test_measurement_refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=message):
        media.read_measurement(tmp_path / "y.safetensors")


def test_measurement_damaged(tmp_path):
    for data in (b"", b"hello", bytes(20)):
        (tmp_path / "y.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="is not a safetensors file"):
            media.read_measurement(tmp_path / "y.safetensors")


def colour(path: Path, image: Image.Image, profile: bytes, **options) -> list[int]:
    """Return the middle pixel as it is read, in 8 bits."""
    image.save(path, icc_profile=profile, **options)
    x = media.read_image(path)
    return media.to_uint8(x)[image.height // 2, image.width // 2].tolist()


P3 = profiles.rgb(profiles.DISPLAY_P3, profiles.SRGB_CURVE)
ADOBE = profiles.rgb(profiles.ADOBE_RGB, profiles.gamma(2.2))
EXACTLY = {"webp": {"lossless": True}, "avif": {"quality": 100, "subsampling": "4:4:4"}}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "avif"])
@pytest.mark.parametrize(
    ("profile", "stored", "srgb"),
    [  # what CSS Color 4 and Adobe's paper say of sRGB's red, green and a grey
        (P3, (234, 51, 35), (255, 0, 0)),
        (P3, (117, 251, 76), (0, 255, 0)),
        (P3, (119, 119, 119), (119, 119, 119)),
        (ADOBE, (219, 0, 0), (255, 0, 0)),
        (ADOBE, (144, 255, 60), (0, 255, 0)),
    ],
)
def test_colours_of_a_profile_become_srgb(tmp_path, suffix, profile, stored, srgb):
    image = Image.new("RGB", (16, 16), stored)
    found = colour(tmp_path / f"a.{suffix}", image, profile, **EXACTLY.get(suffix, {}))
    assert found == pytest.approx(srgb, abs=6 if suffix == "avif" else 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_pictures_in_srgb_and_greys_of_other_displays_stay_as_they_are(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "plain.png")
    own = profiles.rgb(profiles.DISPLAY_P3, profiles.SRGB_CURVE) if mode in ("L", "LA", "1") else None
    image.save(tmp_path / "srgb.png", icc_profile=own or ImageCmsProfile(createProfile("sRGB")).tobytes())
    found = [media.read_image(tmp_path / name) for name in ("plain.png", "srgb.png")]
    assert (found[0] - found[1]).abs().max() <= (1.01 / 127.5 if own else 0)


def test_a_profile_of_a_picture_with_transparency(tmp_path):
    image = Image.new("RGBA", (2, 1), (234, 51, 35, 255))
    image.putpixel((0, 0), (234, 51, 35, 0))
    x = read(image, tmp_path / "a.png", icc_profile=P3)
    assert pixel(x, 0, 0) == WHITE and pixel(x, 0, 1) == pytest.approx(RED, abs=0.03)


def test_greys_of_a_profile_become_srgb(tmp_path):
    linear = profiles.grey(profiles.gamma(1.0))
    assert colour(tmp_path / "a.png", Image.new("L", (2, 2), 55), linear) == pytest.approx([128] * 3, abs=1)
    x = read(of([[14135, 0, 65535]], "<u2"), tmp_path / "b.png", icc_profile=linear)  # 55 of 255, in 16 bits
    assert media.to_uint8(x)[0].tolist() == [pytest.approx([v] * 3, abs=1) for v in (128, 0, 255)]


def test_inks_of_a_profile_become_srgb(tmp_path):
    """L* 50 is 119 in sRGB, where the naive conversion has 127."""
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 128))
    assert colour(tmp_path / "a.tif", image, profiles.cmyk()) == pytest.approx([118] * 3, abs=2)
    image.save(tmp_path / "b.tif")
    assert media.to_uint8(media.read_image(tmp_path / "b.tif"))[8, 8].tolist() == [127] * 3


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (b"no profile", "it is damaged"),
        (P3[:200], "it is damaged"),
        (profiles.cmyk(), "it is of CMYK colours, the picture of RGB"),
        (profiles.grey(profiles.gamma(1.0)), "it is of GRAY colours, the picture of RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_ignored_with_a_warning(tmp_path, profile, why):
    Image.new("RGB", (2, 2), (234, 51, 35)).save(tmp_path / "a.png", icc_profile=profile)
    with pytest.warns(
        UserWarning, match=rf"a\.png: its colour profile is ignored \({why}.*\); colours are read as sRGB"
    ):
        x = media.read_image(tmp_path / "a.png")
    assert media.to_uint8(x)[0, 0].tolist() == [234, 51, 35]


@pytest.mark.parametrize("suffix", [s for s in media.PICTURES if s not in (".pbm", ".mpo")])
def test_every_suffix_of_a_picture_is_read(tmp_path, suffix):
    mode = "L" if suffix == ".pgm" else "RGB"
    Image.new("RGB", (16, 16), "white").convert(mode).save(tmp_path / f"a{suffix.upper()}")
    assert pixel(media.read_image(tmp_path / f"a{suffix.upper()}"), 8, 8) == pytest.approx(WHITE, abs=0.05)


def test_alpha(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = of([[[0, 0, 0, 0], [9, 9, 9, 51], [9, 9, 9, 255]]], np.uint8)
    image.save(tmp_path / "a.png", exif=exif)
    alpha = media.read_alpha(tmp_path / "a.png")
    assert alpha.shape == (1, 1, 3, 1) and alpha.flatten().tolist() == pytest.approx([0, 0.2, 1])
