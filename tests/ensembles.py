"""What ``tests/test_distributed.py`` runs in one process and in several.

:func:`run_apart` runs each of these commands in processes that it forks from the one of the tests, which has imported
everything and read the model:

    found OUT MODEL       all cases; rank K saves what it finds as OUT.K
    rsd ARGUMENTS         rsd ARGUMENTS
    killed ARGUMENTS      the same below torchrun's agent; the second process dies after a checkpoint
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from rsd.distributed import Ensemble, connect
from rsd.engine import distill
from rsd.features import Pixels
from rsd.priors import load_prior
from rsd.priors.base import Prior
from rsd.priors.mixture import GaussianMixture
from rsd.randomness import Stream
from rsd.repulsion import Embed, Interaction
from rsd.spread import Spread

N = 5


class Points:
    """Particles in R^2, this process's share of them."""

    def __init__(self, ensemble: Ensemble):
        self.spread = Spread(ensemble.mine, ensemble=ensemble)
        self.z = torch.tensor([[0.3, 0.0], [-0.3, 0.1], [0.0, 0.4], [0.2, -0.2], [-0.1, -0.4]])[ensemble.mine].double()

    def render(self):
        return self.z.clone()

    def step(self, r, t, average):
        self.z = self.z - 0.05 * r
        return {"norm": float(r.square().sum(1).mean())}


def new_prior(model: Path) -> Prior:
    """Return a prior that no other case has changed; see :mod:`tests.quick`."""
    return load_prior(str(model))


def features(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z, z.sin()], 1)


def crowded(z: torch.Tensor) -> torch.Tensor:
    """Two particles do not fit into memory: processes with two notice, while the others wait for them to gather."""
    if len(z) > 1:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    return features(z)


def moved(ensemble: Ensemble, interaction: Interaction, embed: Embed = features) -> dict[str, torch.Tensor]:
    """Points under two Gaussians, each with its own timesteps."""
    prior = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), 0.05)
    points, random = Points(ensemble), torch.Generator().manual_seed(0)
    timesteps = [torch.randint(20, 980, (N,), generator=random) for _ in range(10)]
    interaction = replace(interaction, embed=embed)
    records = list(distill(points, prior, timesteps=timesteps, stream=Stream(7), interaction=interaction))
    told = [[r.residual, r.repulsion, r.bandwidth or 0, r.distance or 0, *r.losses.values()] for r in records]
    return {"z": ensemble.gather(points.z, what="result"), "records": torch.tensor(told, dtype=torch.float64)}


def all_repel(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
    return moved(ensemble, Interaction(1.5, window=(0.3, 1.0)))


def some_full(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return moved(ensemble, Interaction(1.5), crowded)


def hybrid(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
    """Only the first two interact, so one of three processes has none of them."""
    return moved(ensemble, Interaction(1.5, interacting=2))


def restored(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
    from rsd.tasks.inverse.operators import make_operator
    from rsd.tasks.inverse.run import Decoded, Run, Settings

    prior, settings = new_prior(model), Settings(particles=N, steps=3, gamma=6.0)
    y = torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8)
    run = Run(
        prior, make_operator("sr2", size=16), y, settings, embed=Decoded(prior, Pixels()), ensemble=ensemble, image="a"
    )
    return finished(run)


def drawn(method: str, **settings: object) -> Callable[[Ensemble, Path], dict[str, torch.Tensor]]:
    """Draw a prompt by a method, in two steps: the second one uses what the first one has learned."""

    def case(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
        from rsd.tasks.text_to_image import distillation, samplers

        module = samplers if method == "particle-guidance" else distillation
        prior = new_prior(model)
        chosen = module.Settings(method=method, particles=N, steps=2, gamma=2.0, guidance=2.0, **settings)
        run = module.Run(prior, "red", chosen, embed=lambda z: prior.decode(z).flatten(1), ensemble=ensemble)
        found = finished(run)
        learned = getattr(getattr(run, "reference", None), "parameters", [])
        if learned and settings["score"] != "lora-each":
            found["learned"] = torch.cat([p.detach().flatten() for p in learned])
        return found

    return case


def scenes(interaction: str) -> Callable[[Ensemble, Path], dict[str, torch.Tensor]]:
    """Make scenes of a prompt by VSD from two cameras."""

    def case(ensemble: Ensemble, model: Path) -> dict[str, torch.Tensor]:
        from rsd.tasks.text_to_3d.distillation import Run
        from rsd.tasks.text_to_3d.options import Settings

        scenes = dict(grid=(3, 6), samples=6, fine=0, views=2, lr=0.05, interaction=interaction)
        settings = Settings(method="vsd", particles=N, steps=2, gamma=5.0, lr_phi=1e-2, **scenes)
        prior = new_prior(model)
        run = Run(prior, "red", settings, embed=lambda z: prior.decode(z).flatten(1), ensemble=ensemble)
        found, whole = finished(run), run.collect_scenes()
        if whole is not None:
            torch.testing.assert_close(whole.images(), found["images"])
        return found

    return case


def finished(run) -> dict[str, torch.Tensor]:
    records = list(run.steps())
    told = [[r.residual, r.repulsion, r.bandwidth or 0, *r.losses.values()][:4] for r in records]
    return {"images": run.finish(), "records": torch.tensor(told)}


CASES = {
    "all repel": all_repel,
    "some are full": some_full,
    "hybrid": hybrid,
    "restored": restored,
    "vsd": drawn("vsd", score="lora", lr_phi=1e-2, t_per_particle=True, noise="inverted", inversion_steps=2),
    "vsd, own adapters": drawn("vsd", score="lora-each", lr_phi=1e-2, noise="reused"),
    "particle guidance": drawn("particle-guidance"),
    "scenes": scenes("scenes"),
    "views": scenes("views"),
}


def die_in_the_middle(arguments: list[str]) -> int:
    """Run ``rsd`` and kill its second process after a checkpoint."""
    from rsd.cli import main
    from rsd.runs.run import Run

    whole = Run.steps

    def steps(self):
        for record in whole(self):
            if record.step == 3 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

    Run.steps = steps
    return main(arguments)


def find_all(ranks: int, out: str, model: Path) -> int:
    """Run all cases in this one of several processes and save what it finds."""
    here = connect("cpu")
    assert here.size == torch.distributed.get_world_size() == ranks
    assert here.rank == torch.distributed.get_rank()
    found = {}
    for name, case in CASES.items():
        ensemble = Ensemble.of(N, here)
        found[name] = {**case(ensemble, model), "bytes": dict(ensemble.bytes)}
    torch.save(found, f"{out}.{here.rank}")
    return 0


def fork(ranks: int, work: Callable[[], int]) -> int:
    """Run ``work`` in processes with the environment that a launcher sets. Return the largest exit code."""
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            leave(work)
        children.append(child)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children)


def leave(work: Callable[[], int]) -> NoReturn:
    """End this forked process with the exit code of ``work``."""
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(ranks: int, port: int, arguments: list[str]) -> int:
    """Run :func:`die_in_the_middle` as torchrun does: its agent starts the processes, and ends all if one dies."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    meeting = {"rdzv_backend": "static", "rdzv_endpoint": f"127.0.0.1:{port}", "rdzv_configs": {"rank": 0}}
    config = LaunchConfig(1, 1, ranks, run_id="none", max_restarts=0, start_method="fork", **meeting)
    try:
        codes = elastic_launch(config, exit_code)(arguments)
    except ChildFailedError:
        return 1
    return max(codes.values())


def exit_code(arguments: list[str]) -> int:
    """Run :func:`die_in_the_middle` in a process of the agent, whose exit code tells the agent that it has failed."""
    code = die_in_the_middle(arguments)
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def run_apart(ranks: int, port: int, command: list[str], output: list[Path], environment: dict[str, str]) -> int:
    """Run a command in a process of its own. Its output goes to the two files ``output``. Return the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads, which only wait here
        child = os.fork()
    if child == 0:
        leave(lambda: run_command(ranks, port, command, output, environment))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_command(ranks: int, port: int, command: list[str], output: list[Path], environment: dict[str, str]) -> int:
    """Run a command in this forked process."""
    from accelerate import PartialState

    for place, path in zip((1, 2), output, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), place)
    sys.stdout, sys.stderr = (os.fdopen(place, "w", closefd=False) for place in (1, 2))  # pytest's have other places
    gc.freeze()  # no collection walks what the tests have made
    PartialState._reset_state()
    os.environ |= {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    what, *rest = command
    if what == "killed":
        return launch(ranks, port, rest)
    if what == "found":
        return fork(ranks, lambda: find_all(ranks, rest[0], Path(rest[1])))
    from rsd.cli import main

    return fork(ranks, lambda: main(rest))
