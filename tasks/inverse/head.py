"""``rsd restore`` as the shared runner sees it: one run per image."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble
from rsd.features import Decoded
from rsd.metrics.scoring import ScoreRequest, Scorers, Subject, reasons
from rsd.metrics.selection import Fit
from rsd.priors import is_latent, takes_any_size
from rsd.priors.base import Prior
from rsd.priors.windows import for_picture
from rsd.runs.batch import run_all
from rsd.runs.folder import RunFolder, slug
from rsd.runs.head import Head, Item, JointFigures, Networks
from rsd.runs.summary import particles

from .inputs import Job, are_several, list_jobs
from .methods import EXAMPLE, METHODS, check_fits, run_class
from .names import hides
from .operators import Operator
from .operators.base import measurement_fit
from .operators.linear import check_exact
from .options import ALPHA, Restore, divergence_remedy
from .packaged import ADDED, resolve, resolved
from .problem import Problem, check_task, load, make, on, truth
from .results import SCORES, check_metrics, distance, headline, keep_known, write_results
from .run import Run, Settings, same_measurement

PARTS = ("mean", "best", "std")
"""What the summary has of each score."""


def run(options: Restore, jobs: list[Job] | None = None) -> int:
    """Restore every image. Return and raise what :func:`rsd.runs.batch.run_all` does."""
    return run_all(RestoreHead(options, jobs or list_jobs(options)))


class RestoreHead(Head):
    """The images to restore, each a :class:`Job`."""

    added = ADDED
    scores = SCORES

    def __init__(self, options: Restore, jobs: Sequence[Job]):
        items = [Item(job.label, job.title, slug(job.title), job.options, job) for job in jobs]
        super().__init__(options, items, several=are_several(options, jobs))
        self.foreign: list[str] = []
        self.estimates: dict[Item, torch.Tensor] = {}
        scores = ("psnr", "ssim", *(name for name in ("lpips", "dists", "clip") if name in options.metrics), "residual")
        self.parts = [(score, part) for score in scores for part in PARTS]
        self.figures = [*("_".join(one) for one in self.parts), "div", "vendi", "coverage", "agreement", "seconds"]

    @classmethod
    def of(cls, given: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> RestoreHead:
        """Return the head that ``rsd restore`` runs with these values of its options. ``file``: those of --config."""
        options, _ = resolve(file or {}, given)
        return cls(options, list_jobs(options, lambda choice: resolve(file or {}, {**given, **choice})[0]))

    @property
    def out(self) -> Path:
        """--out, or a folder named after the first input and, if all share them, the task and the method."""
        if self.options.out:
            return self.options.out
        first, *others = self.options.images
        name = slug(first.name or first.resolve().name) + (f"-and-{len(others)}-more" if others else "")
        for field in ("task", "method"):
            values = {getattr(item.options, field) for item in self.items}
            name += f"-{values.pop()}" if len(values) == 1 else ""
        return Path("runs") / "restore" / name

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError, OSError or ImportError for an error that concerns all images."""
        if not takes_any_size(self.options.prior):
            check_metrics(self.options, self.size)
        if all(item.options is self.options for item in self.items):
            check_task(self.options, self.size, device)
            check_method(self.options, self.size)

    def check_item(self, item: Item, device: torch.device) -> None:
        """Raise ValueError or OSError for an error in one image or its line of the manifest."""
        own = item.options is not self.options
        if own and item.options.task == "operator":
            check_task(item.options, self.size, device)
        problem = self.load(item, self.size)
        if problem.clean is not None:
            check_metrics(item.options, min(problem.clean.shape[-2:]))
        if own:
            check_method(item.options, self.size, problem.operator)
        if problem.foreign:
            self.foreign.append(item.title)

    def load(self, item: Item, size: int) -> Problem:
        """Load an image as a problem at ``size`` px."""
        return load(item.source.path, item.options, size, item.source.name)

    def announce(self, items: Sequence[Item]) -> None:
        """Warn of images and words outside the training data of a prior over heads."""
        prior, foreign = self.options.prior, self.foreign
        if foreign:
            first = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            what = first if len(items) == 1 else f"{len(foreign)} of {len(items)} images ({first})"
            verb = "does" if len(foreign) == 1 else "do"
            warnings.warn(
                f"{what} {verb} not look like a built-in head. The prior {prior} knows only cartoon heads "
                f"of {self.size} px and will fill in parts of those, even if they do not fit. For photographs use "
                f"--prior photos, or Stable Diffusion on a GPU: --prior {EXAMPLE['latents']}",
                stacklevel=2,
            )
        super().announce(items)

    def prompt(self, item: Item) -> str:
        """Return the description of an image."""
        return str(item.options.prompt)

    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of a run's config.yaml."""
        return {**resolved(item.options), "images": [str(item.source.path.resolve())]}

    def inputs(self, item: Item) -> Sequence[Path]:
        """Return the picture, and the files of its mask and its kernel."""
        o = item.options
        return [path for path in (item.source.path, o.mask, o.kernel) if path and path != ALPHA]

    def score_request(self, items: Sequence[Item]) -> ScoreRequest:
        """Return what to score. The lines of a manifest may have their own prompts and clean images."""
        settings = [self.options, *(item.options for item in items)] if items else [self.options]
        prompt = next((one.prompt for one in settings[::-1] if one.prompt), "")
        return ScoreRequest.of(
            self.options, prompt=prompt, clean=any(one.clean for one in settings), several=self.several
        )

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed the prompts of all runs."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* has no effect")  # each run warns for itself
            prompts = [(one.options.prompt, one.options.negative_prompt, one.options.guidance) for one in todo]
            for prompt, negative, guidance in dict.fromkeys(prompts):
                prior.condition(prompt, negative, guidance)

    def subject(self, item: Item, context: Problem) -> Subject:
        """Return an image's prompt, problem and options."""
        return Subject(self.prompt(item), context, item.options)

    def finished(self, item: Item, folder: RunFolder) -> tuple[torch.Tensor, Problem]:
        """Return the samples of a finished run, as they are scored, and its problem. Raise ValueError if the file has
        changed."""
        images, y = particles(folder), media.read_measurement(folder.path / "measurement.safetensors")
        local = item.options.fitted == "whole" and hides(item.options.task)
        size = self.size if local else images.shape[-1]
        check_metrics(item.options, min(images.shape[-2:]))
        problem = self.load(item, size)
        if not same_measurement(problem.y, y):
            raise ValueError(
                f"{item.source.path} is not the file that {folder.path} restored; restore that file, or choose "
                "another --out."
            )
        if problem.given is not None and problem.frame is not None:
            images = problem.frame.view(images)
        return images, problem

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, Problem]]:
        """Yield a restoration, with its operator on the prior's device, and its problem."""
        prior, options = networks.prior, item.options
        assert prior is not None
        problem = self.load(item, prior.image_size)
        for note in problem.notes:
            print(note)
        embed = networks.embed(item.options)
        if problem.frame is not None:
            prior = for_picture(prior, problem.frame.shape, problem.frame.tiles)
            embed = embed and Decoded(prior, embed.features, embed.decode)  # type: ignore[attr-defined]
        with on(prior.device, problem.operator) as operator:
            run = run_class(options.method)(
                prior, operator, problem.y, Settings.of(options), embed=embed, image=item.source.name,
                ensemble=ensemble, plan=networks.plans,
            )  # fmt: skip
            if (estimate := getattr(run, "estimate", None)) is not None:
                self.estimates[item] = self.finish(item, estimate.cpu().float(), problem)
            yield run, problem

    def notes(self, context: Problem) -> Sequence[str]:
        """Return how the file was changed, and what was estimated from it."""
        return context.notes

    def finish(self, item: Item, images: torch.Tensor, context: Problem) -> torch.Tensor:
        """Put the known pixels back if they are to be kept."""
        if not keep_known(item.options, context):
            return images
        assert context.operator.observed is not None
        return torch.where(context.operator.observed.cpu(), context.y.float(), images)  # the operator may be on a GPU

    def whole(self, images: torch.Tensor, context: Problem) -> torch.Tensor:
        """Return images in the whole picture."""
        return context.back(images.detach().cpu().float())

    def shown(self, images: torch.Tensor, context: Problem) -> torch.Tensor:
        """Return the images as they are written, scored and compared."""
        return context.aligned(images)

    def fit(self, item: Item, images: torch.Tensor, context: Problem, scorers: Scorers) -> Fit:
        """Return the data residual of each image."""
        noise = context.operator.noise_level(item.options.sigma_v)
        return measurement_fit(context.operator, images, context.y, noise)

    def write(
        self, item: Item, images: torch.Tensor, context: Problem, folder: RunFolder, labels: Sequence[str]
    ) -> torch.Tensor:
        """Write the images; return them as they are scored."""
        images = self.shown(images, context)
        write_results(images, context, folder, item.options, labels, self.estimates.pop(item, None))
        return images

    headline = staticmethod(headline)
    remedy = staticmethod(divergence_remedy)

    def diversity_remedy(self, options: Restore) -> str:
        """Return the remedy for nearly equal samples."""
        if takes_any_size(options.prior):
            more = f"for more difference draw more, --draw {2 * options.drawn} --keep {options.kept}"
            return f"the picture may leave little open; {more}"
        if "gamma" in METHODS[options.method].uses:
            return f"raise --gamma ({options.gamma:g})"
        return f"{options.method} has no --gamma: take --method rlsd with one"

    @classmethod
    def works(cls, options: Restore) -> list[str]:
        """Return the works to cite for the method."""
        return list(METHODS[options.method].works)

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """Return an image's line of the summary."""
        row: dict[str, Any] = {"image": item.title, "folder": folder.path.name}
        row |= {f"{score}_{part}": (held.get(score) or {}).get(part) for score, part in self.parts}
        cover = held["coverage"] or {}
        row |= {name: held.get(name) for name in ("div", "vendi", "div_features")} | {"coverage": cover.get("mean")}
        return {**row, "agreement": cover.get("agreement"), "seconds": held["seconds"]}

    def joint_figures(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> JointFigures:
        """Return the Frechet distance between all samples and all clean images, both rounded to 8 bits as in their
        files."""
        why = reasons(SCORES, self.score_request(list(done))).get("fid")
        done = {item: folder for item, folder in done.items() if item.options.clean}  # lines of a manifest may differ
        if why is None and len(done) < 2:
            why = f"it needs at least 2 restored images, of clean ones, not {len(done)}"
        if why is not None or networks.scorers.fid is None:
            return {"fid": (None, why or "its network is not loaded")}
        samples = [particles(folder) for folder in done.values()]
        clean = [truth(item.source.path, item.options, item.source.name) for item in done]
        return {"fid": distance(samples, clean, networks.scorers)}


def check_method(options: Restore, size: int, operator: Operator | None = None) -> None:
    """Raise ValueError if the method does not work with the prior or the operator (default: that of the task)."""
    operator = operator or make(options, size)
    check_fits(
        options.method, prior=options.prior, latent=is_latent(options.prior, options.revision), operator=operator.name,
        linear=operator.linear, blind=operator.blind,
    )  # fmt: skip
    if options.x_step == "exact" and "x_step" in METHODS[options.method].uses:
        check_exact(operator)
