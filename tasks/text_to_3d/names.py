"""The names that flags and settings take. Imports nothing."""

from __future__ import annotations

METHODS = ("sds", "vsd")
ENCODINGS = ("grid", "hash", "frequency")
RENDERERS = ("dense", "packed")
INTERACTIONS = ("scenes", "views")
BACKGROUNDS = ("white", "gray", "black", "random", "learned")
VIEWS = ("front", "side", "back", "overhead")
CONVENTIONS = ("diffusers", "dreamfusion")
MESHES = ("glb", "obj", "ply")
