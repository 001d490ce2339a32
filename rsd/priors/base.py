"""The interface of a diffusion model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from rsd.schedule import Schedule, is_flow


@dataclass(frozen=True)
class Condition:
    """What a prior is conditioned on, its prompts embedded once.

    ``guidance`` is s of diffusers' convention, uncond + s (text - uncond); 1 means none, and then ``negative`` is None.
    ``threshold``: the share of a picture's entries that its guess keeps as they are (:func:`thresholded`); None: all.
    Latents have no bounds, and priors over them know nothing of it.
    ``embeddings`` and ``negative``: [1, L, d], or [N, L, d] where each particle has its own; None for a prior without
    text. ``pose``: camera-to-world matrices, flattened, [N, 16], for priors that know where the camera stands and for
    learned scores; other priors ignore them.
    ``pooled`` [1, k] or [N, k] and ``mask`` [1, L] or [N, L] (0 where no token is) belong to ``embeddings``, for
    networks that take them; ``negative_pooled`` and ``negative_mask`` to ``negative``. With ``unconditional``, the
    condition of the empty prompt, guidance is Perp-Neg's, and ``perp_neg`` is the negative prompt's weight
    (:func:`without`).
    """

    prompt: str = ""
    negative_prompt: str = ""
    guidance: float = 1.0
    embeddings: torch.Tensor | None = None
    negative: torch.Tensor | None = None
    pose: torch.Tensor | None = None
    threshold: float | None = None
    pooled: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    negative_pooled: torch.Tensor | None = None
    negative_mask: torch.Tensor | None = None
    unconditional: Condition | None = None
    perp_neg: float = 1.0

    def rows(self, start: int, stop: int) -> Condition:
        """The condition of particles start .. stop-1: itself, or their rows where each particle has its own."""
        own = {name: getattr(self, name) for name in (*TEXT, "pose")}
        cut: dict[str, Any] = {k: e if e is None or len(e) == 1 else e[start:stop] for k, e in own.items()}
        return replace(self, **cut)


TEXT = ("embeddings", "mask", "pooled", "negative", "negative_mask", "negative_pooled")
"""The fields of a condition that belong to its texts."""


def joined(conditions: Sequence[Condition]) -> Condition:
    """Join conditions into one for as many particles, each with its own prompt. Shorter texts are padded and
    masked. All other fields are those of the first condition."""
    own: dict[str, Any] = {}
    for text, mask in (("embeddings", "mask"), ("negative", "negative_mask")):
        rows = [row for c in conditions if (row := getattr(c, text)) is not None]
        lengths = [row.shape[1] for row in rows]
        masks = [row for c in conditions if (row := getattr(c, mask)) is not None]
        if len(set(lengths)) > 1 and not masks:
            masks = [torch.ones(row.shape[:2], dtype=torch.bool, device=row.device) for row in rows]
        longest = max(lengths, default=0)
        own[text] = torch.cat([F.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows]) if rows else None
        own[mask] = torch.cat([F.pad(row, (0, longest - row.shape[1])) for row in masks]) if masks else None
    for pooled in ("pooled", "negative_pooled"):
        rows = [row for c in conditions if (row := getattr(c, pooled)) is not None]
        own[pooled] = torch.cat(rows) if rows else None
    return replace(conditions[0], **own)


Conditioning = Condition | None | Callable[[], Condition | None]
"""A condition, or a function that returns the one for the particles as they are rendered now (with a view's words)."""


def present(conditioning: Conditioning) -> Condition | None:
    """Return the current condition of all particles."""
    return conditioning() if callable(conditioning) else conditioning


class Score(Protocol):
    """A model that predicts epsilon: a prior, or a learned network."""

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None) -> torch.Tensor: ...


def predict(score: Score, z_t: torch.Tensor, t: Any, condition: Condition | None, rows: slice) -> torch.Tensor:
    """Predict epsilon for some rows of z_t; t: an int or [N]."""
    given = condition and condition.rows(rows.start, rows.stop)
    return score.epsilon(z_t[rows], t if isinstance(t, int) else t[rows], given)


class Prior:
    """A frozen diffusion model that predicts epsilon, with its networks in evaluation mode. A subclass sets the fields
    without a default and defines ``epsilon``; the other methods fit a model of pixels or points without text."""

    name: str
    schedule: Schedule
    latent_shape: tuple[int, ...]
    """(C, h, w), or (d,) for a prior over points."""
    image_size: int
    """Side of the images in pixels; 0 for a prior over points."""
    calls: Counter[str]
    """Network passes so far, one per image: unet_forward (guidance takes two), unet_backward, decoder_forward,
    decoder_backward, encoder_forward, encoder_backward."""
    device: torch.device
    dtype: torch.dtype
    """The dtype of particles and images: at least float32, whatever the precision of the networks."""
    latent: bool = False
    """Whether ``decode`` is a network."""
    autocast: bool = False
    """Whether networks in float32 multiply in bfloat16."""
    revision: str | None = None
    """The model's commit, for the record."""
    posed: bool = False
    """Whether it reads the condition's pose."""
    any_size: bool = False
    """Whether the network takes pictures of any size."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape that :meth:`decode` makes: a picture (3, H, W), or the point itself."""
        return (3, self.image_size, self.image_size) if self.image_size else self.latent_shape

    @property
    def network(self) -> Any:
        """The network that predicts, for adapters; None if there is none."""
        return None

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Embed the prompts for ``epsilon``."""
        return Condition(prompt, negative_prompt, guidance)

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Predict the noise in z_t [B, *latent_shape], with its shape and dtype; t: one index 0..T-1, or [B] of them.

        No condition means the empty prompt without guidance.
        """
        raise NotImplementedError

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images [B, 3, H, W] in [-1, 1] to latents [B, *latent_shape] in the space of ``epsilon``."""
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents [B, *latent_shape] to images [B, 3, H, W], about [-1, 1], not clamped; differentiable."""
        return z

    def turned(self, k: int) -> Prior:
        """Return the prior seen through the k-th of the 8 turns and mirrors of a square (modulo 8; 0: none): its
        network sees the picture turned, and its prediction is turned back. Priors to which a turned picture is another
        picture, such as faces, return themselves."""
        return self

    def save_memory(self, lean: bool) -> None:
        """Switch checkpointing of ``decode`` on or off."""
        return None

    def release_text_encoder(self) -> None:
        """Free the text encoder's memory; embedded prompts keep working."""
        return None


def network(prior: str, what: str, folder: str) -> str:
    """Name a network of a prior and the folder of its weights, for messages."""
    return f'The {what} of the prior "{prior}" (its folder {folder})'


def count_backward(out: torch.Tensor, calls: Counter[str], name: str, n: int) -> torch.Tensor:
    """Return ``out`` with a hook that adds n to calls[name] in its backward pass."""
    if out.requires_grad:
        out.register_hook(lambda _: calls.update({name: n}))
    return out


def guided(predict: Callable[[list[Any]], torch.Tensor], condition: Condition) -> torch.Tensor:
    """Return uncond + s (text - uncond) with one call of ``predict``, which maps a list of n embeddings to [n B, ...];
    without guidance, the prediction of the text [B, ...]."""
    c = condition
    if c.negative is None:
        return predict([c.embeddings])
    if c.unconditional is None:
        uncond, text = predict([c.negative, c.embeddings]).chunk(2)
    else:
        uncond, negative, text = predict([c.unconditional.embeddings, c.negative, c.embeddings]).chunk(3)
        text = without(text, negative, uncond, c.perp_neg)
    return uncond + c.guidance * (text - uncond)


def without(text: torch.Tensor, negative: torch.Tensor, uncond: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the prediction for the text without what is only the negative prompt's: minus ``weight`` times the part of
    negative - uncond perpendicular to text - uncond, picture by picture (Perp-Neg, Armandpour et al. 2023)."""
    along, away = (text - uncond).flatten(1), (negative - uncond).flatten(1)
    shared = (away * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True).clamp(min=1e-20)
    return text - weight * (away - shared * along).view_as(text)


def as_epsilon(
    guess: torch.Tensor, z_t: torch.Tensor, t: int | torch.Tensor, prediction_type: str, schedule: Schedule
) -> torch.Tensor:
    """The noise that a network's ``guess`` at z_t means.

    "v_prediction" is v = alpha eps - sigma z (Salimans & Ho 2022);
    "flow" is u = eps - z of a network that is asked at :func:`flow_state`."""
    if prediction_type == "epsilon":
        return guess
    alpha, sigma = schedule.coefficients(torch.as_tensor(t), z_t)
    if prediction_type == "flow":
        return (z_t + alpha * guess) / (alpha + sigma)
    return alpha * guess + sigma * z_t


def flow_state(z_t: torch.Tensor, t: int | torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """(1 - s) z + s eps, the state that a flow-matching network knows, of z_t = alpha z + sigma eps."""
    alpha, sigma = schedule.coefficients(torch.as_tensor(t), z_t)
    return z_t / (alpha + sigma)


def thresholded(
    eps: torch.Tensor, z_t: torch.Tensor, t: int | torch.Tensor, share: float, schedule: Schedule
) -> torch.Tensor:
    """The noise of the picture that ``eps`` means after dynamic thresholding (Saharia et al. 2022, "Imagen", Sec. 2.3):
    what guidance has driven out of [-1, 1] is cut at the ``share`` quantile s of the picture's absolute entries and
    divided by s, where s is above 1."""
    alpha, sigma = schedule.coefficients(torch.as_tensor(t), z_t)
    x = (z_t - sigma * eps) / alpha
    s = x.abs().flatten(1).float().quantile(share, dim=1).clamp(min=1).to(x).view(-1, *[1] * (x.ndim - 1))
    return (z_t - alpha * x.clamp(-s, s) / s) / sigma


def check_scheduler(scheduler: Any, name: str, *, flow: bool = False) -> str:
    """Return the prediction type of a supported scheduler. Raise ValueError for others. ``flow``: whether the network
    is a flow-matching model, whose type is "flow"."""
    if flow:
        if not is_flow(scheduler):
            kind = type(scheduler).__name__
            raise ValueError(
                f'The scheduler of the prior "{name}", {kind}, is not a flow scheduler; use a '
                "FlowMatchEulerDiscreteScheduler."
            )
        return "flow"
    if getattr(scheduler, "alphas_cumprod", None) is None:
        kind = type(scheduler).__name__
        raise ValueError(
            f'The scheduler of the prior "{name}", {kind}, has no cumulative alphas; use a model that was '
            "trained with a DDPM schedule."
        )
    prediction = scheduler.config.get("prediction_type")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f'The prior "{name}" predicts "{prediction}"; only epsilon and v_prediction are supported.')
    return prediction


def multiplying(device: torch.device, in_bfloat16: bool) -> AbstractContextManager[Any]:
    """Return the autocast context: float32 networks multiply in bfloat16; sums, norms and weights stay in float32."""
    if not in_bfloat16 or device.type == "meta":  # a dry run counts float32
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def check_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of that name. Raise ValueError if priors do not support it."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype}; give float32, float16, bfloat16 or float64.")
    return found
