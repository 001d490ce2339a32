"""The names of tasks, their everyday names, and ``rsd tasks``. Imports nothing heavy."""

from __future__ import annotations

import re

from rsd.runs.citations import short
from rsd.runs.words import match_name, normalise, synonyms, unknown_name

TASK = {
    "inpaint_half_face": ("half of a face is hidden, the paper's box", "rlsd"),
    "inpaint_full_face": ("all of a face is hidden, the paper's box", "rlsd"),
    "inpaint_box": ("your box is hidden (--box)", "dps"),
    "inpaint_random": ("80% of the pixels are hidden, at random", "psld"),
    "inpaint_freeform": ("strokes over 10-20% are hidden", "palette"),
    "inpaint_mask": ("your mask (--mask)", "palette"),
    "sr2": ("block average over 2 x 2, or --downsample bicubic; any srK, K = 2 ... 16", "rlsd"),
    "sr4": ("over 4 x 4", "red-diff"),
    "sr8": ("over 8 x 8, the paper's", "rlsd"),
    "sr16": ("over 16 x 16", "rlsd"),
    "deblur_motion": ("a random motion kernel, 61 x 61 at 512 px, or --kernel", "dps"),
    "deblur_gaussian": ("a Gaussian kernel of 3 px at 512 px, or --blur, or --kernel", "dps"),
    "deblur_blind": ("an unknown kernel of up to 15 px, estimated for each sample", "blind-dps"),
    "denoise": ("Gaussian noise of --sigma-v, or as estimated from the picture", "dpir"),
    "denoise_poisson": ("photon counts, --peak of them at white; not linear", "dpir"),
    "jpeg": ("JPEG compression as the file says, or of --quality; not linear", "ddrm-jpeg"),
    "colorize": ("colours are lost, brightness is left", "palette"),
    "scratches": ("scratches that a detector finds are hidden (--propose shows them)", "palette"),
    "phase_retrieval": ("Fourier magnitudes of the zero-padded image; not linear", "dps"),
    "hdr": ("clip(2x, -1, 1); not linear", "red-diff"),
    "operator": ("yours (--operator module:function), see docs/operators.md", "rlsd"),
}
"""A description of each task, and the work in rsd.runs.citations that defines it."""
TASKS = tuple(TASK)
REQUIRED = {"mask": ("inpaint_mask",), "box": ("inpaint_box",), "operator": ("operator",)}
"""Required options and their tasks."""
READ_BY = {
    **REQUIRED, "kernel": ("deblur_motion", "deblur_gaussian"), "mask_hole": ("inpaint_mask",),
    "blur": ("deblur_gaussian",), "peak": ("denoise_poisson",), "quality": ("jpeg",), "propose": ("scratches",),
}  # fmt: skip
"""Options that only some tasks read. If an option is given without a task, the first task is implied."""


def hides(task: str) -> bool:
    """Return whether a task hides pixels."""
    return task.startswith("inpaint") or task == "scratches"


READ_BY_SOME = (*READ_BY, "downsample", "keep_known")
"""Options that some tasks read and others do not."""


def reads(task: str, name: str) -> bool:
    """Return whether a task reads one of READ_BY_SOME."""
    if name == "downsample":
        return sr_factor(task) is not None
    return hides(task) if name == "keep_known" else task in READ_BY[name]


IMPLYING = ("mask", "box", "operator", "kernel")
"""Options that imply their task."""
CASES = (
    "inpaint_mask (parts are missing, or not wanted: --mask)",
    "inpaint_box (a rectangle is: --box)",
    "scratches (it is an old print with scratches and dust)",
    "denoise (it is noisy), denoise_poisson (it is noisy, of few photons)",
    "jpeg (it was compressed too much)",
    "colorize (it is black and white)",
    "sr2 ... sr16 (it is too small)",
    "deblur_motion (it is blurred by motion)",
    "deblur_gaussian (it is out of focus)",
    "deblur_blind (it is blurred, and nobody knows how)",
    "hdr (its contrast is doubled, bright and dark parts are cut off)",
    "phase_retrieval (its Fourier magnitudes are all there is)",
    "operator (a function of yours was at it: --operator)",
    "inpaint_half_face, inpaint_full_face, inpaint_random, inpaint_freeform (test damage: they HIDE parts of it)",
)
"""What may have happened to an image, in everyday words."""

MASKED = "inpaint_mask with your --mask, or inpaint_box with --box"
SUPER = "take sr4 (fourfold), or any of sr2 ... sr16"
FOCUS = "deblur_motion (a shaken camera) or deblur_gaussian (out of focus), with your --kernel if you know it"
OWN_OPERATOR = "an operator of your own does it, --task operator --operator module:function (docs/operators.md)"
TASK_SYNONYMS = synonyms({
    "deblur deblurring unblur blur sharpen": f"take {FOCUS}",
    "blind unknownblur": "take deblur_blind",
    "motion motionblur shake motiondeblur": "take deblur_motion, with your --kernel",
    "defocus focus gaussian gaussianblur gaussiandeblur": "take deblur_gaussian",
    "upscale upscaling upsample superres superresolution sr enlarge enhance zoom resize "
    "bicubic":
        SUPER,
    "inpaint inpainting fill infill remove removal erase hole mask object outpaint "
    "outpainting uncrop completion":
        f"take {MASKED}",
    "box rectangle square": "take inpaint_box with --box",
    "face halfface": "take inpaint_half_face or inpaint_full_face",
    "random pixels missingpixels": "take inpaint_random",
    "freeform strokes scribble brush": "take inpaint_freeform",
    "scratch dust oldphoto": "take scratches",
    "colourise colourize colorise colorization colourization color colour gray grey grayscale greyscale bw":
        "take colorize",
    "denoising noise denoiser grain": "take denoise",
    "poisson shotnoise photons lowlight": "take denoise_poisson",
    "dejpeg artifacts artefacts compression jpg": "take jpeg",
    "dehaze haze derain rain": f"it is not among the tasks yet; {OWN_OPERATOR}",
    "mri ct tomography xray radon cs compressed physics": OWN_OPERATOR,
    "phase fourier phaseret holography ptychography": "take phase_retrieval",
    "declip overexposed exposure tonemap highdynamicrange": "take hdr",
    "own custom mine function": "take operator with --operator module:function",
    "restore restoration auto photo fix": "name what happened to the image, see rsd tasks",
})  # fmt: skip
"""Everyday names of tasks, folded by :func:`rsd.runs.words.normalise`, and the remedy."""


def task_name(name: str) -> str:
    """Return the task that ``name`` means, up to capitals, dashes and spaces; ``name`` itself if there is none."""
    return normalise(name) if sr_factor(normalise(name)) else match_name(name, TASKS)


def unknown_task(name: str) -> ValueError:
    """Return the error for an unknown task, with the task that is probably meant."""
    if match := re.fullmatch(r"(?:sr|x|srx)(\d+)|(?:sr)?(\d+)x", normalise(name)):
        own = f"sr{match[1] or match[2]}"
        meant = f"take {own}" if sr_factor(own) else "srK enlarges K-fold, with K from 2 to 16"
        return ValueError(f'There is no task "{name}": {meant}.')
    return unknown_name("task", name, TASKS, TASK_SYNONYMS)


def sr_factor(task: str) -> int | None:
    """Return the factor K of a super-resolution task "srK", K = 2..16; None for any other name."""
    match = re.fullmatch(r"sr([1-9]\d?)", task)
    return int(match[1]) if match and 2 <= int(match[1]) <= 16 else None


def is_task(name: str) -> bool:
    """Return whether ``name`` is one of TASKS, or srK with K from 2 to 16."""
    return name in TASKS or sr_factor(name) is not None


def split_task(text: str) -> tuple[str, int | None]:
    """Split "sr4:8" into ("sr4", 8) and "sr4" into ("sr4", None). Raise ValueError, in one sentence, for anything
    else."""
    task, colon, first = text.partition(":")
    if not is_task(task):
        raise unknown_task(task)
    if colon and not (first.isdigit() and int(first) > 0):
        raise ValueError(f'The task "{text}" has no number after its colon; write {task}:8 for the first 8 images.')
    return task, int(first) if colon else None


def matched(task: str, size: int, reference: int) -> str | None:
    """Return the task at ``size`` px that measures as many pixels as ``task`` at ``reference`` px: another srK, or the
    same task if it is not srK. Return None if there is none."""
    factor = sr_factor(task)
    own = f"sr{factor * size / reference:g}" if factor else task
    return own if is_task(own) else None


def main(argv: list[str]) -> int:
    """Run ``rsd tasks``: print the tasks of restore and compare with their works. Return the exit code."""
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"rsd tasks takes no arguments, but {argv[0]} is given; leave it out.")
    for name, (what, work) in TASK.items():
        print(f"{name:<20}{what}\n{'':<20}{short(work)}")
    return 0
