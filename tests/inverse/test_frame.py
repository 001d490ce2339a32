"""Which parts of a picture are restored, at what size, and how they go back."""

import numpy as np
import pytest
import torch

from rsd.media import fit_to
from rsd.tasks.inverse.pictures.frame import CONTEXT, Frame, Region, feathered, fitted, local, whole


def known_of(height, width, *boxes):
    known = torch.ones(1, 1, height, width, dtype=torch.bool)
    for top, bottom, left, right in boxes:
        known[..., top:bottom, left:right] = False
    return known


@pytest.mark.parametrize("how", ["crop", "resize"])
@pytest.mark.parametrize("sides", [(64, 64), (427, 640), (100, 30), (32, 32)])
def test_a_fitted_picture_is_that_of_fit_to(how, sides):
    x = torch.rand(1, 3, *sides) * 2 - 1
    frame, note = fitted(sides, 64, how)
    expected, text = fit_to(x, 64, how)
    assert torch.equal(frame.view(x), expected) and note == text and frame.shape == (64, 64)
    assert frame.is_whole == frame.returns == (sides == (64, 64))
    with pytest.raises(ValueError, match="but 60 x 60 are required"):
        fitted(sides, 60, "refuse")


def test_holes_that_are_far_apart_are_restored_each_with_its_surroundings():
    known = known_of(600, 900, (10, 20, 30, 60), (22, 30, 40, 50), (400, 440, 500, 560))
    frame = local(known, None)
    assert [one.own for one in frame.regions] == [(0, 30 + CONTEXT, 0, 60 + CONTEXT), (336, 504, 436, 624)]
    assert {one.size[1] for one in frame.regions} == {192} and frame.shape == (30 + CONTEXT + 168, 192)
    assert frame.scale() == 1 and frame.tiles == ((0, 94, 0, 192), (94, 262, 0, 192))
    x = torch.rand(1, 3, 600, 900)
    sheet = frame.view(x)
    assert torch.equal(frame.view_known(known), frame.view(known.float()) == 1)
    answers = torch.stack([sheet[0] + 1, sheet[0] + 2])
    back = frame.back(answers, x, known)
    for k in range(2):
        torch.testing.assert_close(back[k : k + 1] - x, (~known).expand_as(x) * (k + 1.0), atol=1e-6, rtol=0)


def test_holes_all_over_a_picture_mean_all_of_it():
    boxes = [(k, k + 4, j, j + 4) for k in range(0, 400, 60) for j in range(0, 400, 60)]
    assert local(known_of(400, 400, *boxes), None).is_whole and local(known_of(400, 400, *boxes), 64).is_whole
    assert local(known_of(400, 400), None).is_whole
    assert local(known_of(1, 1, (0, 1, 0, 1)), None).is_whole


def test_a_prior_of_one_size_sees_squares_of_it():
    known = known_of(300, 500, (100, 110, 100, 130), (120, 124, 100, 104), (200, 290, 300, 420))
    frame = local(known, 64)
    small, large = frame.regions
    assert (small.sides, small.own) == ((64, 64), (100, 124, 100, 130)) and small.box[0] <= 100 - 8
    assert large.sides == (180, 180) and large.box[1] == 300 and frame.shape == (128, 64)
    assert frame.scale() == pytest.approx(64 / 180)
    x = torch.rand(1, 3, 300, 500) * 2 - 1
    back = frame.back(frame.view(x).expand(2, -1, -1, -1), x, known)
    assert back.shape == (2, 3, 300, 500) and torch.equal(back[:1].masked_fill(~known, 0), x.masked_fill(~known, 0))
    assert torch.equal(back[0, :, 100:110, 100:130], x[0, :, 100:110, 100:130])  # not resized


@pytest.mark.parametrize("sides", [(20, 50), (1, 1), (64, 64), (64, 30)])
def test_pictures_no_larger_than_the_priors_are_one_square(sides):
    frame = local(known_of(*sides, (0, 1, 0, 1), (sides[0] - 1, sides[0], sides[1] - 1, sides[1])), 64)
    assert len(frame.regions) == 1 and frame.shape == (64, 64) and frame.is_whole == (sides == (64, 64))
    x = torch.rand(1, 3, *sides) * 2 - 1
    assert frame.back(frame.view(x), x).shape == x.shape


def test_a_resized_hole_passes_into_its_surroundings():
    known = known_of(60, 60, (20, 40, 20, 40))
    picture = torch.zeros(1, 3, 60, 60)
    shifted = feathered(torch.full((1, 3, 60, 60), 0.5), picture, known)
    line = shifted[0, 0, 30, 20:40]
    assert abs(float(line[0])) < 0.15 and float(line[10]) > 0.45 and bool((line[1:10] > line[:9]).all())


def test_a_mirrored_region_reaches_beyond_the_picture():
    frame = Frame((2, 3), (Region((0, 4, 0, 4), (4, 4)),))
    x = torch.from_numpy(np.arange(6.0)).reshape(1, 1, 2, 3)
    assert frame.view(x)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]
    assert torch.equal(frame.back(frame.view(x).expand(1, 3, -1, -1), x.expand(1, 3, -1, -1))[:, :1], x)
    assert whole((2, 3)).view(x) is x
