"""What a task supplies to the runner (:mod:`rsd.runs.batch`): its items, and how one is checked, run and scored.

A head (restoration, text to image, text to 3D) subclasses :class:`Head`. The networks that all items share are loaded
here, once.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from rsd.distributed import Ensemble
from rsd.engine import Embed
from rsd.features import Decoded, check_features_name, load_features
from rsd.features.tiny_decoder import check_decoder_name, load_decoder
from rsd.memory import GIB, Plans
from rsd.memory.usage import available
from rsd.metrics.scoring import (
    Score,
    ScoreRequest,
    Scorers,
    Subject,
    load_scorers,
    measure,
    measure_missing,
    missing_figures,
)
from rsd.metrics.selection import Fit
from rsd.priors import check_prior_name, has_text, image_size, is_latent, load_prior
from rsd.priors.base import Prior
from rsd.runs.folder import SUMMARIES, RunFolder
from rsd.runs.prompts import PromptCommand, PromptJob, default_name, folder_names, prompt_notes, shorten, word_notes
from rsd.runs.run import Run
from rsd.runs.summary import particles, summarise

JointFigures = dict[str, tuple[Any, str | None]]
"""Figures of all runs together by name; for each None also the reason."""


@dataclass(frozen=True, eq=False)
class Item:
    """One run. ``label`` names it among failures, ``title`` in messages, ``folder`` (relative) among several runs;
    ``source`` is what the head makes the run from, for example a prompt."""

    label: str
    title: str
    folder: str
    options: Any
    source: Any


@dataclass(frozen=True)
class Networks:
    """The networks of all items. ``prior``: None if every run is finished. ``features``: the feature maps by name;
    ``embeds``: the same of latents. ``plans``: the memory plans found so far."""

    device: torch.device
    prior: Prior | None = None
    features: Mapping[str, Embed] = field(default_factory=dict)
    embeds: Mapping[str, Embed] = field(default_factory=dict)
    scorers: Scorers = field(default_factory=Scorers)
    plans: Plans = field(default_factory=lambda: Plans(lambda why: print(f"memory: {why}", flush=True)))

    def embed(self, options: Any) -> Embed | None:
        """Return the feature map that compares an item's particles; None if they do not interact."""
        return self.embeds[options.features_name] if options.interacts else None


class Head(ABC):
    """The items of a command, and everything about them that depends on the task.

    ``options`` are the command's. Those of an item may differ, except in what chooses a network other than the feature
    map.
    """

    what: ClassVar[str] = "images"
    """The items in messages."""
    added: ClassVar[Mapping[str, Any]] = {}
    """Settings that older versions' config.yaml does not contain, with the values that their runs used."""
    own: ClassVar[Collection[str]] = SUMMARIES
    """Files in the output folder of several runs beside the runs."""
    runs: ClassVar[str] = "*"
    """Glob pattern of the runs in that folder."""
    scores: ClassVar[Sequence[Score]] = ()
    figures: Sequence[str] = ()
    """Columns of the summary that have means."""
    names_finished: ClassVar[bool] = True
    """Whether finished runs to which nothing is added are printed."""

    def __init__(self, options: Any, items: Sequence[Item], *, several: bool):
        self.options, self.items, self.several = options, list(items), several
        self.resume = options.resume or options.shard is not None

    @property
    @abstractmethod
    def out(self) -> Path:
        """The output folder."""

    @cached_property
    def size(self) -> int:
        """Side of the prior's images in pixels; raises what ``image_size`` raises if the prior is not available."""
        return image_size(self.options.prior, self.options.revision)

    def run_folder(self, item: Item, *, resume: bool = True) -> RunFolder:
        """Return the folder of a run. Raise ValueError or OSError if it contains something else."""
        path = self.out / item.folder if self.several else self.out
        return RunFolder(path, resume=resume, samples=self.pictures(item))

    def pictures(self, item: Item) -> int:
        """Return how many pictures a finished run has in particles/."""
        return int(item.options.kept)

    def inputs(self, item: Item) -> Collection[Path]:
        """Return the files that a run is made from."""
        return ()

    # Checks, before any model is loaded.

    def check(self) -> None:
        """Raise ValueError for invalid names. Reads no model files."""
        request = ScoreRequest.of(self.options)
        check_prior_name(self.options.prior)
        names = [item.options.features_name for item in self.items]
        names += [name for name in (request.div_features, request.fid_features) if name != "auto"]
        for name in dict.fromkeys(names):
            check_features_name(name)
        if self.options.force_decoder:
            check_decoder_name(self.options.force_decoder)

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError, OSError or ImportError if no item can run with these options."""
        _ = self.size
        o = self.options
        if o.force_decoder and not is_latent(o.prior, o.revision):
            raise ValueError(f"--force-decoder goes with priors of latents, which {o.prior} has not; leave it out.")

    def check_memory(self) -> None:
        """Raise ValueError if an item's samples alone, as pictures, do not fit into the free memory."""
        number = max(item.options.drawn for item in self.items)
        need, free = 12 * number * self.size**2, available(torch.device("cpu"))
        if need > free:
            raise ValueError(
                f"{number} samples of {self.size} px take {need / GIB:,.0f} GiB, and {free / GIB:.0f} GiB of memory "
                "are free; give fewer with -n."
            )

    def check_item(self, item: Item, device: torch.device) -> None:
        """Raise ValueError or OSError if one item cannot run."""
        return None

    def announce(self, items: Sequence[Item]) -> None:
        """Warn about the items that will run: of words that a prior over heads does not know."""
        prior = self.options.prior
        found = [prompt_notes(self.prompt(item), prior) for item in items]
        found += [word_notes(text, prior) for item in items for text in self.other_texts(item.options)]
        for note in dict.fromkeys(chain(*found)):
            warnings.warn(note, stacklevel=2)

    def prompt(self, item: Item) -> str:
        """Return what the item's samples are to show."""
        return str(item.source)

    def other_texts(self, options: Any) -> Sequence[str]:
        """Return the texts for the prior beside the prompt, which no score reads."""
        return (options.negative_prompt,) if options.guidance != 1 else ()

    @abstractmethod
    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of the run's config.yaml."""

    # One run.

    @abstractmethod
    def embed_texts(self, items: Sequence[Item], prior: Prior) -> None:
        """Embed all texts of the runs; the text encoder is released afterwards."""

    @abstractmethod
    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> AbstractContextManager[tuple[Run, Any]]:
        """Return a run, and the ``context`` that the methods below need (a problem, say)."""

    def gather(self, run: Run, context: Any) -> Any:
        """Return the context after the last step, with all processes' particles. Every process calls it."""
        return context

    def notes(self, context: Any) -> Sequence[str]:
        """Return what is worth knowing of how a run's input was read, sentences for provenance.json."""
        return ()

    def finish(self, item: Item, images: torch.Tensor, context: Any) -> torch.Tensor:
        """Return the result of a run whose particles are ``images`` [N, 3, H, W]."""
        return images

    def whole(self, images: torch.Tensor, context: Any) -> torch.Tensor:
        """Return images [N, 3, h, w] of a run as the film and the preview show them, [N, 3, H, W]."""
        return images

    def shown(self, images: torch.Tensor, context: Any) -> torch.Tensor:
        """Return the samples [N, 3, H, W] as they are compared with one another."""
        return images

    def fit(self, item: Item, images: torch.Tensor, context: Any, scorers: Scorers) -> Fit | None:
        """Return how well drawn samples fit, for the selection (``--draw``); None if nothing measures that."""
        return None

    def write(
        self, item: Item, images: torch.Tensor, context: Any, folder: RunFolder, labels: Sequence[str]
    ) -> torch.Tensor:
        """Write the pictures of a run, in grids with ``labels``; return the images to be scored."""
        raise NotImplementedError

    def save(
        self, item: Item, images: torch.Tensor, context: Any, folder: RunFolder, networks: Networks,
        weights: Sequence[float] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write and score the result; return its figures. Only the main process calls it. ``weights``: the importance
        weights of repelled samples, which grids show."""
        labels = [f"particle {k}" for k in range(len(images))]
        if weights:
            labels = [f"particle {k}, {100 * w:.0f}%" for k, w in enumerate(weights)]
        images = self.write(item, images, context, folder, labels)
        return measure(self.scores, images, self.subject(item, context), networks.scorers)

    @staticmethod
    @abstractmethod
    def remedy(options: Any) -> str:
        """Say how to prevent that a run with these options diverges."""

    # Scores, of new and of finished runs.

    def score_request(self, items: Sequence[Item]) -> ScoreRequest:
        """Return which figures of these items are requested, and what measures them."""
        return ScoreRequest.of(self.options)

    def subject(self, item: Item, context: Any) -> Subject:
        """Return what the samples are compared with. ``context``: of :meth:`start` or :meth:`finished`."""
        return Subject(self.prompt(item))

    def finished(self, item: Item, folder: RunFolder) -> tuple[torch.Tensor, Any]:
        """Return the samples of a finished run, as they are scored, and its context."""
        return particles(folder), None

    def missing_figures(self, held: dict[str, Any], item: Item) -> list[str]:
        """Return what is requested now and missing in ``held``, the metrics of a finished run."""
        return missing_figures(self.scores, held, ScoreRequest.of(item.options))

    def needs_scorers(self, missing: Sequence[str]) -> bool:
        """Return whether networks are needed to add what finished runs miss."""
        return bool(missing)

    def needs_joint_scorers(self) -> bool:
        """Return whether a score of all runs together is requested."""
        return any(score.name == "fid" and not score.why_null(self.score_request(self.items)) for score in self.scores)

    def add_missing(
        self, item: Item, held: dict[str, Any], missing: Sequence[str], folder: RunFolder, networks: Networks
    ) -> tuple[dict[str, Any], list[str]] | None:
        """Return the new metrics of a finished run and what was added; None to leave it unchanged."""
        images, context = self.finished(item, folder)
        subject = self.subject(item, context)
        return measure_missing(self.scores, images, subject, held, missing, networks.scorers)

    # Messages and summary.

    @staticmethod
    @abstractmethod
    def headline(figures: dict[str, Any]) -> str:
        """Format the figures of one run in a line."""

    def diversity_remedy(self, options: Any) -> str:
        """Say how to get more different samples, if they are nearly equal."""
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def works(cls, options: Any) -> list[str]:
        """Return the works that the method builds on, as keys of rsd.runs.citations."""

    @classmethod
    def cited(cls, options: Any, *, latent: bool) -> list[str]:
        """Return all works that a run builds on. ``latent``: whether the prior is a latent one."""
        name = options.features_name if options.interacts or options.selects else ""
        dino = name == "heads" or "dino" in name
        works = [*cls.works(options), *(["latent-diffusion"] if latent else []), *(["dino"] if dino else [])]
        return [*works, *(["dpp"] if options.selects else [])]

    @abstractmethod
    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """Return a run's row of the summary from its metrics."""

    def joint_figures(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> JointFigures:
        """Return the figures of all runs together."""
        return {}

    def summarise(self, out: Path, done: dict[Item, RunFolder], failures: dict[str, str], networks: Networks) -> None:
        """Write the summary of several runs and print it in a line."""
        rows = [self.row(item, folder.metrics(), folder) for item, folder in done.items()]
        summarise(out, self.what, rows, self.figures, failures, self.joint_figures(out, done, networks))


class PromptHead(Head):
    """A head whose items are prompts; the prompt selects a run's random numbers."""

    what = "prompts"
    command: ClassVar[PromptCommand]

    def __init__(self, options: Any, jobs: Sequence[PromptJob]):
        folders = folder_names([job.name for job in jobs])
        items = [Item(job.name, shorten(job.name), folders[job.name], job.options, job.prompt) for job in jobs]
        super().__init__(options, items, several=len(jobs) > 1 or options.prompts is not None)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the head that the command runs with these values of its options."""
        options, jobs, _ = cls.command.jobs({}, given)
        return cls(options, jobs)

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError if the prior reads no prompts."""
        super().check_shared(device)
        o, prompt = self.options, next((item.source for item in self.items if item.source), None)
        if prompt and not has_text(o.prior, o.revision):
            raise ValueError(
                f'The prior {o.prior} knows no text, so it cannot show "{shorten(prompt)}"; give another --prior.'
            )

    @property
    def out(self) -> Path:
        """--out, or a folder named after the prompts and the method."""
        o = self.options
        name = default_name([item.source for item in self.items], o.prompts)
        return o.out or Path("runs") / self.command.name / f"{name}-{o.method}"

    def config(self, item: Item) -> dict[str, Any]:
        """Return the content of the run's config.yaml."""
        return {**self.command.resolved(item.options), "prompt": item.source}

    @staticmethod
    @abstractmethod
    def make_run(prior: Prior, prompt: str, options: Any, **where: Any) -> Run:
        """Return the run of a prompt. ``where``: its feature map, random numbers, processes and memory plan."""

    @contextmanager
    def start(self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder) -> Iterator[tuple[Any, Any]]:
        """Return the run of a prompt."""
        assert networks.prior is not None
        yield self.make_run(
            networks.prior, item.source, item.options, embed=networks.embed(item.options), image=item.source,
            ensemble=ensemble, plan=networks.plans,
        ), None  # fmt: skip

    @staticmethod
    @abstractmethod
    def row_figures(held: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a run's metrics for the summary."""

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """Return a prompt's row of the summary."""
        return {"prompt": item.source, "folder": folder.path.name, **self.row_figures(held)}


def load_networks(
    head: Head, todo: Sequence[Item], folders: Mapping[Item, RunFolder], device: torch.device, *, main: bool = True
) -> Networks:
    """Load the scorers (on the ``main`` process) and, if anything is ``todo``, the prior and the feature maps. Embed
    all texts, then release the text encoder."""
    scorers = load_head_scorers(head, todo, folders, device) if main else Scorers()
    if not todo:
        return Networks(device, scorers=scorers)
    o = head.options
    # Features for the repulsion, and for the selection also if there is none.
    compared = [item.options for item in todo if item.options.interacts or item.options.selects]
    names = dict.fromkeys(options.features_name for options in compared)
    features = {name: load_features(name, device=device, size=o.feature_size) for name in names}
    print(f"prior: {o.prior} on {device}, {o.dtype}", flush=True)
    prior = load_prior(
        o.prior, device=device, dtype=getattr(torch, o.dtype), revision=o.revision, autocast=o.autocast,
        size=getattr(o, "sides", None),
    )  # fmt: skip
    head.embed_texts(todo, prior)
    prior.release_text_encoder()
    decoder = load_decoder(o.force_decoder, prior) if features and o.force_decoder else None
    embeds = {name: Decoded(prior, embed, decoder) for name, embed in features.items()}
    return Networks(device, prior, features, embeds, scorers)


def load_head_scorers(
    head: Head, todo: Sequence[Item], folders: Mapping[Item, RunFolder], device: torch.device
) -> Scorers:
    """Load the networks that score the items ``todo`` or, if there are none, the finished runs in ``folders``."""
    items, size = todo or list(folders), 0
    request = head.score_request(items)
    if request.fid_folder:  # its pictures are resized to the size of the samples
        size = head.size if todo else particles(next(iter(folders.values()))).shape[-1]
    compared = [item.options for item in items if item.options.interacts or item.options.selects]
    repulsion = [options.features_name for options in compared]
    return load_scorers(head.scores, request, repulsion=repulsion, size=size, device=device)
