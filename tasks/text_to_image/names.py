"""The names of the methods, and what each repels with unless told otherwise. Imports nothing."""

from __future__ import annotations

from rsd.runs.words import everyday

DISTILLATION = {"sds": 0.0, "vsd": 10.0, "nfsd": 0.0, "svgd": 1.0}
"""Score distillations and their gamma; for SVGD 1 is Liu & Wang's update."""

SAMPLERS = {"ancestral": 0.0, "particle-guidance": 10.0}
"""Samplers and their gamma (10 suits the built-in prior)."""

METHODS = (*DISTILLATION, *SAMPLERS)
EVERYDAY = everyday({
    "prolificdreamer variational default rsd repulsion": "take vsd",
    "dreamfusion scoredistillation distillation": "take sds",
    "noisefree noisefreescoredistillation": "take nfsd",
    "stein csd": "take svgd",
    "ddpm ddim sample sampling plain": "take ancestral",
    "pg guidance": "take particle-guidance",
    "rlsd dps psld reddiff nonaug hybrid daps": "it is of rsd restore",
    "sd stablediffusion sdxl flux heads if": "that is a prior, for --prior",
})  # fmt: skip
"""What people call methods, as rsd.words.fold writes it, and which of METHODS is meant."""
SCORES = ("lora", "lora-each", "unet")
TIMESTEPS = ("uniform", "annealed")
OPTIONAL = ("clip", "aesthetic", "fid")
"""What --metrics adds."""

MEMORY = ("auto", "fast", "flat", "lean")
