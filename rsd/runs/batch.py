"""The runner of every head: check all items, load the networks once, run, score, write, summarise.

A task supplies a :class:`rsd.runs.head.Head`. Everything else is here: processes and their shares, locks, progress,
finished runs, failures and the exit code.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from rsd import media
from rsd.distributed import Ensemble, Processes, connect, describe_shares, pick_device, rank_output, share, wait
from rsd.errors import plain_warnings
from rsd.metrics import importance
from rsd.metrics.networks import warn_if_equal
from rsd.metrics.scoring import diversity
from rsd.metrics.selection import choose, report
from rsd.priors.describe import describe
from rsd.runs import cluster
from rsd.runs.folder import SAMPLES, RunFolder, check_folder_of_runs, locked
from rsd.runs.head import Head, Item, Networks, load_head_scorers, load_networks
from rsd.runs.progress import Progress
from rsd.runs.run import Run
from rsd.runs.session import Session, collect_failure, merge_failures, working_in
from rsd.runs.settings import shard

Failures = dict[str, str]
"""Error messages by the items' labels."""


def run_all(head: Head) -> int:
    """Run every item. Return the exit code: 0 if all are done, 1 if some failed. Raise errors that concern all items.

    Several processes share the items or, if there is one item, its particles. The main process writes the summary and
    returns the exit code of all.
    """
    o = head.options
    if o.shard and not head.several:
        raise ValueError(f"--shard {o.shard} requires several {head.what}, but there is one; leave it out.")
    if o.engine == "ray":
        cluster.check(head.what, several=head.several, shard=o.shard, device=o.device)
    with plain_warnings(), rank_output(all_ranks=head.several):
        failures = run_items(head)
    for name, why in failures.items():
        is_path = "/" in name or "\\" in name  # and why names it already
        print(f"failed: {why}" if is_path and name in why else f"failed: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


def run_items(head: Head) -> Failures:
    """Run this process's share and write the summary. The main process returns the failures of all processes."""
    o = head.options
    ray = o.engine == "ray"
    head.check()
    device = pick_device("auto" if ray and o.device == "cuda" else o.device)  # only Ray's workers may have a GPU
    here = connect(device)
    k, n = shard(o.shard)
    items = head.items[k::n]
    if here.size > 1 and here.main:
        number = len(items) if head.several else o.drawn
        print(describe_shares(here, head.what, number, several=head.several), flush=True)
    ensemble = Ensemble.of(o.drawn, Processes() if head.several else here)

    # Check everything before any model is loaded.
    folders = check_folders(head, share(items, here) if head.several else items, device)
    failures = check_items(head, folders, device)
    left = {item: folder for item, folder in folders.items() if item.label not in failures}
    wait()  # all processes have checked the folder before any of them writes into it
    if o.dry_run:
        if here.main:
            dry_run(head, left, device)
        return failures

    with working_in(head.out, main=ensemble.main and here.main and not o.shard):  # shards write no summary
        # Load the networks and run.
        if ray:
            failures |= cluster.run_items(head, left, run_each)
            networks = load_for_summary(head, left, device)
        else:
            networks = load_needed(head, left, device, main=ensemble.main)
            failures |= run_each(head, left, networks, ensemble)
        # Summarise.
        if head.several:
            failures = merge_failures(failures)
            if here.main:
                summarise(head, items, failures, networks)
            wait()  # a launcher ends all processes as soon as one of them returns an exit code
    return failures


def dry_run(head: Head, folders: Mapping[Item, RunFolder], device: torch.device) -> None:
    """Print what would run. Raise ValueError with the remedy if a part of the prior is missing."""
    o = head.options
    dtype = getattr(torch, o.dtype)
    for line in describe(o.prior, revision=o.revision, dtype=dtype, size=getattr(o, "sides", None)):
        print(line)
    for item, folder in folders.items():
        s = item.options
        if folder.done:
            print(f"{item.title}: finished in {folder.path}")
            continue
        compared = f", compared in {s.features_name}" if s.interacts or s.selects else ""
        drawn = f"{s.drawn} samples" + (f" of which {s.kept} are kept" if s.selects else "")
        print(f"{item.title}: {s.method}, {s.steps} steps, {drawn}{compared}, on {device}, to {folder.path}")


def check_folders(head: Head, items: Sequence[Item], device: torch.device) -> dict[Item, RunFolder]:
    """Return the folder of each item. Raise ValueError or OSError if one contains something else."""
    try:
        if head.several:
            check_folder_of_runs(head.out, resume=head.resume, own=head.own, runs=head.runs)
        return {item: head.run_folder(item, resume=head.resume) for item in items}
    except (ValueError, OSError):
        head.check_shared(device)  # errors in the flags come first
        raise


def check_items(head: Head, folders: Mapping[Item, RunFolder], device: torch.device) -> Failures:
    """Check all items before any model is loaded. Return the errors by item label. Raise the error if there is only one
    item, if it concerns all items, or if a folder's run has other settings: one summary does not mix settings."""
    failures: Failures = {}
    todo = [item for item, folder in folders.items() if not folder.done]
    if todo:
        head.check_shared(device)
        head.check_memory()
    for item in todo:
        collect_failure(item.label, failures, partial(head.check_item, item, device), head.several)
    for item, folder in folders.items():
        if item.label not in failures:
            folder.check(head.config(item), added=head.added, inputs=head.inputs(item))
    head.announce(todo)
    return failures


def load_needed(head: Head, folders: Mapping[Item, RunFolder], device: torch.device, *, main: bool) -> Networks:
    """Load the networks for what is left to do; none if nothing is. ``main``: whether this process scores."""
    todo = [item for item, folder in folders.items() if not folder.done]
    rescore = any(
        folder.done and head.needs_scorers(head.missing_figures(folder.metrics(), item))
        for item, folder in folders.items()
    )
    if todo or rescore or (folders and head.several and head.needs_joint_scorers()):
        return load_networks(head, todo, folders, device, main=main)
    return Networks(device)


def load_for_summary(head: Head, folders: Mapping[Item, RunFolder], device: torch.device) -> Networks:
    """Load the networks that score the finished runs together, if that is requested."""
    done = {item: folder for item, folder in folders.items() if folder.done}
    if done and head.needs_joint_scorers():
        return Networks(device, scorers=load_head_scorers(head, [], done, device))
    return Networks(device)


def run_each(head: Head, folders: Mapping[Item, RunFolder], networks: Networks, ensemble: Ensemble) -> Failures:
    """Run the items that are not finished, and add to finished ones what they miss. Return the failures."""
    failures: Failures = {}
    todo = [item for item, folder in folders.items() if not folder.done]
    progress = Progress(len(todo), f"{head.what}:", first=1)
    for item, folder in folders.items():
        if item in todo:
            work = partial(run_one, head, item, networks, folder, ensemble)
            collect_failure(item.label, failures, work, head.several)
            progress.tick()
        elif ensemble.main:
            work = partial(update_finished, head, item, networks, folder)
            collect_failure(item.label, failures, work, head.several)
    return failures


def run_one(head: Head, item: Item, networks: Networks, folder: RunFolder, ensemble: Ensemble) -> None:
    """Run one item in its folder, from its checkpoint if there is one. The processes that share the ``ensemble`` all
    call this; the main one locks the folder and writes."""
    prior, options, remedy, main = networks.prior, item.options, head.remedy(item.options), ensemble.main
    assert prior is not None
    own = Ensemble.of(options.drawn) if ensemble.alone else ensemble
    with locked(folder.path) if main else nullcontext():
        if main:
            folder.open(head.config(item), added=head.added, inputs=head.inputs(item))
            if folder.ended:
                lost = f"{folder.lost} of {folder.samples} samples are missing in {folder.path / SAMPLES}"
                print(f"{item.title}: {lost}; it runs again", flush=True)
        # Run to the end.
        with head.start(item, networks, own, folder) as (run, context):
            session = Session(run, folder, prior, whole=lambda images: head.whole(images, context))
            every = options.checkpoint_every
            session.drive(steps=options.steps, name=item.title, checkpoint_every=every, remedy=remedy)
            images = run.finish().detach().cpu().float()
            log_weights = run.log_weights()
        if not images.isfinite().all():  # no record contains the update of the last step
            raise ValueError(f"The run diverged at its last step; {remedy}.")
        # Write and score the result; the film has all particles.
        context = head.gather(run, context)
        images = head.finish(item, images, context)
        figures = save(head, item, run, images, context, folder, networks, log_weights) if main else {}
        cited = head.cited(options, latent=prior.latent)
        session.finish(images, figures, seed=options.seed, model=options.prior, cited=cited, notes=head.notes(context))
        if main:
            print(f"{item.title}: {head.headline(figures)}; {folder.path}", flush=True)
            if "nearly_equal" in figures:
                warn_if_equal(figures, options.kept, remedy=head.diversity_remedy(options))


def save(
    head: Head, item: Item, run: Run, images: torch.Tensor, context: Any, folder: RunFolder, networks: Networks,
    log_weights: torch.Tensor | None,
) -> dict[str, Any]:  # fmt: skip
    """Write and score the samples of a run, or those of them that are kept. Return the figures.

    ``images``: all drawn ones, [M, 3, H, W]; ``log_weights`` [M]: see :class:`rsd.sampling.Chain`. The selection needs
    nothing that is random or distributed, so a run that is resumed or shared by processes keeps the same samples."""
    options, number = item.options, len(images)
    if not options.selects:
        weights = None if log_weights is None else importance(log_weights)
        # Grids show weights that tell something: strong repulsion leaves one sample nearly all of the weight.
        tell = weights is not None and (weights["effective"] or 0) >= 0.6 * number
        figures = head.save(item, images, context, folder, networks, weights["values"] if weights and tell else None)
        return {**figures, **({"weights": weights} if weights else {})}
    shown, name = head.shown(images, context), options.features_name
    fit = head.fit(item, shown, context, networks.scorers)
    chosen = choose(
        shown, options.kept, features=networks.features[name], fit=fit, device=networks.device, prior=run.prior,
        condition=run.condition,
    )  # fmt: skip
    labels = [f"{k}, kept" if k in chosen.kept else str(k) for k in range(number)]
    columns = number if number <= 5 else math.ceil(math.sqrt(number))
    media.save_png(folder.path / "drawn.png", media.grid([x[None] for x in shown], labels=labels, columns=columns))
    figures = head.save(item, images[chosen.kept], context, folder, networks)
    div = diversity(shown, networks.scorers)[0]["div"]
    return {**figures, "selection": report(chosen, fit, drawn=number, features=name, div=div)}


def update_finished(head: Head, item: Item, networks: Networks, folder: RunFolder) -> None:
    """Add to a finished run what is requested now and missing."""
    held, added = folder.metrics(), list[str]()
    if missing := head.missing_figures(held, item):
        with locked(folder.path):
            if found := head.add_missing(item, held, missing, folder, networks):
                metrics, added = found
                folder.finish(metrics)
    if added or head.names_finished:
        print(f"{item.title}: already done in {folder.path}" + (f"; added: {', '.join(added)}" if added else ""))


def summarise(head: Head, items: Sequence[Item], failures: Failures, networks: Networks) -> None:
    """Write the summary of all items; of a shard only print how many are done."""
    if named := head.options.shard:
        done = len(items) - len(failures)
        print(f"shard {named}: {done} of {len(items)} {head.what} done, {len(failures)} failed", flush=True)
        return
    folders = {item: head.run_folder(item) for item in items if item.label not in failures}
    head.summarise(head.out, {item: folder for item, folder in folders.items() if folder.done}, failures, networks)
