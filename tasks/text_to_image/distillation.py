"""Text to image by score distillation (the paper's D.10.2): latents z_i ~ N(0, I) that descend

    w(t) [eps_theta(z_t^i, t, text) - eps_ref - gamma sigma_t R_i],   w(t) = 1 - abar_t

with Adam, where eps_ref makes the method: the noise (SDS), a score learned along the way (VSD), NFSD's, or the noise
with scores averaged over the particles (SVGD, the update of collaborative score distillation).

No particle depends on how many there are, but for what couples them on purpose: the force, and VSD's shared adapters.
Gradients are not means over entries, so that Adam's eps of 1e-8 plays no part.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rsd.distributed import ALONE, Ensemble
from rsd.engine import Embed, Record, distill
from rsd.memory import Memory, plan, save_memory
from rsd.priors.base import Condition, Prior
from rsd.randomness import integers, noise
from rsd.reference import NFSD, LoraScore, Reference, UNetScore, sds
from rsd.runs.run import Distillation

from .options import Settings


def draw_timesteps(
    settings: Settings, T: int, *, ids: Sequence[int], image: str = ""
) -> list[int] | list[torch.Tensor]:
    """The run's timesteps, one int a step or int64 [N]; raises ValueError for a range outside 0 .. T-1."""
    low, high = settings.t_range
    if not 0 <= low <= high < T:
        raise ValueError(f"t_range is {low} to {high}; it must lie in 0 to {T - 1}, the timesteps of this prior.")
    steps = settings.steps
    if settings.timesteps == "annealed":
        return [round(high + (low - high) * step / max(steps - 1, 1)) for step in range(steps)]
    particles = list(ids) if settings.t_per_particle else [0]
    drawn = [
        integers(low, high, seed=settings.seed, purpose="timestep", image=image, step=step, particles=particles)
        for step in range(steps)
    ]
    return drawn if settings.t_per_particle else [int(t) for t in drawn]


class Latents:
    """The particles z_i, with Adam (0.9, 0.999)."""

    def __init__(
        self, prior: Prior, *, ids: Sequence[int], lr: float, seed: int, image: str = "", memory: Memory | None = None
    ):
        self.prior, self.ids, self.memory = prior, list(ids), memory or Memory()
        drawn = noise(prior.latent_shape, seed=seed, purpose="initial z", image=image, particles=self.ids)
        self.z = drawn.to(prior.device, prior.dtype).requires_grad_()
        self.optimiser = torch.optim.Adam([self.z], lr=lr, betas=(0.9, 0.999))

    def render(self) -> torch.Tensor:
        """z [N, *latent_shape], a copy without gradient."""
        return self.z.detach().clone()

    def step(self, r: torch.Tensor, t: int | torch.Tensor) -> dict[str, float]:
        """Descend w(t) r; t is an int or [N]."""
        _, sigma = self.prior.schedule.coefficients(t, r)
        self.z.grad = sigma**2 * r
        self.optimiser.step()
        return {}

    @torch.no_grad()
    def images(self) -> torch.Tensor:
        """D(z) [N, 3, H, W]."""
        return torch.cat(self.memory.each(len(self.ids), lambda rows: self.prior.decode(self.z.detach()[rows])))

    def finish(self) -> torch.Tensor:
        """The result [N, 3, H, W]."""
        return self.images()

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {"z": self.render(), "z_optimiser": self.optimiser.state_dict()["state"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        with torch.no_grad():
            self.z.copy_(state["z"])
        moments = {int(k): v for k, v in state["z_optimiser"].items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def nfsd_negative(prior: Prior, negative_prompt: str) -> Condition | None:
    """The condition of NFSD's own term, by default its paper's words; None for a prior without text."""
    if prior.condition().embeddings is None:
        return None
    with warnings.catch_warnings():
        if not negative_prompt:  # the default is long for some priors, which is not the user's doing
            warnings.simplefilter("ignore")
        return prior.condition(negative_prompt or NFSD.NEGATIVE)


def make_reference(
    prior: Prior, prompt: str, settings: Settings,
    *, ids: Sequence[int], image: str = "", memory: Memory | None = None, ensemble: Ensemble = ALONE,
) -> Reference:  # fmt: skip
    """The method's eps_ref."""
    s = settings
    if s.method == "nfsd":
        return NFSD(prior, nfsd_negative(prior, s.negative_prompt), memory=memory)
    if s.method != "vsd":
        return sds
    text = prior.condition(prompt)
    common: dict[str, Any] = {"ids": ids, "seed": s.seed, "image": image, "memory": memory, "lr": s.lr_phi}
    common["ensemble"] = ensemble
    if s.score == "unet":
        return UNetScore(prior, text, **common)
    return LoraScore(prior, text, rank=s.lora_rank, per_particle=s.score == "lora-each", **common)


class Run(Distillation):
    """One prompt in progress: iterate over :meth:`steps`, look at :attr:`particles`, then :meth:`finish`.

    ``embed``: features of a latent, [N, d], for the interaction. ``ids``: the particles' numbers in the ensemble;
    ``ensemble``: which of them are here, where several processes share them. ``image``: names the run in the random
    numbers. ``plan``: of the memory, :func:`rsd.memory.plan`, or one that remembers (``Plans``). All prompts are
    embedded here: the prior's text encoder may be released afterwards.
    """

    def __init__(
        self, prior: Prior, prompt: str, settings: Settings,
        *, embed: Embed | None = None, image: str = "", ids: Sequence[int] | None = None,
        ensemble: Ensemble | None = None, plan: Callable[..., Memory] = plan,
    ):  # fmt: skip
        self.prior, self.settings, self.embed, self.image = prior, settings, embed, image
        s = settings
        ids = list(range(s.particles)) if ids is None else list(ids)
        self.ensemble = ensemble or Ensemble.of(len(ids))
        self.timesteps = draw_timesteps(s, prior.schedule.T, ids=ids, image=image)
        ids = [ids[row] for row in self.ensemble.mine]
        self.condition: Condition = prior.condition(prompt, "" if s.method == "nfsd" else s.negative_prompt, s.guidance)
        self.memory = plan(
            s.memory, chunk=s.chunk, n=len(ids), prior=prior, condition=self.condition,
            embed=embed if s.interaction.acts(self.ensemble.total) else None,
            through=("epsilon",) if s.method == "vsd" and s.score != "unet" else (),  # adapters learn through the UNet
            state=3 * math.prod(prior.latent_shape) * prior.dtype.itemsize,
        )  # fmt: skip
        save_memory(self.memory.lean, prior, embed)
        shared: dict[str, Any] = {"ids": ids, "image": image, "memory": self.memory}
        self.reference = make_reference(prior, prompt, s, ensemble=self.ensemble, **shared)
        self.particles = Latents(prior, lr=s.lr, seed=s.seed, **shared)

    def records(self) -> Iterator[Record]:
        s = self.settings
        return distill(
            self.particles, self.prior, timesteps=self.timesteps, seed=s.seed, image=self.image,
            condition=self.condition, reference=self.reference, interaction=s.interaction, embed=self.embed,
            memory=self.memory, start=self.step, ensemble=self.ensemble,
        )  # fmt: skip
