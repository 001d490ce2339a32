"""Coloured triangle meshes of scenes: marching cubes on the density, fewer triangles if wanted, colours from the field;
GLB (with a texture if wanted), OBJ or PLY."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsd.runs.folder import write_bytes

from .field import Field

FORMATS = (".glb", ".obj", ".ply")
CHUNK = 2**18
"""Number of points evaluated at once."""
LOST = 0.1
"""The share of light that is lost outside the surface of a mesh. Scenes fitted to a few pictures are soft: where half
is lost, noses and chins are gone."""
SPECK = 0.02
"""The share of the largest piece's volume below which a piece is left out."""


@dataclass(frozen=True)
class Mesh:
    """``vertices`` [P, 3] in the world of the cameras, ``faces`` int [F, 3] counter-clockwise from outside, ``colours``
    [P, 3] in [0, 1] (sRGB), the density ``threshold`` of the surface if one was given, and unit ``normals`` [P, 3]
    outwards."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    threshold: float | None

    @property
    def normals(self) -> np.ndarray:
        """Vertex normals: those of the faces around a vertex, weighted by area."""
        a, b, c = (self.vertices[self.faces[:, k]].astype(np.float64) for k in range(3))
        found = np.zeros((len(self.vertices), 3))
        for k in range(3):
            np.add.at(found, self.faces[:, k], np.cross(b - a, c - a))
        return (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)

    @property
    def volume(self) -> float:
        """Enclosed volume; positive if faces look outwards."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


@dataclass(frozen=True)
class Textured:
    """A mesh with a texture: ``vertices`` and unit ``normals`` [P, 3], ``faces`` [F, 3], ``uv`` [P, 2] in [0, 1] with v
    upwards, and the ``picture`` uint8 [size, size, 3] (sRGB), whose first row has v = 1."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    picture: np.ndarray


def extract(
    field: Field, *, resolution: int = 96, threshold: float | None = None, most: int | None = None
) -> Mesh:  # fmt: skip
    """Extract the surface at density ``threshold`` (None: where light from outside has lost the share ``LOST``, by
    :func:`optical_depth`, without specks) from ``resolution`` samples a side, closed by the cube's faces, with at most
    about ``most`` triangles (None: all). Raises ValueError for a scene without a surface, ImportError without
    fast-simplification if there are to be fewer triangles."""
    from skimage.measure import marching_cubes

    density, bound = sample_density(field, resolution), field.settings.bound
    spacing = 2 * bound / (resolution - 1)
    if threshold is None:
        values, level = optical_depth(density, spacing), -math.log(1 - LOST)
        if values.max() <= level:
            raise ValueError(
                f"The scene is empty: its density is at most {density.max():.2g}, too thin to see; run it for more "
                "steps, or with less sparsity."
            )
        # Clipped, a hard surface is half-way between two samples.
        values = without_specks(values.clip(max=2 * level), level)
    else:
        values, level = density, threshold
        if not 0 < level < float(density.max()):
            raise ValueError(
                f"There is no surface at density {level:.3g}; give a threshold between 0 and the scene's highest, "
                f"{density.max():.3g}."
            )
    found = marching_cubes(np.pad(values, 1), level, gradient_direction="ascent")
    vertices = ((found[0] - 1) * spacing - bound).clip(-bound, bound)
    vertices, faces = vertices.astype(np.float32), found[1].astype(np.int64)
    if most is not None and len(faces) > most:
        vertices, faces = decimate(vertices, faces, most)
    return Mesh(vertices, faces, colours_at(field, vertices), threshold)


def decimate(vertices: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges by their quadric error (Garland & Heckbert 1997) until about ``most`` triangles are left. Raises
    ImportError without fast-simplification."""
    fewer, triangles = load_simplification().simplify(vertices, faces.astype(np.int32), target_count=most)
    return fewer.astype(np.float32), triangles.astype(np.int64)


def load_simplification() -> Any:
    """Import fast-simplification. Raises ImportError with the remedy."""
    try:
        import fast_simplification
    except ImportError as error:
        raise ImportError("--mesh-faces needs fast-simplification: pip install '.[mesh]'.") from error
    return fast_simplification


def optical_depth(density: np.ndarray, spacing: float) -> np.ndarray:
    """Return the least optical depth at each sample of ``density`` [x, y, z], ``spacing`` apart, for light from outside
    along the axes, but not from below, where no camera is and a scene may be open. Fog that takes little light is
    outside; what no light reaches is inside, whatever its density."""
    least = np.full_like(density, np.inf)
    for axis in range(3):
        for start in (0, -1):
            if (axis, start) == (1, 0):
                continue  # from below
            ahead = density if start == 0 else np.flip(density, axis)
            depth = (ahead.cumsum(axis) - ahead / 2) * spacing
            least = np.minimum(least, depth if start == 0 else np.flip(depth, axis))
    return least


def without_specks(values: np.ndarray, level: float) -> np.ndarray:
    """Return ``values`` with 0 in the connected pieces above ``level`` that have less than the share ``SPECK`` of the
    samples of the largest."""
    from skimage.measure import label

    pieces = label(values > level)
    sizes = np.bincount(pieces.ravel())[1:]
    small = np.concatenate([[False], sizes < SPECK * sizes.max()])
    return np.where(small[pieces], 0, values)


@torch.no_grad()
def sample_density(field: Field, resolution: int) -> np.ndarray:
    """Return float32 [resolution (x), resolution (y), resolution (z)]; the outermost samples are on the cube's
    faces."""
    parameter = next(field.parameters())
    line = torch.linspace(-1, 1, resolution, dtype=parameter.dtype) * field.settings.bound
    at = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flatten(0, 2)
    values = [field(part.to(parameter.device))[0].float().cpu() for part in at.split(CHUNK)]
    return torch.cat(values).view((resolution,) * 3).numpy()


@torch.no_grad()
def colours_at(field: Field, vertices: np.ndarray) -> np.ndarray:
    """Return the field's colours [P, 3] in [0, 1] at points [P, 3]."""
    at = torch.from_numpy(vertices).to(next(field.parameters()))
    return torch.cat([field(part)[1].float().cpu() for part in at.split(CHUNK)]).numpy()


def write_mesh(path: str | Path, mesh: Mesh, textured: Textured | None = None) -> None:
    """Write ``mesh`` atomically in the format of the suffix; a GLB with the texture of ``textured`` if that is given.
    Raises ValueError for another suffix, or for a texture of another format; ImportError without trimesh.

    A textured GLB has a rough material that is no metal. One with vertex colours has no material: only then trimesh
    reads its colours, and Blender and three.js show them with the default material, white. That is metallic, hence
    darker if there are lamps but no environment.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f'"{path.name}" has no suffix of a mesh; use {", ".join(FORMATS)}.')
    try:
        import trimesh
    except ImportError as error:
        raise ImportError("Meshes need trimesh: pip install trimesh.") from error
    glb = path.suffix == ".glb"
    if textured is not None:
        if not glb:
            raise ValueError(f'"{path.name}" takes no texture; use .glb.')
        write_bytes(path, _textured(textured).export(file_type="glb", include_normals=True))
        return
    colours = _linear(mesh.colours) if glb else mesh.colours  # glTF's vertex colours are linear
    made = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=(colours * 255).round().astype(np.uint8), process=False
    )
    data: Any = made.export(file_type=path.suffix[1:])
    write_bytes(path, data.encode() if isinstance(data, str) else data)


def _textured(mesh: Textured) -> Any:
    """Return trimesh's mesh with the texture in a material of the PBR kind."""
    import trimesh
    from PIL import Image

    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(mesh.picture), metallicFactor=0.0, roughnessFactor=1.0
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    return trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, visual=visual, process=False)


def _linear(colours: np.ndarray) -> np.ndarray:
    """Convert sRGB in [0, 1] to linear light."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
