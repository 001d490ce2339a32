"""What the page shows of a run, as HTML: its state, its particles while they move, its samples."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from rsd.runs.folder import CONFIG, METRICS
from rsd.runs.progress import format_duration
from rsd.runs.session import PREVIEW

from . import history
from .driver import Driver, can_continue
from .history import Ranking
from .request import RESTORE, read_config

WIDE, HIGH = 320, 90
"""The size of the chart in its own units."""


def url(file: Path) -> str:
    """Return the address of a file in the folder of runs; it changes with the file."""
    return f"/gradio_api/file={quote(str(file))}?v={file.stat().st_mtime_ns}"


def shown_name(driver: Driver, folder: Path) -> str:
    """Return a run's folder in the folder of runs."""
    return folder.relative_to(driver.runs).as_posix()


def problem(message: str) -> str:
    """Return an error message."""
    return f'<p class="rsd-error" role="alert">{escape(message)}</p>' if message else ""


def status(driver: Driver, folder: Path | None) -> str:
    """Return the state of a run in words, and a bar."""
    if folder is None:
        return '<p role="status">Nothing runs in this tab yet.</p>'
    job, bar, error = driver.job(folder), "", ""
    if job and job.state == "waiting":
        before = driver.place(job)
        words = f"Waiting: {before} run{'s are' if before != 1 else ' is'} before this one."
    elif job and job.live:
        left = f", about {format_duration(job.left)} left" if job.left is not None else ""
        stopping = " Stopping after this step." if job.state == "stopping" else ""
        words = f"Step {job.step} of {job.steps}{left}.{stopping}" if job.step else f"Loading.{stopping}"
        words = words if job.step < job.steps else "Writing and measuring the samples."
        bar = f'<progress max="{job.steps}" value="{job.step}" aria-label="steps done"></progress>'
    elif (folder / METRICS).exists():
        words = f"Finished in {format_duration(history.metrics(folder).get('seconds') or 0)}."
    elif job and job.state == "failed":
        words, error = "Failed.", problem(job.error)
    elif can_continue(folder):
        running = history.state(folder) == "running"
        done = history.step_of(folder)
        words = "Running in another process." if running else f"Stopped after {done} steps; “Go on” resumes it."
    else:
        words = "Stopped before it began."
    notes = "".join(f'<p class="rsd-note">Note: {escape(note)}</p>' for note in (job.notes if job else []))
    where = f"<p>Folder: <code>{escape(str(folder))}</code></p>"
    return f'<div class="rsd-status"><p role="status"><b>{escape(words)}</b></p>{bar}{error}{notes}{where}</div>'


def moving(folder: Path | None) -> str:
    """Return the particles of a run in progress, and a chart of its steps; "" if there is nothing yet."""
    if folder is None or (folder / METRICS).exists():
        return ""
    file = folder / PREVIEW
    shown = ""
    if file.exists():
        try:
            number = int(read_config(folder).get("draw") or read_config(folder)["particles"])
            with Image.open(file) as strip:
                width, height = strip.size
        except (ValueError, OSError, KeyError):  # it has just ended
            return ""
        shown = "".join(
            f'<div class="rsd-particle" role="img" aria-label="particle {k}" style="aspect-ratio:{width / number:.4g}'
            f"/{height};background-image:url('{url(file)}');background-size:{100 * number}% 100%;"
            f'background-position:{100 * k / max(number - 1, 1):.4f}% 0"></div>'
            for k in range(number)
        )
        shown = f'<div class="rsd-particles" data-preview="{file.stat().st_mtime_ns}">{shown}</div>'
    return shown + chart(history.steps(folder))


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Return the residual and the repulsion by step as a drawing; "" for fewer than two steps."""
    lines = {"residual": "residual", "repulsion": "repulsion"}
    drawn, words = "", []
    top = max((row.get(key) or 0.0 for row in rows for key in lines), default=0.0)
    if len(rows) < 2 or top <= 0:
        return ""
    for key, name in lines.items():
        values = [row.get(key) or 0.0 for row in rows]
        points = " ".join(
            f"{WIDE * k / (len(values) - 1):.1f},{HIGH * (1 - value / top):.1f}" for k, value in enumerate(values)
        )
        drawn += f'<polyline class="rsd-{key}" points="{points}" fill="none" vector-effect="non-scaling-stroke"/>'
        words.append(f'<span class="rsd-{key}">{name} {values[-1]:.3g}</span>')
    return (
        f'<figure class="rsd-chart"><svg viewBox="0 -2 {WIDE} {HIGH + 4}" preserveAspectRatio="none" role="img" '
        f'aria-label="residual and repulsion by step">{drawn}</svg><figcaption>{", ".join(words)}; '
        f"{len(rows)} steps</figcaption></figure>"
    )


def result(folder: Path | None, ranking: Ranking, by: str = "fit") -> str:
    """Return the samples or scenes of a finished run; "" for others."""
    if folder is None or not (folder / METRICS).exists():
        return ""
    if found := history.scenes(folder):
        return _scenes(folder, found)
    files = history.samples(folder)
    if not files:
        return ""
    order = ranking.order(by)
    first = files[order[0]]
    before = folder / "measurement.png"
    controls, layers = "", f'<img class="rsd-after" src="{url(first)}" alt="sample {order[0]}">'
    if before.exists():
        layers = f'<img class="rsd-before" src="{url(before)}" alt="measurement">{layers}'
        controls += _slider("Before and after", "--at", 0)
    if (folder / "spread.png").exists():
        layers += f'<img class="rsd-spread" src="{url(folder / "spread.png")}" alt="spread of the samples">'
        controls += _slider("Spread", "--spread", 0)
    items = "".join(_sample(files[k], k, ranking) for k in order)
    return (
        f'<div class="rsd-result" style="--at:0%;--spread:0%"><div class="rsd-stack">{layers}</div>'
        f'<div class="rsd-controls">{controls}</div><ol class="rsd-samples">{items}</ol>{_files(folder)}</div>'
    )


def _slider(label: str, name: str, value: int) -> str:
    act = f"this.closest('.rsd-result').style.setProperty('{name}', this.value + '%')"
    return f'<label>{label} <input type="range" min="0" max="100" value="{value}" oninput="{act}"></label>'


def _sample(file: Path, number: int, ranking: Ranking) -> str:
    words = [f"{ranking.name} {ranking.values[number]:.3g}"] if ranking.values else []
    words += [f"difference {ranking.difference[number]:.3g}"] if len(ranking.difference) > 1 else []
    show = (
        "const at = this.closest('.rsd-result').querySelector('.rsd-after');"
        f"at.src = this.querySelector('img').src; at.alt = 'sample {number}'"
    )
    hidden = f'<span class="rsd-hidden"> sample {number}</span>'
    return (
        f'<li><button type="button" onclick="{show}" aria-label="show sample {number}">'
        f'<img src="{url(file)}" alt="sample {number}"></button><span>{number}: {", ".join(words)}</span> '
        f'<a href="{url(file)}" download="{file.name}">Download{hidden}</a></li>'
    )


def _scenes(folder: Path, found: Sequence[Path]) -> str:
    items = ""
    for number, scene in enumerate(found):
        meshes = [file for file in sorted(scene.glob("mesh.*")) if file.suffix in (".glb", ".obj", ".ply")]
        links = "".join(f'<a href="{url(file)}" download="{file.name}">Download {file.name}</a>' for file in meshes)
        turn, page = scene / "turntable.gif", scene / "viewer.html"
        shown = f'<img src="{url(turn)}" alt="scene {number}, turning">' if turn.exists() else ""
        if page.exists():  # the run's own page of the mesh; it may do nothing but draw
            frame = f'sandbox="allow-scripts" loading="lazy" title="scene {number}: a mesh that can be turned"'
            shown = f'<iframe src="{url(page)}" {frame}></iframe>{shown}'
        items += f"<li>{shown}<span>scene {number}</span> {links}</li>"
    return f'<div class="rsd-result"><ol class="rsd-samples rsd-scenes">{items}</ol>{_files(folder)}</div>'


def _files(folder: Path) -> str:
    names = ("grid.png", "drawn.png", "contact.png", "evolution.gif", "metrics.json", CONFIG)
    links = [
        f'<a href="{url(folder / name)}" download="{name}">{name}</a>' for name in names if (folder / name).exists()
    ]
    return f'<p class="rsd-files">Files: {" ".join(links)}</p>'


def scratches(share: float, mask: Path, marked: Path) -> str:
    """Return a picture in which what is taken for scratches is red, a ``share`` of its pixels, and the mask."""
    link = f'<a href="{url(mask)}" download="{mask.name}">{mask.name}</a>'
    return (
        f'<figure class="rsd-scratches"><img src="{url(marked)}" alt="the picture, its scratches in red"><figcaption>'
        f"{100 * share:.2g}% of the pixels are taken for scratches, here in red; a run fills them in. If that is "
        f"wrong, choose inpaint_mask and paint them, or correct {link} and give it as the mask.</figcaption></figure>"
    )


def method(driver: Driver, folder: Path) -> str:
    """Return the method of a run as a heading."""
    job = driver.job(folder)
    given = dict(job.request.settings) if job else {}
    name = read_config(folder)["method"] if (folder / CONFIG).exists() else given.get("method", "auto")
    return f"<h3>{escape(str(name))}</h3>"


def pair(title: str, first: str, second: str) -> str:
    """Return two pieces side by side."""
    return f'<div class="rsd-pair" aria-label="{escape(title)}"><div>{first}</div><div>{second}</div></div>'


def defaults(command: str, options: Any, name: str) -> str:
    """Describe the settings that apply where the page leaves a field empty."""
    parts = [f"method {options.method}", f"prior {options.prior}", f"{options.steps} steps"]
    parts += [f"{options.particles} samples"]
    gamma = getattr(options, "strength", options.gamma)
    parts += [f"γ {gamma:g}"]
    if command == RESTORE:
        parts += [f"noise σᵥ {options.sigma_v:g}"]
    source = f" (packaged: {name})" if name else " (none packaged for this task)"
    return f'<p class="rsd-defaults">Empty fields take {escape(", ".join(parts) + source)}.</p>'
