import pytest
import torch

from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.operators.masks import box_mask, freeform_mask, given_mask, random_mask, read_mask


def hidden_range(task, size):
    """Return the first and last hidden row and column, after checking that exactly that rectangle is hidden."""
    hidden = ~make_operator(task, size=size).observed[0, 0]
    rows, columns = hidden.any(1).nonzero().flatten(), hidden.any(0).nonzero().flatten()
    box = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    assert int(hidden.sum()) == (box[1] - box[0] + 1) * (box[3] - box[2] + 1)
    return box


@pytest.mark.parametrize(
    ("task", "size", "box"),
    [
        ("inpaint_half_face", 512, (150, 449, 250, 449)),
        ("inpaint_half_face", 256, (75, 224, 125, 224)),
        ("inpaint_half_face", 64, (19, 55, 31, 55)),
        ("inpaint_full_face", 512, (150, 449, 150, 374)),
        ("inpaint_full_face", 64, (19, 55, 19, 46)),
    ],
)
def test_preset_boxes(task, size, box):
    assert hidden_range(task, size) == box


def test_box_hides_its_inclusive_rows_and_columns():
    keep = box_mask((1, 2, 0, 0), 4)[0, 0]
    expected = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(keep, expected)


@pytest.mark.parametrize("box", [(3, 2, 0, 1), (0, 4, 0, 1), (-1, 2, 0, 1), (0, 1, 2, 4)])
def test_boxes_that_leave_the_image_are_rejected(box):
    with pytest.raises(ValueError, match="must lie in 0-3"):
        box_mask(box, 4)


def test_a_mask_that_hides_everything_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="box hides every pixel"):
        box_mask((0, 3, 0, 3), 4)
    with pytest.raises(ValueError, match="mask hides every pixel"):
        given_mask(torch.zeros(4, 4), 4)


def test_random_mask_hides_80_percent_of_the_pixels_in_all_channels():
    f = make_operator("inpaint_random", size=64, seed=5)
    assert f.observed.shape == (1, 1, 64, 64) and int((~f.observed).sum()) == round(0.8 * 64 * 64)
    y = f(torch.ones(1, 3, 64, 64))
    assert torch.equal(y[0, 0], y[0, 2]) and float(y.mean()) == pytest.approx(0.2, abs=1e-4)
    quarters = random_mask(64, seed=5).float().reshape(2, 32, 2, 32).mean((1, 3))
    assert ((quarters - 0.2).abs() < 0.06).all()  # spread evenly: 4.8 standard deviations
    with pytest.raises(ValueError, match="hidden share"):
        random_mask(8, seed=0, hidden=1.0)


@pytest.mark.parametrize("size", [32, 64, 256])
def test_freeform_masks_cover_10_to_20_percent(size):
    covered = torch.tensor(
        [1 - float(freeform_mask(size, seed=seed).float().mean()) for seed in range(50 if size < 256 else 12)]
    )
    assert covered.min() >= 0.10 and covered.max() <= 0.20
    assert covered.max() - covered.min() > 0.05


def test_freeform_masks_are_strokes_and_keep_their_shape_at_another_size():
    small, large = (freeform_mask(size, seed=2)[0, 0] for size in (64, 256))
    neighbours = (small[1:] == small[:-1]).float().mean()
    assert neighbours > 0.93  # independent pixels with 15% hidden would agree in 74%
    shrunk = torch.nn.functional.avg_pool2d(large[None, None].float(), 4)[0, 0] > 0.5
    assert (shrunk == small).float().mean() > 0.95


def test_given_mask_is_kept_where_white(tmp_path):
    mask = torch.tensor([[1.0, 0.0], [0.6, 0.4]])
    expected = torch.tensor([[True, False], [True, False]])
    assert torch.equal(given_mask(mask, 2)[0, 0], expected)
    assert torch.equal(given_mask(expected[None, None], 2)[0, 0], expected)


def test_mask_from_a_png(tmp_path):
    from PIL import Image

    path = tmp_path / "mask.png"
    grey = Image.new("L", (4, 4), 255)
    grey.putpixel((3, 0), 0)  # column 3, row 0
    for mode in ("L", "1", "RGB", "P"):
        grey.convert(mode).save(path)
        hidden = (~given_mask(path, 4)[0, 0]).nonzero().tolist()
        assert hidden == [[0, 3]], mode
    with pytest.raises(ValueError, match=r"has shape \[4, 4\], the image \[8, 8\]"):
        given_mask(path, 8)


def test_a_mask_with_transparent_pixels_is_rejected(tmp_path):
    from PIL import Image

    path = tmp_path / "mask.png"
    alpha = Image.new("L", (4, 4), 255)
    grey = Image.new("L", (4, 4), 255)
    grey.putpixel((3, 0), 0)
    Image.merge("LA", [grey, alpha]).save(path)
    assert (~given_mask(path, 4)[0, 0]).nonzero().tolist() == [[0, 3]]
    alpha.putpixel((1, 1), 254)
    Image.merge("LA", [grey, alpha]).save(path)
    with pytest.raises(ValueError, match=f"The mask {path} has transparent pixels; save it without transparency"):
        given_mask(path, 4)
    Image.new("L", (4, 4), 255).save(path, transparency=255)  # one grey is transparent, without an alpha channel
    with pytest.raises(ValueError, match="has transparent pixels"):
        read_mask(path)


def test_a_mask_image_may_have_any_size_but_must_leave_something(tmp_path):
    from PIL import Image

    Image.new("L", (5, 3), 255).save(tmp_path / "white.png")
    assert read_mask(tmp_path / "white.png").shape == (1, 1, 3, 5) and read_mask(tmp_path / "white.png").all()
    Image.new("L", (5, 3), 127).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="black.png hides every pixel; white is known"):
        read_mask(tmp_path / "black.png")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(4, 5), r"mask has shape \[4, 5\], the image \[4, 4\]"),
        (torch.ones(3, 4, 4), r"shape \[3, 4, 4\]"),
        (torch.ones(16), r"shape \[16\]"),
        (torch.full((4, 4), float("nan")), "not finite"),
    ],
)
def test_invalid_masks_are_rejected(mask, words):
    with pytest.raises(ValueError, match=words):
        given_mask(mask, 4)


def test_a_tensor_mask_may_be_inverted():
    mask = torch.eye(4)
    assert torch.equal(given_mask(mask, 4, "white"), ~given_mask(mask, 4))
    assert torch.equal(make_operator("inpaint_mask", size=4, mask=mask, mask_hole="white").observed[0, 0], mask == 0)
    with pytest.raises(ValueError, match='hidden pixels is "grey"; give black or white'):
        given_mask(mask, 4, "grey")


def test_a_mask_with_colours_is_refused(tmp_path):
    from PIL import Image

    path = tmp_path / "mask.png"
    picture = Image.new("RGB", (8, 8), "white")
    picture.paste((255, 0, 0), (0, 0, 4, 2))  # painted red: its grey is neither
    picture.save(path)
    with pytest.raises(ValueError, match=f"The mask {path} has colours \\(12% of its pixels\\); save it in black and"):
        read_mask(path)
    picture.paste((12, 4, 0), (0, 0, 4, 2))  # as JPEG tints black
    picture.save(path)
    assert int((~read_mask(path)).sum()) == 8
