"""What a run leaves of its scenes: pictures from around, turntables, meshes, all scenes at the same views."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from rsd import media

from .gallery import Gallery
from .options import TextTo3D
from .pictures import contact_sheet, write_turntable
from .scene.cameras import orbit
from .scene.mesh import extract, write_mesh

VIEWS, PREVIEW = 12, 4
"""Cameras around a finished scene, and around one in progress."""


def write_scenes(folder: Path, scenes: Gallery, options: TextTo3D, *, prompt: str, size: int) -> torch.Tensor:
    """scenes/00/ (views/, turntable.gif, turntable.mp4) and so on, contact.png and grid.png; the pictures from
    ``VIEWS`` cameras, [N, VIEWS, 3, size, size]."""
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
    """Where a scene's files are."""
    return folder / "scenes" / f"{scene:02d}"


def preview(folder: Path, scenes: Gallery) -> None:
    """contact.png of scenes in progress, at the prior's size."""
    around = orbit(scenes.settings, PREVIEW)
    write_contact(folder, scenes.photographs(around).cpu().float(), around.azimuth)


def write_contact(folder: Path, images: torch.Tensor, azimuth: torch.Tensor) -> None:
    """contact.png of images [N, V, 3, H, W] from cameras at ``azimuth`` [V]."""
    media.save_png(folder / "contact.png", contact_sheet(images, azimuth))


def write_meshes(folder: Path, scenes: Gallery, options: TextTo3D) -> tuple[list[dict[str, Any] | None], str | None]:
    """scenes/00/mesh.glb and so on, and what each is; None for a scene without a surface, with the reason for all such.
    Prints the thresholds; says on stderr which scene has no mesh and why."""
    found: list[dict[str, Any] | None] = []
    reasons = []
    for s, scene in enumerate(scenes.scenes):
        path = scene_folder(folder, s) / f"mesh.{options.mesh}"
        try:
            mesh = extract(scene.field, resolution=options.mesh_resolution, threshold=options.mesh_threshold)
        except ValueError as error:
            path.unlink(missing_ok=True)
            print(f"rsd: no mesh of scene {s}: {error}", file=sys.stderr, flush=True)
            reasons.append(f"scene {s}: {error}")
            found.append(None)
            continue
        write_mesh(path, mesh)
        how = "chosen by itself" if options.mesh_threshold is None else "as asked for"
        print(f"mesh of scene {s}: surface at density {mesh.threshold:.3g} ({how}), {len(mesh.faces):,} triangles")
        found.append({"threshold": mesh.threshold, "vertices": len(mesh.vertices), "faces": len(mesh.faces)})
    return found, " ".join(reasons) or None


def write_mp4(path: Path, frames: torch.Tensor, *, seconds: float = 4.0, turns: int = 2, least: int = 256) -> None:
    """A film that goes around ``turns`` times: ``frames`` [V, 3, H, W] in [-1, 1], small ones enlarged. Raises
    ImportError without imageio-ffmpeg."""
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
