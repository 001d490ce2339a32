"""The reference score eps_ref, which is subtracted from the prior's score.

SDS    the noise eps that was added (Poole et al. 2023)
NFSD   the part of the guided score that is noise, not image (Katzir et al. 2024)
VSD    eps_phi(z_t, t, c), a network that learns the score of the particles (Wang et al. 2023): low-rank adapters on
       the prior's UNet (LoraScore), or a small UNet from scratch (UNetScore)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch

from rsd.hub import quietly
from rsd.memory import Memory
from rsd.priors.base import Condition, Conditioning, Prior, predict, present
from rsd.priors.watch import watch_of
from rsd.randomness import Stream
from rsd.reference.adapters import Adapters, CameraEmbedding, projections, seeded
from rsd.spread import Spread

Timestep = int | torch.Tensor

PATIENCE = 20
"""Consecutive steps whose gradients may overflow: enough to halve float16's loss scale, 2^14, below 1."""


class Reference(Protocol):
    """The interface of a reference score. One that does not learn defines only ``__call__``."""

    def __call__(self, z_t: torch.Tensor, t: Timestep, eps: torch.Tensor, eps_theta: torch.Tensor) -> torch.Tensor:
        """Return eps_ref for z_t = alpha_t z + sigma_t eps, all [N, *latent_shape]; t: an int or [N]."""
        ...

    def learn(self, z: torch.Tensor, step: int) -> dict[str, float]:
        """Take an optimiser step on the new particles z [N, *latent_shape]. Return the losses."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return the state of a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        return None


class SDS(Reference):
    """Score distillation sampling: eps_ref is the noise eps."""

    def __call__(self, z_t: torch.Tensor, t: Timestep, eps: torch.Tensor, eps_theta: torch.Tensor) -> torch.Tensor:
        return eps


sds = SDS()


class NFSD(Reference):
    """Noise-free score distillation (Katzir, Patashnik, Cohen-Or, Lischinski, ICLR 2024, Sec. 4), whose direction is

        delta_D + s delta_C,   delta_C = eps(z_t; text) - eps(z_t; empty)
        delta_D = eps(z_t; empty)                           if t < 200, where a trained prior predicts no noise
                  eps(z_t; empty) - eps(z_t; negative)      otherwise

    Since eps_theta = eps(empty) + s delta_C (guidance with the *empty* prompt as the unconditional one), the reference
    is 0 if t < 200 and eps(z_t; negative) otherwise.

    ``negative``: the condition of the negative prompt without guidance (the paper's is :data:`NEGATIVE`); None for a
    prior without text. The bound is 0.2 T for other T.
    """

    NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"

    def __init__(self, prior: Prior, negative: Condition | None, spread: Spread):
        self.prior, self.negative, self.spread = prior, negative, spread

    @torch.no_grad()
    def __call__(self, z_t: torch.Tensor, t: Timestep, eps: torch.Tensor, eps_theta: torch.Tensor) -> torch.Tensor:
        low = (torch.as_tensor(t) < 0.2 * self.prior.schedule.T).to(z_t.device).view(-1, *[1] * (z_t.ndim - 1))
        if bool(low.all()):
            return torch.zeros_like(z_t)
        residual = self.spread.cat(partial(predict, self.prior, z_t, t, self.negative))
        return torch.where(low, torch.zeros_like(residual), residual)


class Learned(Reference):
    """A network eps_phi(z_t, t, c) that learns the score of the particles, with one step of AdamW per step of the run:

        sum over particles of mean |eps_phi(z_t, t, c) - eps|^2,    t uniform in 0 .. T-1 for each particle

    It is conditional, without guidance, and draws its own noise and timesteps from the run's ``stream``. If several
    processes share the particles, gradients are summed over the processes, so that all have the same network (unless
    each particle has its ``own``).
    ``loss_scale`` keeps gradients in float16's range; if they overflow, the step is skipped and the scale halved.
    ``skipped``: number of consecutive skipped steps.
    """

    loss_scale = 1.0
    skipped = 0
    own = False

    def __init__(
        self, prior: Prior, condition: Conditioning, parameters: Sequence[torch.nn.Parameter], spread: Spread,
        stream: Stream, *, lr: float = 1e-4,
    ):  # fmt: skip
        self.prior, self.condition, self.parameters = prior, condition, list(parameters)
        self.spread, self.stream = spread, stream
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr)

    def epsilon(self, z_t: torch.Tensor, t: Timestep, condition: Condition | None) -> torch.Tensor:
        """Predict eps_phi of a chunk with its condition, inside :meth:`active`."""
        raise NotImplementedError

    def current_condition(self) -> Condition | None:
        """Return the current condition of all particles."""
        given = present(self.condition)
        assert given is None or given.negative is None, "the variational score has no guidance"
        return given

    def active(self, row: int) -> AbstractContextManager[None]:
        """Return the context in which :meth:`epsilon` and its gradients work, for a chunk that starts at ``row``."""
        return nullcontext()

    @torch.no_grad()
    def __call__(self, z_t: torch.Tensor, t: Timestep, eps: torch.Tensor, eps_theta: torch.Tensor) -> torch.Tensor:
        given = self.current_condition()

        def predict_chunk(rows: slice) -> torch.Tensor:
            with self.active(rows.start):
                return predict(self, z_t, t, given, rows)

        return self.spread.cat(predict_chunk)

    @torch.enable_grad()
    def learn(self, z: torch.Tensor, step: int) -> dict[str, float]:
        """Take one step of AdamW. Return the eps-MSE before it (mean over particles) as "reference", and whether the
        step was skipped (1 or 0) as "reference_skipped". Raise ValueError after PATIENCE consecutive skipped steps."""
        # Diffuse the particles to random timesteps.
        ids = self.spread.ids
        t = self.stream.integers("reference timestep", 0, self.prior.schedule.T - 1, ids, step)
        eps = self.stream.noise("reference diffusion", z.shape[1:], ids, step).to(z)
        alpha, sigma = self.prior.schedule.coefficients(t, z)
        z_t, given = alpha * z + sigma * eps, self.current_condition()

        def add_gradients(rows: slice) -> float:
            with self.active(rows.start):
                error = predict(self, z_t, t, given, rows) - eps[rows]
                loss = error.square().flatten(1).mean(1).sum()  # no mean over particles: gradients do not depend on N
                found = torch.autograd.grad(loss * self.loss_scale, self.parameters, allow_unused=True)
            pairs = [(p, own) for p, own in zip(self.parameters, found, strict=True) if own is not None]
            sums = [own.clone() if p.grad is None else p.grad + own for p, own in pairs]
            for (p, _), added in zip(pairs, sums, strict=True):  # after all sums: a chunk without memory is repeated
                p.grad = added
            return float(loss.detach())

        # Sum the gradients over chunks and processes.
        total = sum(self.spread.each(add_gradients)) / len(z)
        gradients = [p.grad.div_(self.loss_scale) for p in self.parameters if p.grad is not None]
        if not self.own:
            self.spread.ensemble.add(gradients)
        # Take the step, or skip it if a gradient overflows in half precision.
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        if not self.spread.ensemble.agree(not finite):
            self.optimiser.step()
            self.skipped = 0
        else:
            self.loss_scale, self.skipped = self.loss_scale / 2, self.skipped + 1
        self.optimiser.zero_grad()
        if self.skipped == PATIENCE:
            raise ValueError(
                f"The learned score cannot learn: its gradients were not finite in {PATIENCE} consecutive steps; use "
                "--dtype float32 or bfloat16, or a lower --lr-phi."
            )
        return {"reference": total, "reference_skipped": float(self.skipped > 0)}

    def state(self) -> dict[str, Any]:
        """Return the learned parameters and their optimiser's state."""
        return {
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimiser": self.optimiser.state_dict()["state"],
            "loss_scale": self.loss_scale,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load :meth:`state`."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        moments = {int(k): v for k, v in state["optimiser"].items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.loss_scale, self.skipped = float(state["loss_scale"]), int(state["skipped"])


class LoraScore(Learned):
    """The prior with learned low-rank adapters on its UNet's attention. It starts as the prior without guidance.

    The adapters are hooks that are active only inside :meth:`active`: the UNet's modules and the prior's predictions do
    not change, so the pipeline can be saved at any time, and several scores can share a prior. A v prediction is
    converted as the prior's own. The condition's ``pose`` is added to the UNet's time embedding by
    a small learned network.

    ``rank``: of the adapters, whose scale is 1. ``per_particle``: one set of adapters per particle (N UNet calls).
    Raises ValueError for a prior without a UNet.
    """

    def __init__(
        self, prior: Any, condition: Conditioning, spread: Spread, stream: Stream,
        *, lr: float = 1e-4, rank: int = 4, per_particle: bool = False,
    ):  # fmt: skip
        unet: Any = prior.network
        first = present(condition)
        if unet is None or first is None or first.embeddings is None or not projections(unet):
            raise ValueError(
                f"The prior {prior.name} has no UNet for adapters, nor a transformer that reads text; use another "
                "method than vsd."
            )
        if first.pose is not None and not hasattr(unet, "time_embedding"):
            raise ValueError(
                f"The network of the prior {prior.name}, {type(unet).__name__}, has no place for the camera of text to "
                "3D; use another method than vsd."
            )
        if rank < 1:
            raise ValueError(f"lora_rank is {rank}; it must be at least 1.")
        self.unet = unet
        weights = Stream(stream.seed)  # the same for all images
        numbers = spread.ids if per_particle else [0]
        drawn = [weights.generator("reference weights", particle=k) for k in numbers]
        self.adapters = [Adapters(unet, rank, random) for random in drawn]
        parameters = [p for own in self.adapters for p in own.parameters()]
        self.camera: CameraEmbedding | None = None
        if first.pose is not None:
            self.camera = CameraEmbedding(unet, first.pose.shape[-1], weights.generator("reference told"))
            parameters += self.camera.parameters()
        self.loss_scale = 2.0**14 if unet.dtype == torch.float16 else 1.0
        self.own = per_particle
        spread = replace(spread, memory=Memory(1)) if per_particle else spread
        super().__init__(prior, condition, parameters, spread, stream, lr=lr)

    def epsilon(self, z_t: torch.Tensor, t: Timestep, condition: Condition | None) -> torch.Tensor:
        """Predict with the prior, which is eps_phi inside :meth:`active`."""
        with ExitStack() as stack:
            if self.camera is not None:
                assert condition is not None and condition.pose is not None
                stack.enter_context(self.camera.on(self.unet, condition.pose))
            stack.enter_context(watch_of(self.prior).paused())  # large outputs may be due to lr_phi
            return self.prior.epsilon(z_t, t, condition)

    @contextmanager
    def active(self, row: int) -> Iterator[None]:
        """Activate the adapters of a particle or of all."""
        with self.adapters[row if self.own else 0].on(self.unet):
            yield


class UNetScore(Learned):
    """A small UNet, trained from scratch, that reads the prior's text embeddings: the paper's other eps_phi.

    ``channels``: of each resolution. Raises ValueError for a prior without image-shaped latents or text.
    """

    def __init__(
        self, prior: Prior, condition: Conditioning, spread: Spread, stream: Stream,
        *, lr: float = 1e-4, channels: Sequence[int] = (64, 128, 256),
    ):  # fmt: skip
        text = present(condition)
        if text is None or text.embeddings is None or len(prior.latent_shape) != 3:
            raise ValueError(f"The prior {prior.name} has no latent images and text for a UNet; use another method.")
        with quietly():
            from diffusers import UNet2DConditionModel
        C, h, w = prior.latent_shape
        crossed = len(channels) - 1
        with seeded(Stream(stream.seed).generator("reference weights")):  # the same for all images
            unet = UNet2DConditionModel(
                sample_size=(h, w), in_channels=C, out_channels=C, block_out_channels=tuple(channels),
                layers_per_block=1, cross_attention_dim=text.embeddings.shape[-1],
                down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * crossed),
                up_block_types=(*["CrossAttnUpBlock2D"] * crossed, "UpBlock2D"),
            )  # fmt: skip
        with quietly():  # diffusers warns of every change of dtype
            self.unet = unet.to(prior.device, prior.dtype).eval()
        parameters = list(self.unet.parameters())
        super().__init__(prior, condition, parameters, spread, stream, lr=lr)

    def epsilon(self, z_t: torch.Tensor, t: Timestep, condition: Condition | None) -> torch.Tensor:
        """Predict eps_phi of a chunk with its text embeddings."""
        assert condition is not None and condition.embeddings is not None
        text = condition.embeddings.to(z_t.device, z_t.dtype).expand(len(z_t), -1, -1)
        return self.unet(z_t, torch.as_tensor(t, device=z_t.device), encoder_hidden_states=text).sample
