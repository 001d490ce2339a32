"""The methods: what each repels with unless told otherwise, and which settings it reads. Imports nothing heavy."""

from __future__ import annotations

from rsd.runs.words import synonyms

DISTILLATION = {"sds": 0.0, "vsd": 10.0, "nfsd": 0.0, "svgd": 1.0}
"""Score distillations and their gamma; for SVGD 1 is Liu & Wang's update."""

SAMPLERS = {"ancestral": 0.0, "particle-guidance": 10.0}
"""Samplers and their gamma (10 suits the built-in prior)."""

METHODS = (*DISTILLATION, *SAMPLERS)
REPELLING = ("gamma", "window", "features", "feature_size", "force_decoder")
SOME = ("interacting", "repel_every")
DISTILLED = ("lr", "t_range", "timesteps", "t_per_particle")
LEARNED = ("score", "lora_rank", "lr_phi")
USES = {
    "sds": (*DISTILLED, *REPELLING, *SOME),
    "vsd": (*DISTILLED, *REPELLING, *SOME, *LEARNED),
    "nfsd": (*DISTILLED, *REPELLING, *SOME),
    "svgd": (*DISTILLED, *REPELLING),
    "ancestral": (),
    "particle-guidance": (*REPELLING, "interacting"),
}
"""Which of the settings that only some methods read each of them reads."""
SYNONYMS = synonyms({
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
"""The older place of these names."""
