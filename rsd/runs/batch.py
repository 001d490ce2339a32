"""The runner of every head: check all inputs, load the networks once, run, score, write, summarise.

A head says what its items are and what makes a run of one (:class:`Head`). All else is here: processes and their
shares, locks, progress, finished runs, failures and the exit code.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch

from rsd.distributed import ALONE, Ensemble, Processes, connect, processes, share, shares_told, speaking, wait
from rsd.engine import Embed
from rsd.errors import plain_warnings
from rsd.features import check_features_name, load_features
from rsd.features.decoded import Decoded
from rsd.features.tiny_decoder import check_decoder_name, load_decoder
from rsd.memory import Plans
from rsd.metrics.networks import warn_if_equal
from rsd.metrics.scoring import Asked, Score, Scorers, Subject, lacking, load_scorers, measure, measure_again, reasons
from rsd.priors import check_prior_name, image_size, load_prior
from rsd.priors.base import Prior
from rsd.runs import cluster
from rsd.runs.folder import SUMMARIES, RunFolder, check_folder_of_runs, locked
from rsd.runs.progress import Progress
from rsd.runs.prompts import PromptJob, default_name, folder_names, notes, strange
from rsd.runs.run import Run
from rsd.runs.session import Session, alone, of_all, pick_device, survives, working_in
from rsd.runs.settings import shard
from rsd.runs.summary import particles, summarise

ABSENT: dict[str, Any] = {
    "shard": None, "engine": "local", "autocast": False, "feature_size": None, "force_decoder": None,
    "fid_features": "auto",
}  # fmt: skip
"""Options of the runner, and what holds for a head that has no such flag."""


def option(options: Any, name: str) -> Any:
    """An option of any head, also of one without that flag."""
    return getattr(options, name, ABSENT[name])


@dataclass(frozen=True, eq=False)
class Item:
    """One run to do. ``label``: among failures; ``title``: in messages; ``folder``: among several, relative to theirs;
    ``source``: what the head makes the run from."""

    label: str
    title: str
    folder: str
    options: Any
    source: Any


@dataclass(frozen=True)
class Networks:
    """What is loaded once for all items; no prior if every run is finished. ``embeds``: what the particles are compared
    by, by the feature map's name. ``scorers``: the head's, on the process that scores. ``plans``: of memory, and what
    was learned of them."""

    device: torch.device
    prior: Prior | None = None
    embeds: Mapping[str, Embed] = field(default_factory=dict)
    scorers: Any = None  # Scorers, where anything is measured
    plans: Plans = field(default_factory=lambda: Plans(lambda why: print(f"memory: {why}", flush=True)))


class Head:
    """What a task tells the runner: its items, what is wrong with them, and what makes and ends a run of one.

    ``options``: those of the command; an item's own may differ in all that does not choose a network but the feature
    map's name.
    """

    what: ClassVar[str] = "images"
    added: ClassVar[Mapping[str, Any]] = {}
    """Settings that older versions' config.yaml lacks, and what their runs were made with."""
    own: ClassVar[Collection[str]] = SUMMARIES
    runs: ClassVar[str] = "*"
    """What the folder of several holds beside its runs, and where they are in it."""
    scores: ClassVar[Sequence[Score]] = ()
    figures: Sequence[str] = ()
    """Columns of the summary that have means."""
    all_or_none: ClassVar[bool] = False
    """Whether one run with other settings stops all of them."""
    adds: ClassVar[str] = "measured"
    """What is done to a finished run that lacks something."""
    names_finished: ClassVar[bool] = True
    """Whether a line names each finished run that lacks nothing."""

    def __init__(self, options: Any, items: Sequence[Item], *, several: bool):
        self.options, self.items, self.several = options, list(items), several
        self.resume = options.resume or option(options, "shard") is not None

    @property
    def out(self) -> Path:
        """The output folder."""
        raise NotImplementedError

    @cached_property
    def size(self) -> int:
        """Pixels a side of the prior's images. Raises what ``image_size`` raises for a prior that cannot be had."""
        return image_size(self.options.prior, self.options.revision)

    @classmethod
    def interacts(cls, options: Any) -> bool:
        """Whether any particle ever feels another, so that the feature map is needed."""
        return options.interacts

    @classmethod
    def features_name(cls, options: Any) -> str:
        """The feature map's name, "auto" resolved."""
        return options.features_name

    def embed(self, item: Item, networks: Networks) -> Embed | None:
        """What an item's particles are compared by; None if they do not interact."""
        return networks.embeds[self.features_name(item.options)] if self.interacts(item.options) else None

    def check(self) -> None:
        """Raise ValueError for names and flags that cannot be. Looks at no file of a model."""
        check_prior_name(self.options.prior)
        for name in {self.features_name(item.options): None for item in self.items}:
            check_features_name(name)
        for name in (self.options.div_features, option(self.options, "fid_features")):
            if name != "auto":
                check_features_name(name)
        if decoder := option(self.options, "force_decoder"):
            check_decoder_name(decoder)

    def check_shared(self, device: torch.device) -> None:
        """Raise ValueError, OSError or ImportError for what no item could run with. Loads nothing."""
        _ = self.size

    def look(self, item: Item, device: torch.device) -> None:
        """Raise ValueError or OSError for what is wrong with one item, before any model is loaded."""

    def announce(self, items: Sequence[Item]) -> None:
        """Tell, before anything is loaded, what is odd about the items that will run."""

    def config(self, item: Item) -> dict[str, Any]:
        """A run's config.yaml."""
        raise NotImplementedError

    def asked(self, items: Sequence[Item]) -> Asked:
        """Which figures of these items are wanted, and what they are measured with."""
        return Asked.of(self.options)

    def load_scorers(self, items: Sequence[Item], folders: Mapping[Item, RunFolder], device: torch.device) -> Scorers:
        """The networks that score ``items``, or if there is none finished runs in ``folders``."""
        asked, size = self.asked(items or list(folders)), 0
        if asked.fid_folder:  # its pictures are brought to the size of the samples
            size = self.size if items else particles(next(iter(folders.values()))).shape[-1]
        repel = [self.features_name(one.options) for one in items or folders if self.interacts(one.options)]
        return load_scorers(self.scores, asked, repulsion=repel, size=size, device=device)

    def scored_together(self) -> bool:
        """Whether a figure of all runs together is asked for, which needs networks."""
        return any(score.name == "fid" for score in self.scores) and "fid" not in reasons(self.scores, self.asked([]))

    def embed_texts(self, todo: Sequence[Item], prior: Prior) -> None:
        """Embed all that the runs will ask for; the text encoder is released afterwards."""
        raise NotImplementedError

    def lacking(self, held: dict[str, Any], item: Item) -> list[str]:
        """What is asked for now and is not in the metrics ``held`` of a finished run."""
        return lacking(self.scores, held, Asked.of(item.options))

    def needs_scorers(self, lacks: Sequence[str]) -> bool:
        """Whether networks have to be loaded for what finished runs lack."""
        return bool(lacks)

    def subject(self, item: Item, about: Any) -> Subject:
        """What the samples of an item are of. ``about``: of :meth:`start`, or :meth:`finished`."""
        return Subject(item.source)

    def finished(self, item: Item, folder: RunFolder, images: torch.Tensor) -> Any:
        """What :meth:`subject` wants to know of a finished run with these pictures."""
        return None

    def again(
        self, item: Item, held: dict[str, Any], lacks: Sequence[str], folder: RunFolder, networks: Networks
    ) -> tuple[dict[str, Any], list[str]] | None:
        """The metrics of a finished run with what it lacks, and what was measured or made; None: leave it as it is."""
        images = particles(folder)
        subject = self.subject(item, self.finished(item, folder, images))
        return measure_again(self.scores, images, subject, held, lacks, networks.scorers)

    def start(
        self, item: Item, networks: Networks, ensemble: Ensemble, folder: RunFolder
    ) -> AbstractContextManager[tuple[Run, Any]]:
        """A run, and what :meth:`finish` and :meth:`leave` want to know of it."""
        raise NotImplementedError

    def gather(self, run: Run, about: Any) -> Any:
        """What :meth:`leave` wants to know of a run that has ended, of all processes' particles. All come here."""
        return about

    def finish(self, item: Item, images: torch.Tensor, about: Any) -> torch.Tensor:
        """The result of a run that ended in ``images``."""
        return images

    def write(self, item: Item, images: torch.Tensor, about: Any, folder: RunFolder) -> torch.Tensor:
        """Write the pictures of a run; those that are scored."""
        raise NotImplementedError

    def leave(
        self, item: Item, images: torch.Tensor, about: Any, folder: RunFolder, networks: Networks
    ) -> dict[str, Any]:
        """Write what a run leaves to be looked at; its figures. Only the main process comes here."""
        images = self.write(item, images, about, folder)
        return measure(self.scores, images, self.subject(item, about), networks.scorers)

    def headline(self, figures: dict[str, Any]) -> str:
        """The figures of one run in a line."""
        raise NotImplementedError

    def remedy(self, item: Item) -> str:
        """What to do about a run that diverged."""
        raise NotImplementedError

    def apart_by(self, options: Any) -> str:
        """What makes samples differ that are nearly equal."""
        raise NotImplementedError

    @classmethod
    def works(cls, options: Any) -> list[str]:
        """The works that a method rests on, as keys of rsd.runs.citations."""
        raise NotImplementedError

    @classmethod
    def cited(cls, options: Any, *, latent: bool) -> list[str]:
        """All works that a run rests on; ``latent``: the prior is."""
        name = cls.features_name(options) if cls.interacts(options) else ""
        dino = name == "heads" or "dino" in name
        return [*cls.works(options), *(["latent-diffusion"] if latent else []), *(["dino"] if dino else [])]

    def row(self, item: Item, held: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """A run's line of the summary, from its metrics."""
        raise NotImplementedError

    def together(self, out: Path, done: dict[Item, RunFolder], networks: Networks) -> dict[str, tuple[Any, str | None]]:
        """Figures of all runs together, and why those are None that are."""
        return {}

    def summarise(self, out: Path, done: dict[Item, RunFolder], failures: dict[str, str], networks: Networks) -> None:
        """Write what several runs leave together, and print it in a line."""
        rows = [self.row(item, folder.metrics(), folder) for item, folder in done.items()]
        summarise(out, self.what, rows, self.figures, failures, self.together(out, done, networks))


class PromptHead(Head):
    """A head whose items are prompts; random numbers depend on the prompt."""

    what = "prompts"
    command: ClassVar[str]

    def __init__(self, options: Any, jobs: Sequence[PromptJob]):
        folders = folder_names([job.name for job in jobs])
        items = [Item(job.name, short(job.name), folders[job.name], job.options, job.prompt) for job in jobs]
        super().__init__(options, items, several=len(jobs) > 1 or options.prompts is not None)

    @property
    def out(self) -> Path:
        """--out, or a folder named after the prompts and the method."""
        o = self.options
        name = default_name([item.source for item in self.items], o.prompts)
        return o.out or Path("runs") / self.command / f"{name}-{o.method}"

    @classmethod
    def resolved(cls, options: Any) -> dict[str, Any]:
        """The options as plain values."""
        raise NotImplementedError

    def config(self, item: Item) -> dict[str, Any]:
        """One run's config.yaml."""
        return {**self.resolved(item.options), "prompt": item.source}

    def texts(self, options: Any) -> Sequence[str]:
        """Return the other texts that the prior is given, which no score reads."""
        return (options.negative_prompt,) if options.guidance != 1 else ()

    def announce(self, items: Sequence[Item]) -> None:
        """Warn of words that a prior over heads does not know."""
        prior = self.options.prior
        told = [notes(item.source, prior) for item in items]
        told += [strange(text, prior) for item in items for text in self.texts(item.options)]
        for note in dict.fromkeys(chain(*told)):
            warnings.warn(note, stacklevel=2)


def short(prompt: str, limit: int = 60) -> str:
    """A prompt as messages name it."""
    return prompt if 0 < len(prompt) <= limit else prompt[: limit - 3] + "..." if prompt else '""'


def on_ray(head: Head) -> bool:
    """Whether the runs are tasks of a Ray cluster."""
    return option(head.options, "engine") == "ray"


def run_all(head: Head) -> int:
    """Run every item; the exit code: 0 all done, 1 some failed. Raises for what stops all of them.

    Where several processes were started, each runs its share of several items; of a single one they share the
    particles. The main one writes the summary of all, and its exit code tells of all.
    """
    named = option(head.options, "shard")
    if named and not head.several:
        raise ValueError(f"--shard {named} goes with several {head.what}, but there is one; leave it out.")
    if on_ray(head):
        cluster.check(head.what, several=head.several, shard=named, device=head.options.device)
    with plain_warnings(), speaking(all_of_them=head.several):
        failures = run_items(head)
    for name, why in failures.items():
        is_path = "/" in name or "\\" in name  # and why names it already
        print(f"failed: {why}" if is_path and name in why else f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def run_items(head: Head) -> dict[str, str]:
    """Run this process's share, and write the summary of all; what failed, by label, on the main process anywhere."""
    head.check()
    # this process may have no GPU where Ray's workers have one
    own = "auto" if on_ray(head) and head.options.device == "cuda" else head.options.device
    device = pick_device(own)
    here, named = connect(device), option(head.options, "shard")
    k, n = shard(named)
    items = head.items[k::n]
    if here.size > 1 and here.main:
        number = len(items) if head.several else head.options.particles
        print(shares_told(here, head.what, number, several=head.several), flush=True)
    ensemble = Ensemble.of(head.options.particles, Processes() if head.several else here)
    folders = look_at_folders(head, share(items, here) if head.several else items, device)
    failures = check_items(head, folders, device)
    wait()  # all have looked at the folder before any writes into it
    with working_in(head.out, main=ensemble.main and here.main and not named):  # shards write no summary
        if on_ray(head):
            networks = run_on_ray(head, folders, failures, device)
        else:
            networks = needed(head, folders, failures, device, main=ensemble.main)
            run_each(head, folders, failures, networks, ensemble)
        if head.several:
            failures = together(head, items, failures, networks)
    return failures


def look_at_folders(head: Head, items: Sequence[Item], device: torch.device) -> dict[Item, RunFolder]:
    """The folder of each item. Raises ValueError or OSError for one that holds something else."""
    try:
        if head.several:
            check_folder_of_runs(head.out, resume=head.resume, own=head.own, runs=head.runs)
        return {item: folder_of(head, item, resume=head.resume) for item in items}
    except (ValueError, OSError):
        head.check_shared(device)  # what is wrong with the flags is told first
        raise


def folder_of(head: Head, item: Item, *, resume: bool = True) -> RunFolder:
    """The run folder of an item."""
    return RunFolder(head.out / item.folder if head.several else head.out, resume=resume)


def check_items(head: Head, folders: Mapping[Item, RunFolder], device: torch.device) -> dict[str, str]:
    """What is wrong with items that are to run, and which folders hold a run with other settings, by label, before any
    model is loaded. Raises what is wrong with all of them, or with a single one."""
    failures: dict[str, str] = {}
    todo = [item for item, folder in folders.items() if not folder.done]
    if todo:
        head.check_shared(device)
    for item in todo:
        survives(item.label, failures, partial(head.look, item, device), head.several)
    for item, folder in folders.items():
        if item.label not in failures:
            same = partial(folder.check, head.config(item), added=head.added)
            survives(item.label, failures, same, head.several and not head.all_or_none)
    head.announce(todo)
    return failures


def needed(
    head: Head, folders: Mapping[Item, RunFolder], failures: dict[str, str], device: torch.device, *, main: bool
) -> Networks:
    """The networks for what is to do; none of them if nothing is. ``main``: of one run's processes the one that
    scores."""
    left = {item: folder for item, folder in folders.items() if item.label not in failures}
    todo = [item for item, folder in left.items() if not folder.done]
    again = any(
        folder.done and head.needs_scorers(head.lacking(folder.metrics(), item)) for item, folder in left.items()
    )
    if todo or again or (left and head.several and head.scored_together()):
        return load_networks(head, todo, left, device, main=main)
    return Networks(device)


def load_networks(
    head: Head, todo: Sequence[Item], folders: Mapping[Item, RunFolder], device: torch.device, *, main: bool = True
) -> Networks:
    """Load the networks that score (on the ``main`` process), then the feature maps and the prior if anything is
    ``todo``. All texts are embedded, then the text encoder is released. Prints what it loads and where."""
    scorers = head.load_scorers(todo, folders, device) if main else None
    if not todo:
        return Networks(device, scorers=scorers)
    o = head.options
    names = dict.fromkeys(head.features_name(item.options) for item in todo if head.interacts(item.options))
    features = {name: load_features(name, device=device, size=option(o, "feature_size")) for name in names}
    print(f"prior: {o.prior} on {device}, {o.dtype}", flush=True)
    dtype, autocast = getattr(torch, o.dtype), option(o, "autocast")
    prior = load_prior(o.prior, device=device, dtype=dtype, revision=o.revision, autocast=autocast)
    head.embed_texts(todo, prior)
    prior.release_text_encoder()
    decoder = option(o, "force_decoder")
    small = load_decoder(decoder, prior) if features and decoder else None
    return Networks(device, prior, {name: Decoded(prior, one, small) for name, one in features.items()}, scorers)


def run_each(
    head: Head, folders: Mapping[Item, RunFolder], failures: dict[str, str], networks: Networks, ensemble: Ensemble
) -> None:
    """Run what is not done, and measure what finished runs lack; what fails is added to ``failures``."""
    todo = [item for item, folder in folders.items() if item.label not in failures and not folder.done]
    progress = Progress(len(todo), f"{head.what}:", first=1)
    for item, folder in folders.items():
        if item.label in failures or (folder.done and not ensemble.main):
            continue
        new = item in todo  # what is done is not touched, or only where something is measured
        work = partial(run_one if new else look_again, head, item, networks, folder, ensemble)
        survives(item.label, failures, partial(alone, folder, work) if new and ensemble.main else work, head.several)
        if new:
            progress.tick()


def run_on_ray(
    head: Head, folders: Mapping[Item, RunFolder], failures: dict[str, str], device: torch.device
) -> Networks:
    """Do what :func:`run_each` does by the workers of a Ray cluster; the networks that the summary needs here."""
    left = {item: folder for item, folder in folders.items() if item.label not in failures}
    todo = [item for item, folder in left.items() if not folder.done]
    lacks = {item: head.lacking(folder.metrics(), item) for item, folder in left.items() if folder.done}
    places = {item: place for place, item in enumerate(head.items)}  # a worker's items are copies
    if asked := {places[item]: item.label for item in left if lacks.get(item, True)}:
        load = bool(todo) or any(map(head.needs_scorers, lacks.values()))
        work = Work(head, [places[item] for item in left], [places[item] for item in todo], load)
        failures |= cluster.run_on_ray(work, asked, device=head.options.device, what=head.what)
    for item, folder in left.items():
        if places[item] not in asked:
            look_again(head, item, Networks(device), folder, ALONE)
    done = {item: folder for item, folder in left.items() if folder.done}
    scored = bool(done) and head.scored_together()
    return Networks(device, scorers=head.load_scorers([], done, device) if scored else None)


class Work:
    """What a worker of a cluster does, called with an item's place among the head's; it loads the networks once."""

    def __init__(self, head: Head, left: Sequence[int], todo: Sequence[int], load: bool):
        """``left``: the places of items that did not fail at the start, ``todo``: of those that were not done;
        ``load``: whether networks are needed."""
        self.head, self.left, self.todo, self.load = head, left, todo, load

    @cached_property
    def networks(self) -> Networks:
        """The networks for all that was to do, as one process would have them for the same command."""
        head, device = self.head, pick_device(self.head.options.device)
        folders = {head.items[place]: folder_of(head, head.items[place]) for place in self.left}
        todo = [head.items[place] for place in self.todo]
        return load_networks(head, todo, folders, device) if self.load else Networks(device)

    def __call__(self, place: int) -> dict[str, str]:
        """Do one run, or measure what a finished one lacks; why it failed, by label."""
        item, failures = self.head.items[place], dict[str, str]()
        with plain_warnings():
            networks, folder = self.networks, folder_of(self.head, item)
            run_each(self.head, {item: folder}, failures, networks, Ensemble.of(item.options.particles))
        return failures


def run_one(head: Head, item: Item, networks: Networks, folder: RunFolder, ensemble: Ensemble) -> None:
    """Run one item in its folder, from its checkpoint if there is one. Processes that share the ``ensemble`` all come
    here; one of them writes."""
    prior, options, remedy = networks.prior, item.options, head.remedy(item)
    assert prior is not None
    if ensemble.main:
        folder.open(head.config(item), added=head.added)
    own = Ensemble.of(options.particles) if ensemble.alone else ensemble
    with head.start(item, networks, own, folder) as (run, about):
        session = Session(run, folder, prior)
        every = options.checkpoint_every
        session.drive(steps=options.steps, name=item.title, checkpoint_every=every, remedy=remedy)
        images = run.finish().detach().cpu().float()
    if not images.isfinite().all():  # the last step's update is in no record
        raise ValueError(f"The run diverged at its last step; {remedy}.")
    about = head.gather(run, about)
    images = head.finish(item, images, about)
    figures = head.leave(item, images, about, folder, networks) if ensemble.main else {}
    works = head.cited(options, latent=prior.latent)
    session.finish(images, figures, seed=options.seed, model=options.prior, cited=works)
    if ensemble.main:
        print(f"{item.title}: {head.headline(figures)}; {folder.path}", flush=True)
        if "nearly_equal" in figures:
            warn_if_equal(figures, len(images), remedy=head.apart_by(options))


def look_again(head: Head, item: Item, networks: Networks, folder: RunFolder, ensemble: Ensemble) -> None:
    """Add to a finished run what is asked for now and it lacks."""
    held = folder.metrics()
    added: list[str] = []
    if lacks := head.lacking(held, item):
        with locked(folder.path):
            found = head.again(item, held, lacks, folder, networks)
            if found is not None:
                folder.finish(found[0])
                added = found[1]
    told = f"; now {head.adds}: {', '.join(added)}" if added else ""
    if added or head.names_finished:
        print(f"{item.title}: already done in {folder.path}{told}")


def together(head: Head, items: Sequence[Item], failures: dict[str, str], networks: Networks) -> dict[str, str]:
    """Wait for all processes; the main one writes the summary, but not of a shard. What failed, on the main one
    anywhere."""
    failures = of_all(failures)
    if processes().main:
        if named := option(head.options, "shard"):
            done = len(items) - len(failures)
            print(f"shard {named}: {done} of {len(items)} {head.what} done, {len(failures)} failed", flush=True)
        else:
            folders = {item: folder_of(head, item) for item in items if item.label not in failures}
            done_ones = {item: folder for item, folder in folders.items() if folder.done}
            head.summarise(head.out, done_ones, failures, networks)
    wait()  # a launcher ends all as soon as one ends with an exit code
    return failures
