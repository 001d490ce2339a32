"""What a run makes of its scenes when they are finished; and, asked again, of those that it kept."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd.metrics.scoring import Scorers, Subject, measure
from rsd.randomness import Stream
from rsd.runs.folder import RunFolder
from rsd.runs.session import flat, nested

from .gallery import Gallery, Scene, SceneSettings
from .options import TextTo3D
from .results import VIEWS, write_meshes, write_scenes
from .scene.cameras import orbit
from .scores import SCORES, SIZE

KEPT = "scenes.safetensors"
FLAGS = {"pictures": ("size", "turntable", "mp4"), "meshes": ("mesh", "mesh_resolution", "mesh_threshold")}
"""What is written, and the flags that say how; metrics.json keeps them in ``outputs``."""
PARTS = (*FLAGS, "figures")


def write(
    parts: Collection[str], gallery: Gallery, *, prompt: str, options: TextTo3D, folder: Path, scorers: Scorers
) -> dict[str, Any]:
    """Make ``parts`` (of :data:`PARTS`) of the scenes as the options say; what metrics.json tells of them."""
    told: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    images: torch.Tensor | None = None
    if "pictures" in parts:
        size = options.size or max(gallery.image_size, SIZE)
        images = write_scenes(folder, gallery, options, prompt=prompt, size=size)
    if "figures" in parts:
        around = orbit(gallery.settings.cameras, VIEWS)
        if images is None or images.shape[-1] != SIZE:
            images = gallery.photographs(around, size=SIZE)
        told |= measure(SCORES, images, Subject(prompt, cameras=around), scorers)
        reasons |= told["reasons"]
    if "meshes" in parts:
        told["meshes"], why = write_meshes(folder, gallery, options)
        reasons |= {"meshes": why} if why else {}
    outputs = {name: getattr(options, name) for part in parts for name in FLAGS.get(part, ())}
    return {**told, "outputs": outputs, "reasons": reasons}


def keep(folder: RunFolder, gallery: Gallery) -> None:
    """scenes.safetensors: the scenes' weights, of which all else can be made again."""
    tensors = flat({"scenes": [scene.state_dict() for scene in gallery.scenes]})
    folder.save_tensors(KEPT, tensors, {"image_size": gallery.image_size})


def kept(folder: RunFolder, settings: SceneSettings, device: torch.device) -> Gallery | None:
    """The scenes of a finished run, without its prior; None if it kept none. Raises ValueError for a damaged file."""
    saved = folder.load_tensors(KEPT, remedy="run this again with another --out")
    if saved is None:
        return None
    tensors, about = saved
    scenes = []
    for weights in nested(tensors)["scenes"]:
        scene = Scene(settings, Stream(0), 0, device=device).to(next(iter(weights.values())).dtype)
        scene.load_state_dict(weights)
        scenes.append(scene)
    return Gallery(scenes, settings, image_size=about["image_size"])


def missing_figures(held: dict[str, Any], options: TextTo3D) -> list[str]:
    """The parts that a finished run with these metrics would make otherwise with these options. A version of rsd that
    kept no flags is taken to have had none, one that did not look for faces in front counted Janus otherwise, one that
    did not tell what could be read agreements; what was written and is not asked for any more stays."""
    before = held.get("outputs") or vars(TextTo3D())
    asked = {part: [name for name in flags if name != "mp4" or options.mp4] for part, flags in FLAGS.items()}
    parts = [part for part, names in asked.items() if any(before[name] != getattr(options, name) for name in names)]
    other_div = options.div_features not in ("auto", held["div_features"])
    other_janus = held.get("faces") is not None and "face_front" not in held
    other_agreement = held.get("agreement") is not None and "agreement_read" not in held
    return parts + ["figures"] * (other_div or other_janus or other_agreement)


def again(
    prompt: str, options: TextTo3D, held: dict[str, Any], parts: Sequence[str], folder: RunFolder,
    *, settings: SceneSettings, scorers: Scorers, device: torch.device,
) -> tuple[dict[str, Any], list[str]] | None:  # fmt: skip
    """Make ``parts`` of a finished run's scenes; its metrics, and which parts. None, with a warning, if it kept no
    scenes."""
    gallery = kept(folder, settings, device)
    if gallery is None:
        warnings.warn(
            f"{folder.path} has no {KEPT} (older versions of rsd kept none), so its {', '.join(parts)} stay as they "
            "are; for others run it again with another --out.",
            stacklevel=2,
        )
        return None
    told = write(parts, gallery, prompt=prompt, options=options, folder=folder.path, scorers=scorers)
    stays = {k: v for k, v in held["reasons"].items() if ("meshes" if k == "meshes" else "figures") not in parts}
    told |= {"reasons": {**stays, **told["reasons"]}, "outputs": {**held["outputs"], **told["outputs"]}}
    return {**held, **told}, list(parts)
