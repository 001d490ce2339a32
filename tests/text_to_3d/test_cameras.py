"""Cameras, lights and backgrounds: their geometry, and that all scenes share them in a step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rsd.heads.attributes import Camera
from rsd.heads.render import _rays
from rsd.randomness import Stream
from rsd.tasks.text_to_3d.scene.backgrounds import Background, draw_colours
from rsd.tasks.text_to_3d.scene.cameras import Cameras, draw_cameras, fov_of, orbit
from rsd.tasks.text_to_3d.scene.lights import Light, draw_light
from rsd.tasks.text_to_3d.scene.settings import CameraSettings, LightSettings


def cameras(*rows):
    """Return (azimuth, elevation, distance, fov) of each camera."""
    return Cameras(*torch.tensor(rows, dtype=torch.float64).T)


@pytest.mark.parametrize(("azimuth", "elevation", "zoom"), [(0, 0, 1), (50, 25, 1.03), (-120, -8, 0.97), (180, 10, 1)])
def test_rays_are_those_that_draw_the_built_in_heads(azimuth, elevation, zoom):
    """The heads' camera looks at (0, 0.08, 0), which is the origin here."""
    origins, directions = cameras((azimuth, elevation, 8, fov_of(1.6 / zoom, 8))).rays(6)
    theirs, their_directions, axes = _rays(Camera(azimuth, elevation, zoom), 6)
    np.testing.assert_allclose(origins[0], np.broadcast_to(theirs - [0, 0.08, 0], (36, 3)), atol=1e-12)
    np.testing.assert_allclose(directions[0].reshape(6, 6, 3), their_directions, atol=1e-12)
    np.testing.assert_allclose(cameras((azimuth, elevation, 8, 20)).axes[0], axes, atol=1e-12)


def test_the_middle_ray_meets_the_origin_and_the_corner_ray_has_the_fov():
    origins, directions = cameras((30, 20, 5, 40)).rays(3)
    torch.testing.assert_close(origins[0, 4] + 5 * directions[0, 4], torch.zeros(3, dtype=torch.float64))
    cosine = float(directions[0, 1] @ directions[0, 7])  # the middles of the top and bottom pixels
    assert math.acos(cosine) == pytest.approx(2 * math.atan(2 / 3 * math.tan(math.radians(20))))


def test_poses_take_the_camera_s_points_to_the_world():
    some = cameras((30, 20, 5, 40), (-100, 5, 3, 20))
    origins, directions = some.rays(3)
    for pose, start, ray in zip(some.pose(), origins[:, 4], directions[:, 4], strict=True):
        ahead = pose @ torch.tensor([0.0, 0, -2, 1], dtype=torch.float64)  # two units in front of the lens
        torch.testing.assert_close(ahead[:3], start + 2 * ray)
        torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3, dtype=torch.float64))
        assert pose[3].tolist() == [0, 0, 0, 1] and float(pose[:3, :3].det()) == pytest.approx(1)
    assert float(some.pose(unit=5)[0, :3, 3].norm()) == pytest.approx(1)


def test_drawn_cameras_fill_their_ranges_and_their_parts():
    settings = CameraSettings(azimuth=(-90, 90), elevation=(0, 20), distance=(3, 4), fov=(30, 50))
    drawn = [draw_cameras(settings, 3, Stream(0), step=step) for step in range(200)]
    for view, (low, high) in enumerate([(-90, -30), (-30, 30), (30, 90)]):
        azimuth = torch.stack([one.azimuth[view] for one in drawn])
        assert low <= azimuth.min() < low + 3 and high - 3 < azimuth.max() <= high
    for name, low, high in (("elevation", 0, 20), ("distance", 3, 4), ("fov", 30, 50)):
        values = torch.cat([getattr(one, name) for one in drawn])
        assert low <= values.min() and values.max() <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


def test_a_step_s_cameras_depend_on_seed_image_and_step_alone():
    settings = CameraSettings()
    one = draw_cameras(settings, 2, Stream(1, "a"), step=5)
    draw_cameras(settings, 2, Stream(1, "a"), step=4)
    assert torch.equal(one.rays(4)[1], draw_cameras(settings, 2, Stream(1, "a"), step=5).rays(4)[1])
    for key in ((Stream(2, "a"), 5), (Stream(1, "b"), 5), (Stream(1, "a"), 6)):
        assert not torch.equal(one.azimuth, draw_cameras(settings, 2, *key).azimuth)


def test_an_orbit():
    around = orbit(CameraSettings(distance=(3, 5)), 4, elevation=15)
    assert around.azimuth.tolist() == [0, 90, 180, 270] and around.elevation.tolist() == [15] * 4
    assert around.distance.tolist() == [4] * 4 and around[1:3].azimuth.tolist() == [90, 180]


@pytest.mark.parametrize(("elevation", "at"), [((-10, 30), 10), ((20, 40), 20), ((-30, -5), -5), ((10, 10), 10)])
def test_an_orbit_looks_from_where_scenes_were_seen(elevation, at):
    assert orbit(CameraSettings(elevation=elevation), 2).elevation.tolist() == [at] * 2


def test_mistakes():
    with pytest.raises(ValueError, match="views is 0"):
        draw_cameras(CameraSettings(), 0, Stream(0))
    with pytest.raises(ValueError, match=r"azimuth is \(5, 0\); give LO HI with -360 <= LO <= HI"):
        CameraSettings(azimuth=(5, 0))
    with pytest.raises(ValueError, match=r"fov is \(20, 180\); give LO HI with 1 <= LO"):
        CameraSettings(fov=(20, 180))
    with pytest.raises(ValueError, match="elevation is"):
        CameraSettings(elevation=(0, 90))
    with pytest.raises(ValueError, match="shaded is 2"):
        LightSettings(shaded=2)
    with pytest.raises(ValueError, match='no background "plaid"; there are white'):
        Background("plaid", Stream(0))


def test_lambert():
    """A lamp directly above a surface, 60 degrees from its normal, and behind it."""
    albedo = torch.tensor([[0.5, 1.0, 0.2]] * 3, dtype=torch.float64)
    normals = torch.tensor([[0.0, 1, 0], [0, 0.5, math.sin(math.pi / 3)], [0, -1, 0]], dtype=torch.float64)
    lamps = torch.tensor([[9.0, 9, 9], [0, 2, 0]], dtype=torch.float64)
    x, views = torch.zeros(3, 3, dtype=torch.float64), torch.ones(3, dtype=torch.int64)
    strength = torch.tensor([1.0, 0.1 + 0.9 * 0.5, 0.1], dtype=torch.float64)[:, None]
    shaded = Light("lambertian", lamps, 0.1, 0.9).shade(albedo, normals, x, views)
    torch.testing.assert_close(shaded, strength * albedo)
    white = Light("textureless", lamps, 0.1, 0.9).shade(albedo, normals, x, views)
    torch.testing.assert_close(white, strength.expand_as(albedo))


def test_the_schedule_of_lights():
    """Light is ambient for the first fifth; then 3/4 are shaded, half of them without texture."""
    view = orbit(CameraSettings(), 2)
    drawn = [draw_light(LightSettings(textureless=0.5), view, Stream(0), steps=2000, step=step) for step in range(2000)]
    assert {light.kind for light in drawn[:400]} == {"ambient"}
    later = [light.kind for light in drawn[400:]]
    for kind, share in (("ambient", 0.25), ("lambertian", 0.375), ("textureless", 0.375)):
        assert later.count(kind) / 1600 == pytest.approx(share, abs=0.035)


def test_lamps_are_about_the_camera():
    view = orbit(CameraSettings(), 2)
    settings = LightSettings(ambient_until=0, shaded=1, light_up=0, light_spread=0.3)
    lamps = torch.stack([draw_light(settings, view, Stream(0), steps=9, step=step).position for step in range(200)])
    torch.testing.assert_close(lamps.norm(dim=-1), torch.full((200, 2), 8.0, dtype=torch.float64))
    cosine = (lamps / 8 * view.back).sum(-1)
    assert 0.85 < float(cosine.mean()) < 0.97
    assert not torch.equal(lamps[:, 0] @ view.axes[0].T, lamps[:, 1] @ view.axes[1].T)  # each view its own


def test_backgrounds():
    _, directions = orbit(CameraSettings(), 2).rays(4)
    drawn = draw_colours(2, Stream(0), step=3)
    assert torch.equal(drawn, draw_colours(2, Stream(0), step=3)) and not torch.equal(drawn[0], drawn[1])
    assert Background("gray", Stream(0))(directions, drawn).unique().tolist() == [0.5]
    random = Background("random", Stream(0))(directions, drawn)
    torch.testing.assert_close(random, drawn[:, None].expand(2, 16, 3))
    learned = Background("learned", Stream(0)).double()
    colours = learned(directions, drawn)
    torch.testing.assert_close(colours, torch.full_like(colours, 0.5), rtol=0, atol=0.02)
    assert colours.std() > 1e-4
    assert not list(Background("random", Stream(0)).parameters()) and len(list(learned.parameters())) == 4
