"""The names that flags and settings take. Imports nothing."""

from __future__ import annotations

from rsd.runs.words import synonyms

METHODS = ("sds", "vsd")
SYNONYMS = synonyms({
    "prolificdreamer variational": "take vsd",
    "dreamfusion default rsd repulsion scoredistillation distillation": "take sds",
    "nfsd svgd ancestral particleguidance": "it is of rsd text-to-image",
    "rlsd dps psld reddiff nonaug hybrid daps": "it is of rsd restore",
    "sd stablediffusion heads if deepfloyd": "that is a prior, for --prior",
})  # fmt: skip
"""What people call methods, as rsd.words.fold writes it, and which of METHODS is meant."""
ENCODINGS = ("grid", "hash", "frequency")
RENDERERS = ("dense", "packed")
INTERACTIONS = ("scenes", "views")
BACKGROUNDS = ("white", "gray", "black", "random", "learned")
VIEWS = ("front", "side", "back", "overhead")
CONVENTIONS = ("diffusers", "dreamfusion")
MESHES = ("glb", "obj", "ply")
