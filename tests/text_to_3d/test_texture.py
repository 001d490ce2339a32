"""Textures, fewer triangles, and the page that shows a mesh, of a head-sized blob whose colours are known."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
import torch

from rsd.tasks.text_to_3d.scene.cameras import orbit
from rsd.tasks.text_to_3d.scene.lights import ambient_light
from rsd.tasks.text_to_3d.scene.mesh import Mesh, Textured, extract, write_mesh
from rsd.tasks.text_to_3d.scene.render import photograph
from rsd.tasks.text_to_3d.scene.settings import SceneSettings
from rsd.tasks.text_to_3d.scene.texture import bake, spread, texels
from rsd.tasks.text_to_3d.viewer import write_viewer

trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
SETTINGS = SceneSettings(bound=1.5)


class Blob(torch.nn.Module):
    """A ball with a nose. Red is its left half (x > 0), green its upper half, blue its back; soft between them."""

    def __init__(self):
        super().__init__()
        self.nose = torch.nn.Parameter(torch.tensor([0.2, 0.1, 0.8]))
        self.settings = types.SimpleNamespace(bound=1.5)

    def forward(self, x):
        inside = torch.maximum(0.8 - x.norm(dim=-1), 0.3 - (x - self.nose).norm(dim=-1))
        return 60 * (40 * inside).sigmoid(), torch.stack([(6 * v).sigmoid() for v in (x[:, 0], x[:, 1], -x[:, 2])], 1)


def square() -> tuple[np.ndarray, np.ndarray]:
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64), np.array([[0, 1, 2], [0, 2, 3]])


def test_the_texels_of_a_square_are_all_of_them_at_their_centres():
    uv, faces = square()
    rows, columns, corners, weights = texels(uv, faces, 8)
    assert {(row, column) for row, column in zip(rows, columns, strict=True)} == {
        (r, c) for r in range(8) for c in range(8)
    }
    at = np.einsum("tk,tkd->td", weights, uv[corners])
    np.testing.assert_allclose(at, np.stack([(columns + 0.5) / 8, 1 - (rows + 0.5) / 8], 1), atol=1e-12)


def test_texels_of_several_triangles_and_of_one_without_area():
    uv = np.array([[0.0, 1.0], [0.5, 1.0], [0.0, 0.5], [0.75, 0.2], [0.75, 0.2], [1.0, 0.4]])
    rows, columns, _, _ = texels(uv, np.array([[0, 1, 2], [3, 4, 5]]), 8)
    assert {(r, c) for r, c in zip(rows, columns, strict=True)} == {(r, c) for r in range(4) for c in range(4 - r)}


def test_colours_spread_into_the_gutter_and_the_rest_is_their_mean():
    picture, known = np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), bool)
    picture[4, 4], known[4, 4] = (1.0, 0.5, 0.0), True
    picture[0, 0], known[0, 0] = (0.0, 0.5, 1.0), True
    found = spread(picture, known, 1)
    assert np.allclose(found[3:6, 3:6], (1, 0.5, 0)) and np.allclose(found[:2, :2], (0, 0.5, 1))
    assert np.allclose(found[8, 8], 0.5)


def read(path):
    (found,) = trimesh.load(path, process=False).geometry.values()
    return found


def front(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of points [M, 3] in a picture from the front."""
    camera = orbit(SETTINGS, 1)
    local = (torch.from_numpy(points).double() - camera.position) @ camera.axes[0].T
    at = local[:, :2] / -local[:, 2:] / (camera.fov.deg2rad() / 2).tan()
    column, row = ((1 + sign * at[:, k]) / 2 * size for k, sign in ((0, 1), (1, -1)))
    return row.long().numpy(), column.long().numpy()


@pytest.mark.parametrize("textured", [False, True])
def test_a_glb_seen_from_the_front_is_the_scene_seen_from_the_front(tmp_path, textured):
    """No side is exchanged: the file, projected by the camera's axes, has the colours of the renderer's picture."""
    if textured:
        pytest.importorskip("xatlas", reason="xatlas is not installed")
    field, size = Blob(), 48
    mesh = extract(field, resolution=32)
    write_mesh(path := tmp_path / "mesh.glb", mesh, bake(field, mesh, 128) if textured else None)
    found = read(path)
    camera = orbit(SETTINGS, 1)
    picture = photograph(
        field, *(x.float() for x in camera.rays(size)), settings=SETTINGS, light=ambient_light(1),
        backdrop=torch.zeros_like,
    )[0].permute(1, 2, 0)  # fmt: skip
    middle = found.vertices[found.faces].mean(1)
    facing = (found.face_normals * (camera.position[0].numpy() - middle)).sum(1) > 2.0
    if textured:
        assert found.visual.kind == "texture"
        image = np.asarray(found.visual.material.baseColorTexture.convert("RGB")) / 255
        uv = found.visual.uv[found.faces].mean(1)
        colours = image[((1 - uv[:, 1]) * 128).astype(int), (uv[:, 0] * 128).astype(int)]
    else:
        linear = np.asarray(found.visual.vertex_colors)[:, :3][found.faces].mean(1) / 255
        colours = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    row, column = front(middle, size)
    seen = (picture[row, column].numpy() + 1) / 2
    mirrored = (picture[row, size - 1 - column].numpy() + 1) / 2
    assert facing.sum() > 300
    assert np.abs(colours - seen)[facing].mean() < 0.06 < 0.2 < np.abs(colours - mirrored)[facing][:, 0].mean()
    assert found.volume == pytest.approx(mesh.volume, rel=1e-3) and mesh.volume > 0  # faces look outwards


def test_a_texture_has_the_field_s_colours_and_a_rough_material(tmp_path):
    pytest.importorskip("xatlas", reason="xatlas is not installed")
    field = Blob()
    mesh = extract(field, resolution=20)
    made = bake(field, mesh, 96)
    assert made.picture.shape == (96, 96, 3) and made.uv.min() >= 0 and made.uv.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(made.normals, axis=1), 1, atol=1e-5)
    write_mesh(path := tmp_path / "mesh.glb", mesh, made)
    data = path.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    material = tree["materials"][0]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and material["roughnessFactor"] == 1 and "baseColorTexture" in material
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= tree["meshes"][0]["primitives"][0]["attributes"].keys()
    with pytest.raises(ValueError, match='"mesh.obj" takes no texture; use .glb'):
        write_mesh(tmp_path / "mesh.obj", mesh, made)


def test_fewer_triangles_keep_the_shape():
    pytest.importorskip("fast_simplification", reason="fast-simplification is not installed")
    whole, fewer = (extract(Blob(), resolution=32, most=most) for most in (None, 800))
    assert len(whole.faces) > 3000 and 600 < len(fewer.faces) <= 820 and len(fewer.colours) == len(fewer.vertices)
    assert fewer.volume == pytest.approx(whole.volume, rel=0.02)
    assert extract(Blob(), resolution=12, most=10**6).faces.shape == extract(Blob(), resolution=12).faces.shape


def quad() -> tuple[Mesh, Textured]:
    """A square of side 2 at z = 0 that faces +z. Its texture: red and green above, blue and white below."""
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
    uv, faces = square()
    normals = np.tile(np.array([[0, 0, 1]], np.float32), (4, 1))
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8, :8], picture[:8, 8:], picture[8:, :8], picture[8:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    colours = np.array([[0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]], np.float32)
    return Mesh(vertices, faces, colours, 1.0), Textured(vertices, normals, faces, uv.astype(np.float32), picture)


def page(tmp_path, *, textured: bool):
    mesh, texture = quad()
    write_mesh(glb := tmp_path / "mesh.glb", mesh, texture if textured else None)
    write_viewer(path := tmp_path / "viewer.html", glb, title='a "head" <of> a & b')
    return path, glb


def test_the_page_holds_the_mesh_and_fetches_nothing(tmp_path):
    path, glb = page(tmp_path, textured=True)
    text = path.read_text(encoding="utf-8")
    (held,) = re.findall(r'<script id="glb" type="application/octet-stream">(.*?)</script>', text)
    assert base64.b64decode(held) == glb.read_bytes()
    assert "<title>a &quot;head&quot; &lt;of&gt; a &amp; b</title>" in text and "{{" not in text
    assert not re.search(r"https?://|src=|href=|import ", text)


LOOK = """<script>
shown.then(() => {
  view.going = false; view.azimuth = 0; view.elevation = 0; draw(0);
  const at = (x, y) => {
    const found = new Uint8Array(4);
    const column = Math.round(canvas.width / 2 + x * canvas.height), row = Math.round((0.5 + y) * canvas.height);
    gl.readPixels(column, row, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, found);
    return [...found].slice(0, 3).map((v) => Math.round(v / 51)).join("");
  };
  document.title = [at(-0.15, 0.15), at(0.15, 0.15), at(-0.15, -0.15), at(0.15, -0.15)].join(" ") + ", " +
    (at(-0.49, 0) === at(0.49, 0) ? "grey around" : "something around") + ", " + document.documentElement.dataset.mesh;
});
</script>"""
"""What WebGL drew right and left, above and below, in fifths, told in the page's title."""


@pytest.mark.parametrize("textured", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_browser_shows_the_mesh_and_its_colours(tmp_path, textured):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no chromium here")
    path, _ = page(tmp_path, textured=textured)
    (look := tmp_path / "look.html").write_text(path.read_text(encoding="utf-8") + LOOK, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    found = subprocess.run([browser, *flags, look.as_uri()], capture_output=True, text=True, timeout=120).stdout
    (title,) = re.findall("<title>(.*?)</title>", found)
    corners, around, about = title.split(", ", 2)
    assert around == "grey around"
    if textured:
        assert corners == "500 050 005 555" and about == "4 vertices, 2 faces, textured"
    else:  # between the corners' colours, and nearest to its own
        pure = {"500": 0, "050": 1, "005": 2}
        for corner, expected in zip(corners.split(), pure.values(), strict=False):
            assert int(corner[expected]) == max(map(int, corner))
        assert about == "4 vertices, 2 faces, vertex colours"
