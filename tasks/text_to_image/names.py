"""The names of the methods, and what each repels with unless told otherwise. Imports nothing."""

from __future__ import annotations

DISTILLATION = {"sds": 0.0, "vsd": 10.0, "nfsd": 0.0, "svgd": 1.0}
"""Score distillations and their gamma; for SVGD 1 is Liu & Wang's update."""

SAMPLERS = {"ancestral": 0.0, "particle-guidance": 10.0}
"""Samplers and their gamma (10 suits the built-in prior)."""

METHODS = (*DISTILLATION, *SAMPLERS)
SCORES = ("lora", "lora-each", "unet")
TIMESTEPS = ("uniform", "annealed")
OPTIONAL = ("clip", "aesthetic", "fid")
"""What --metrics adds."""

MEMORY = ("auto", "fast", "flat", "lean")
