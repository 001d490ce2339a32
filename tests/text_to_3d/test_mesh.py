"""Meshes of a ball with known radius and colour, their files, and pictures from all sides."""

from __future__ import annotations

import json
import math
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rsd.randomness import Stream
from rsd.tasks.text_to_3d.outputs import contact_sheet, write_turntable
from rsd.tasks.text_to_3d.scene.cameras import orbit
from rsd.tasks.text_to_3d.scene.field import Field
from rsd.tasks.text_to_3d.scene.mesh import extract, optical_depth, write_mesh
from rsd.tasks.text_to_3d.scene.settings import CameraSettings, FieldSettings


class Ball(torch.nn.Module):
    """A density that falls from ``height`` to ``fog`` around ``radius`` about ``centre``; red above, blue below."""

    def __init__(self, height=60.0, radius=0.8, centre=(0.2, -0.1, 0.3), fog=0.05):
        super().__init__()
        self.height, self.radius, self.fog = height, radius, fog
        self.centre = torch.nn.Parameter(torch.tensor(centre))
        self.settings = types.SimpleNamespace(bound=1.5)

    def forward(self, x):
        density = self.fog + self.height * (40 * (self.radius - (x - self.centre).norm(dim=-1))).sigmoid()
        above = (x[:, 1:2] > -0.1).to(x)
        return density, torch.cat([above, torch.full_like(above, 0.5), 1 - above], 1)


def test_a_ball():
    """Volume, radius and orientation; the surface is where a tenth of the light is lost, a little outside the edge."""
    mesh = extract(Ball(), resolution=64)
    assert mesh.threshold is None
    radius = np.linalg.norm(mesh.vertices - [0.2, -0.1, 0.3], axis=1)
    # Towards x, the edge takes 60/40 log(1 + exp(-40 (r - 0.8))) of optical depth, and the fog before it 0.02.
    lost = -math.log(0.9) - 0.02
    side = np.abs(mesh.vertices - [0.2, -0.1, 0.3])[:, 1:].max(1) < 0.1
    assert radius[side].mean() == pytest.approx(0.8 - math.log(math.expm1(lost * 40 / 60)) / 40, abs=0.015)
    assert 0.86 < radius.mean() < 0.9 and radius.std() < 0.03
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * radius.mean() ** 3, rel=0.03)  # positive: faces look outwards
    top = mesh.vertices[:, 1] > -0.1
    assert np.allclose(mesh.colours[top], [1, 0.5, 0]) and np.allclose(mesh.colours[~top], [0, 0.5, 1])


def test_a_given_threshold_moves_the_surface_where_the_density_is():
    for threshold in (6.0, 54.0):
        mesh = extract(Ball(fog=0.0), resolution=80, threshold=threshold)
        expected = 0.8 - math.log(threshold / (60 - threshold)) / 40
        assert np.linalg.norm(mesh.vertices - [0.2, -0.1, 0.3], axis=1).mean() == pytest.approx(expected, abs=3e-3)


def test_the_optical_depth_is_the_least_from_the_sides_and_above():
    """A slab of density 12 in fog: the middle is 2.5 samples from one side and 3.5 from the other."""
    fog = np.full((20, 20, 20), 0.01)
    slabs = [fog.copy() for _ in range(3)]
    slabs[0][8:14], slabs[1][:, 8:14], slabs[2][:, 6:12] = 12.0, 12.0, 12.0
    expected = [(8 * 0.01 + 2.5 * 12), (6 * 0.01 + 3.5 * 12), (8 * 0.01 + 1.5 * 12)]
    for density, depth in zip(slabs, expected, strict=True):
        assert optical_depth(density, 0.1)[10, 10, 10] == pytest.approx(0.1 * depth)  # y: never from below
    assert optical_depth(slabs[0], 0.1)[0, 10, 10] == pytest.approx(0.1 * 0.5 * 0.01)


def test_a_hollow_head_is_one_surface_and_specks_are_none():
    """No light reaches a hollow, a thin cloud takes little, and a dense speck is small: all are left out."""

    class Hollow(Ball):
        def forward(self, x):
            density, colours = super().forward(x)
            within = (x - self.centre).norm(dim=-1, keepdim=True)[:, 0] < 0.5
            thin = (x - torch.tensor([-1.1, 1.1, -1.1])).norm(dim=-1) < 0.2
            speck = (x - torch.tensor([1.3, 1.3, -1.3])).norm(dim=-1) < 0.1
            density = torch.where(speck, 60.0, torch.where(thin, 0.4, torch.where(within, 0.0, density)))
            return density, colours

    whole, hollow = (extract(kind(fog=0.0), resolution=48) for kind in (Ball, Hollow))
    assert hollow.volume == pytest.approx(whole.volume, rel=1e-3) and len(hollow.faces) == len(whole.faces)
    cut = extract(Hollow(fog=0.0), resolution=48, threshold=0.3)
    assert len(cut.faces) > 1.2 * len(hollow.faces)  # at a density, they are surfaces too


def test_what_reaches_the_cube_s_faces_is_closed():
    """A density that is high everywhere is the cube."""
    mesh = extract(Ball(radius=9.0), resolution=24, threshold=30.0)
    assert mesh.volume == pytest.approx(27, rel=1e-3)
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_a_scene_too_thin_to_see_has_a_surface_at_a_given_density():
    """No light that reaches a ball of density 0.12 loses a tenth before its middle."""
    thin = Ball(height=0.12, fog=0.0)
    with pytest.raises(ValueError, match="The scene is empty"):
        extract(thin, resolution=48)
    mesh = extract(thin, resolution=48, threshold=0.06)
    assert mesh.threshold == 0.06 and mesh.volume == pytest.approx(4 / 3 * math.pi * 0.8**3, rel=0.02)


def test_an_empty_scene_and_other_mistakes(tmp_path):
    with pytest.raises(ValueError, match="The scene is empty: its density is at most 0.0"):
        extract(Ball(height=0.01, fog=0.0), resolution=16)
    with pytest.raises(ValueError, match="no surface at density 99; give a threshold between 0 and the scene's"):
        extract(Ball(), resolution=16, threshold=99.0)
    with pytest.raises(ValueError, match='"mesh.stl" has no suffix of a mesh; use .glb, .obj, .ply'):
        write_mesh(tmp_path / "mesh.stl", extract(Ball(), resolution=16))


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_files_come_back_with_shape_and_colours(tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    mesh = extract(Ball(), resolution=24)
    write_mesh(tmp_path / f"mesh.{suffix}", mesh)
    read = trimesh.load(tmp_path / f"mesh.{suffix}", process=False)
    if suffix == "glb":
        (read,) = read.geometry.values()
    assert read.faces.shape == mesh.faces.shape
    np.testing.assert_allclose(read.vertices, mesh.vertices, atol=1e-5)
    assert read.volume == pytest.approx(mesh.volume, rel=1e-3)
    colours = np.asarray(read.visual.vertex_colors)[:, :3] / 255
    expected = mesh.colours.copy()
    if suffix == "glb":
        expected[expected == 0.5] = 0.2140  # linear
    np.testing.assert_allclose(colours, expected, atol=3e-3)


@pytest.mark.parametrize("how", ["load", "load_mesh", "one mesh"])
def test_a_glb_shows_its_colours_to_trimesh(tmp_path, how):
    """Colours are the same with every reader. They are linear, as in glTF: the source's after conversion."""
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    made = extract(Ball(), resolution=24)
    shades = np.linspace(0, 1, len(made.vertices))
    colours = np.stack([shades, shades[::-1], np.full_like(shades, 0.25)], 1)
    write_mesh(path := tmp_path / "mesh.glb", replace(made, colours=colours))
    if how == "load":
        (read,) = trimesh.load(path, process=False).geometry.values()
    else:
        read = trimesh.load_mesh(path) if how == "load_mesh" else trimesh.load(path, force="mesh", process=False)
    linear = np.asarray(read.visual.vertex_colors)
    assert linear.shape == (len(made.vertices), 4) and (linear[:, 3] == 255).all() and read.visual.kind == "vertex"
    linear = linear[:, :3] / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    bright = colours > 0.2  # a byte of linear light is coarse in the dark
    np.testing.assert_allclose(srgb[bright], colours[bright], atol=0.006)
    np.testing.assert_allclose(srgb, colours, atol=0.03)


def test_a_glb_has_vertex_colours_alone(tmp_path):
    """There is no material: glTF's default, white, shows the colours unchanged."""
    pytest.importorskip("trimesh", reason="trimesh is not installed")
    write_mesh(tmp_path / "mesh.glb", extract(Ball(), resolution=16))
    data = (tmp_path / "mesh.glb").read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    (primitive,) = tree["meshes"][0]["primitives"]
    assert "COLOR_0" in primitive["attributes"] and "material" not in primitive and not tree.get("materials")


def test_the_blob_of_a_new_scene_is_a_mesh():
    """Nearly a ball, with its surface near the radius at which the density falls."""
    mesh = extract(Field(FieldSettings(grid=(4,)), Stream(0)), resolution=40)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert 0.8 < radius.mean() < 0.95 and radius.std() < 0.03


def test_turntable_and_contact_sheet(tmp_path):
    frames = torch.linspace(-1, 1, 8).view(8, 1, 1, 1).expand(8, 3, 16, 16)
    write_turntable(tmp_path / "turntable.gif", frames, seconds=2)
    with Image.open(tmp_path / "turntable.gif") as gif:
        assert gif.n_frames == 8 and gif.info["loop"] == 0
        pauses = []
        for k in range(8):
            gif.seek(k)
            pauses.append(gif.info["duration"])
    assert pauses == [250] * 8
    sheet = contact_sheet(frames.view(2, 4, 3, 16, 16), orbit(CameraSettings(), 4).azimuth)
    width, height = sheet.size
    assert 1.5 < width / height < 2.1
