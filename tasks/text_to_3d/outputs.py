"""The outputs of scenes: pictures, turntables, meshes and figures. A finished run keeps its scenes, so that they can be
made again with other flags."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.metrics.scoring import Scorers, Subject, measure
from rsd.randomness import Stream
from rsd.runs.folder import RunFolder
from rsd.runs.session import flat, nested

from .gallery import Gallery, Scene
from .options import TextTo3D
from .scene.cameras import orbit
from .scene.mesh import LOST, extract, write_mesh
from .scene.settings import SceneSettings
from .scene.texture import bake
from .scores import SCORES, SIZE
from .viewer import write_viewer

SCENES_FILE = "scenes.safetensors"
NEW = ("mesh_faces", "texture")
"""Flags that older versions' metrics.json does not contain; None then."""
FLAGS = {"pictures": ("size", "turntable", "mp4"), "meshes": ("mesh", "mesh_resolution", "mesh_threshold", *NEW)}
"""The flags of each part of the outputs; metrics.json keeps their values in ``outputs``."""
PARTS = (*FLAGS, "figures")
VIEWS, PREVIEW = 12, 4
"""Number of cameras around a finished scene, and around one in progress."""


def write_outputs(
    parts: Collection[str], gallery: Gallery, *, prompt: str, options: TextTo3D, folder: Path, scorers: Scorers
) -> dict[str, Any]:
    """Write ``parts`` (of :data:`PARTS`) of the scenes; return their entries of metrics.json."""
    figures: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    images: torch.Tensor | None = None
    if "pictures" in parts:
        size = options.size or max(gallery.image_size, SIZE)
        images = write_scenes(folder, gallery, options, prompt=prompt, size=size)
    if "figures" in parts:
        around = orbit(gallery.settings, VIEWS)
        if images is None or images.shape[-1] != SIZE:
            images = gallery.photographs(around, size=SIZE)
        figures |= measure(SCORES, images, Subject(prompt, cameras=around), scorers)
        reasons |= figures["reasons"]
    if "meshes" in parts:
        figures["meshes"], why = write_meshes(folder, gallery, options, prompt=prompt)
        reasons |= {"meshes": why} if why else {}
    outputs = {name: getattr(options, name) for part in parts for name in FLAGS.get(part, ())}
    return {**figures, "outputs": outputs, "reasons": reasons}


def save_scenes(folder: RunFolder, gallery: Gallery) -> None:
    """Write the scenes' weights, from which all outputs can be made again."""
    tensors = flat({"scenes": [scene.state_dict() for scene in gallery.scenes]})
    folder.save_tensors(SCENES_FILE, tensors, {"image_size": gallery.image_size})


def load_scenes(folder: RunFolder, settings: SceneSettings, device: torch.device) -> Gallery | None:
    """Load the scenes of a finished run; None if it has no file of them. Raises ValueError for a damaged file."""
    saved = folder.load_tensors(SCENES_FILE, remedy="run this again with another --out")
    if saved is None:
        return None
    tensors, about = saved
    scenes = []
    for weights in nested(tensors)["scenes"]:
        scene = Scene(settings, Stream(0), 0, device=device).to(next(iter(weights.values())).dtype)
        scene.load_state_dict(weights)
        scenes.append(scene)
    return Gallery(scenes, settings, image_size=about["image_size"])


def outdated_parts(held: dict[str, Any], options: TextTo3D) -> list[str]:
    """Return the parts that these options would make differently from a finished run with the metrics ``held``.

    Versions of rsd that recorded no flags had none; older ones counted Janus without looking for faces in front, and
    agreement without what could be read. Parts that are written but no longer requested stay.
    """
    before = held.get("outputs") or vars(TextTo3D())
    was = lambda name: before.get(name) if name in NEW else before[name]  # noqa: E731
    relevant = {part: [name for name in flags if name != "mp4" or options.mp4] for part, flags in FLAGS.items()}
    parts = [part for part, names in relevant.items() if any(was(name) != getattr(options, name) for name in names)]
    other_div = options.div_features not in ("auto", held["div_features"])
    old_janus = held.get("faces") is not None and "face_front" not in held
    old_agreement = held.get("agreement") is not None and "agreement_read" not in held
    return parts + ["figures"] * (other_div or old_janus or old_agreement)


def lost_parts(held: dict[str, Any], folder: Path) -> list[str]:
    """Return the parts of which a finished run with the metrics ``held`` has lost files."""
    scenes = {scene_folder(folder, number): mesh for number, mesh in enumerate(held.get("meshes") or ())}
    drawn = all(len([*at.glob("views/*.png")]) == VIEWS and (at / "turntable.gif").exists() for at in scenes)
    meshed = all(any(at.glob("mesh.*")) for at, mesh in scenes.items() if mesh)
    return [part for part, whole in (("pictures", drawn), ("meshes", meshed)) if not whole]


def remake(
    prompt: str, options: TextTo3D, held: dict[str, Any], parts: Sequence[str], folder: RunFolder,
    *, settings: SceneSettings, scorers: Scorers, device: torch.device,
) -> tuple[dict[str, Any], list[str]] | None:  # fmt: skip
    """Make ``parts`` of a finished run's scenes again. Return its metrics and the parts; None, with a warning, if the
    run kept no scenes."""
    gallery = load_scenes(folder, settings, device)
    if gallery is None:
        warnings.warn(
            f"{folder.path} has no {SCENES_FILE} (older versions of rsd kept none), so its {', '.join(parts)} stay as "
            "they are; for others run it again with another --out.",
            stacklevel=2,
        )
        return None
    new = write_outputs(parts, gallery, prompt=prompt, options=options, folder=folder.path, scorers=scorers)
    stays = {k: v for k, v in held["reasons"].items() if ("meshes" if k == "meshes" else "figures") not in parts}
    new |= {"reasons": {**stays, **new["reasons"]}, "outputs": {**held["outputs"], **new["outputs"]}}
    return {**held, **new}, list(parts)


def write_scenes(folder: Path, scenes: Gallery, options: TextTo3D, *, prompt: str, size: int) -> torch.Tensor:
    """Write scenes/00/ (views/, turntable.gif, turntable.mp4) and so on, contact.png and grid.png. Return the pictures
    from ``VIEWS`` cameras, [N, VIEWS, 3, size, size]."""
    around, turning = orbit(scenes.settings, VIEWS), orbit(scenes.settings, options.turntable)
    shown = []
    for s in range(len(scenes.scenes)):
        at = scene_folder(folder, s)
        images = scenes.photographs(around, size=size, scenes=[s])[0].cpu().float()
        about = {"seed": str(options.seed), "gamma": str(options.gamma), "method": options.method, "prompt": prompt}
        for image, azimuth in zip(images, around.azimuth.tolist(), strict=True):
            text = {**about, "scene": str(s), "azimuth": f"{azimuth:.0f}"}
            media.write_png(at / "views" / f"{azimuth:03.0f}.png", image[None], text=text)
        frames = scenes.photographs(turning, size=size, scenes=[s])[0].cpu().float()
        write_turntable(at / "turntable.gif", frames)
        if options.mp4:
            write_mp4(at / "turntable.mp4", frames)
        shown.append(images)
    every = torch.stack(shown)
    write_contact(folder, every[:, :: VIEWS // 6], around.azimuth[:: VIEWS // 6])
    labels = [f"scene {s}" for s in range(len(every))]
    media.save_png(folder / "grid.png", media.grid([x[None] for x in every[:, 0]], labels=labels))
    return every


def scene_folder(folder: Path, scene: int) -> Path:
    """Return the folder of a scene's files."""
    return folder / "scenes" / f"{scene:02d}"


def preview(folder: Path, scenes: Gallery) -> None:
    """Write contact.png of scenes in progress, at the prior's size."""
    around = orbit(scenes.settings, PREVIEW)
    write_contact(folder, scenes.photographs(around).cpu().float(), around.azimuth)


def write_contact(folder: Path, images: torch.Tensor, azimuth: torch.Tensor) -> None:
    """Write contact.png of images [N, V, 3, H, W] from cameras at ``azimuth`` [V]."""
    media.save_png(folder / "contact.png", contact_sheet(images, azimuth))


def write_meshes(
    folder: Path, scenes: Gallery, options: TextTo3D, *, prompt: str
) -> tuple[list[dict[str, Any] | None], str | None]:
    """Write scenes/00/mesh.glb and viewer.html, and so on. Return the sizes of each mesh, None for a scene without a
    surface, and the reasons of these. Print the thresholds, and on stderr which scene has no mesh and why."""
    meshes: list[dict[str, Any] | None] = []
    reasons = []
    for s, scene in enumerate(scenes.scenes):
        path, page = scene_folder(folder, s) / f"mesh.{options.mesh}", scene_folder(folder, s) / "viewer.html"
        try:
            mesh = extract(
                scene.field, resolution=options.mesh_resolution, threshold=options.mesh_threshold,
                most=options.mesh_faces,
            )  # fmt: skip
        except ValueError as error:
            path.unlink(missing_ok=True)
            page.unlink(missing_ok=True)
            print(f"rsd: no mesh of scene {s}: {error}", file=sys.stderr, flush=True)
            reasons.append(f"scene {s}: {error}")
            meshes.append(None)
            continue
        textured = bake(scene.field, mesh, options.texture) if options.texture and options.mesh == "glb" else None
        write_mesh(path, mesh, textured)
        if options.mesh == "glb":
            write_viewer(page, path, title=f"{prompt}, scene {s}")
        where = (
            f"where {LOST:.0%} of the light is lost" if mesh.threshold is None else f"at density {mesh.threshold:.3g}"
        )
        print(f"mesh of scene {s}: surface {where}, {len(mesh.faces):,} triangles")
        meshes.append({"threshold": mesh.threshold, "vertices": len(mesh.vertices), "faces": len(mesh.faces)})
    return meshes, " ".join(reasons) or None


def write_mp4(path: Path, frames: torch.Tensor, *, seconds: float = 4.0, turns: int = 2, least: int = 256) -> None:
    """Write a film of ``turns`` turns: ``frames`` [V, 3, H, W] in [-1, 1], enlarged to ``least`` px. Raises ImportError
    without imageio-ffmpeg."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("--mp4 needs imageio-ffmpeg: pip install '.[video]'.") from error
    pictures = [media.enlarge(frame[None], least) for frame in frames]
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    writer = imageio_ffmpeg.write_frames(
        str(part), pictures[0].size, fps=len(frames) / seconds, macro_block_size=2, quality=8, ffmpeg_log_level="error"
    )
    try:
        writer.send(None)
        for _ in range(turns):
            for picture in pictures:
                writer.send(picture.tobytes())
        writer.close()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_turntable(path: Path, frames: torch.Tensor, *, seconds: float = 4.0) -> None:
    """Write a looping GIF of one turn: ``frames`` [V, 3, H, W] in [-1, 1]."""
    pause = max(round(1000 * seconds / len(frames)), 20)
    media.write_gif(path, list(frames[:, None]), milliseconds=pause, hold=pause)


def contact_sheet(images: torch.Tensor, azimuth: torch.Tensor) -> Any:
    """Return a picture with a row for each scene and a column for each view: ``images`` [N, V, 3, H, W], ``azimuth``
    [V]."""
    labels = [f"scene {n}, {angle:.0f} degrees" for n in range(len(images)) for angle in azimuth.tolist()]
    return media.grid([x[None] for x in images.flatten(0, 1)], labels=labels, columns=images.shape[1])
