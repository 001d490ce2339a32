"""Metrics of samples. Summaries report mean, best and standard deviation over the particles separately.

LPIPS, DISTS and CLIP need networks that are not included: ``load_lpips``, ``load_dists`` and ``load_clip_score``
download them or explain how.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from rsd.features.perceptual import lpips_network
from rsd.heads.attributes import ATTRIBUTES

from .dists import dists_network

CONFIDENT = 0.8
CLIP = "openai/clip-vit-large-patch14"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Match = Callable[[torch.Tensor, str], torch.Tensor]
Pixels = Callable[[torch.Tensor], torch.Tensor]


def psnr(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio of each image, [N] in dB, for x [N, 3, H, W] (clamped) and truth
    [1 or N, 3, H, W] in [-1, 1]; infinity for equal images."""
    error = ((x.clamp(-1, 1) - truth) / 2).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each image, [N] in [-1, 1] (scikit-image, 7 x 7 windows, mean over colours).

    It is measured on intensities in [0, 1], since unlike PSNR it depends on the value of black. Smaller images are
    extended to the window by repeating their edge.
    """
    from skimage.metrics import structural_similarity

    missing = [max(0, 7 - side) for side in x.shape[-1:-3:-1]]
    extend = [n for rest in missing for n in (0, rest)]
    both = [F.pad(v.cpu().double(), extend, mode="replicate") for v in (x.clamp(-1, 1), truth.expand_as(x))]
    intensities = [((v + 1) / 2).numpy() for v in both]
    pairs = zip(*intensities, strict=True)
    return torch.tensor([structural_similarity(a, b, data_range=1.0, channel_axis=0) for a, b in pairs])


def residual(difference: torch.Tensor, count: int, sigma_v: float) -> torch.Tensor:
    """Return |y - f(x)| / (sigma_v sqrt m) of each particle, [N]: about 1 if x explains y up to its noise.

    ``difference``: y - f(x) [N, ...], zero at unobserved entries; ``count``: m, the number of observed entries.
    """
    return difference.abs().square().flatten(1).sum(1).sqrt() / (sigma_v * math.sqrt(count))


def background_energy(images: torch.Tensor, *, window: int = 5) -> torch.Tensor:
    """Return the high-pass energy of flat backgrounds, [N] in grey levels squared (0 to 255): the mean square of the
    difference from the mean of ``window`` x ``window`` pixels, in the upper corners of images [N, 3, H, W] in [-1, 1],
    a quarter of their size, where the built-in heads show background alone. Specks and texture raise it."""
    levels = images.clamp(-1, 1).double() * 127.5
    size, edge = images.shape[-1] // 4, window // 2
    corners = torch.stack([levels[..., :size, :size], levels[..., :size, -size:]], 1).flatten(0, 1)
    smooth = F.avg_pool2d(F.pad(corners, [edge] * 4, mode="reflect"), window, stride=1)
    return (corners - smooth).square().flatten(1).mean(1).view(-1, 2).mean(1)


def diversity(features: torch.Tensor) -> float:
    """Return Div = 1 - mean cosine similarity over the pairs i < j (Eq. 26, 27) of features [N, d], N >= 2."""
    assert len(features) > 1, "one particle has no diversity"
    phi = F.normalize(features.double(), dim=1)
    rows, cols = torch.triu_indices(len(phi), len(phi), offset=1)
    return float(1 - (phi[rows] * phi[cols]).sum(1).mean())


def vendi(features: torch.Tensor) -> float:
    """Return the Vendi score (Friedman and Dieng 2023) of features [N, d]: the exponential of the entropy of the
    eigenvalues of K / N, with K the cosine similarities. It counts different samples: 1 if all are equal, N if they are
    orthogonal."""
    phi = F.normalize(features.detach().cpu().double(), dim=1)
    p = torch.linalg.eigvalsh(phi @ phi.T / len(phi)).clamp(min=0)
    return float(torch.special.entr(p / p.sum()).sum().exp())


def spread(features: torch.Tensor) -> dict[str, float]:
    """Return ``div`` (:func:`diversity`) and ``vendi`` (:func:`vendi`) of features [N, d], N >= 2."""
    return {"div": diversity(features), "vendi": vendi(features)}


def difference(images: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Return the root-mean-square distance of a pixel over all pairs of images [N, 3, H, W] in [-1, 1] (clamped),
    N >= 2, in units of the standard deviation of all pixels (at least one of 256 grey levels). 0: equal images;
    sqrt(2): independent noise. ``where``: the pixels to compare, bool [1, 1, H, W].
    """
    assert len(images) > 1, "one image has no difference"
    x = images.detach().double().clamp(-1, 1)
    if where is not None and where.any():
        x = x[..., where[0, 0].cpu()]
    x = x.reshape(len(x), 3, -1)
    apart = 2 * x.var(0, correction=1).mean()  # the mean over pairs i < j of (x_i - x_j)^2
    contrast = (x - x.mean((0, 2), keepdim=True)).square().mean()
    return float((apart / contrast.clamp(min=(2 / 255) ** 2)).sqrt())


def summary(values: torch.Tensor, *, best: Literal["max", "min"]) -> dict[str, float | None]:
    """Return mean, best and std over particles; None if not finite (equal images have infinite PSNR)."""
    v = values.double().cpu()
    figures = {"mean": v.mean(), "best": v.max() if best == "max" else v.min(), "std": v.std(correction=0)}
    return {k: float(x) if math.isfinite(x) else None for k, x in figures.items()}


def importance(log_weights: torch.Tensor) -> dict[str, Any] | None:
    """Return the normalised weights of repelled samples, ``values`` [N], and the ``effective`` number of independent
    samples, (sum w)^2 / sum w^2; both None if a weight is not known. Return None if nothing repelled (all are 0).

    ``log_weights``: [N], see :class:`rsd.sampling.Chain`.
    """
    if not bool((log_weights != 0).any()):
        return None
    if not bool(log_weights.isfinite().all()):
        return {"values": None, "effective": None}
    w = log_weights.double().softmax(0)
    return {"values": w.tolist(), "effective": float(1 / w.square().sum())}


def coverage(probabilities: dict[str, torch.Tensor], hidden: list[str], visible: dict[str, str]) -> dict[str, Any]:
    """Measure how many values of the hidden attributes the particles cover, and whether visible ones are correct.

    ``probabilities``: for each attribute [N, K] (see HeadsClassifier). Returns ``distinct``: for each hidden attribute
    the number of different values over the particles, confident classifications (0.8) only; ``mean``: over hidden
    attributes; ``agreement``: share of (particle, visible attribute) pairs classified as the truth; None if there are
    no such attributes. Particles that are not finite have no value and never agree.
    """
    distinct = {}
    for attribute in hidden:
        confidence, value = probabilities[attribute].max(1)
        distinct[attribute] = len(set(value[confidence >= CONFIDENT].tolist()))
    right = []
    for attribute, truth in visible.items():
        confidence, value = probabilities[attribute].max(1)
        right.append((value == ATTRIBUTES[attribute].index(truth)) & confidence.isfinite())
    return {
        "mean": float(np.mean(list(distinct.values()))) if distinct else None,
        "distinct": distinct,
        "agreement": float(torch.stack(right).double().mean()) if right else None,
    }


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the squared Frechet distance between Gaussians fitted to features a [N, d] and b [M, d], N and M >= 2.

    With features of the Inception network of Heusel et al. (2017) this is FID; that network is not downloaded, since
    its published loaders unpickle without weights_only. It is biased upwards for few images.
    """
    assert len(a) > 1 and len(b) > 1, "a covariance needs two rows"
    means = (a.double().mean(0), b.double().mean(0))
    a, b = ((x.double() - m) / math.sqrt(len(x) - 1) for x, m in zip((a, b), means, strict=True))  # x^T x: covariance
    if min(len(a), len(b)) < a.shape[1]:  # the same from a matrix N x M instead of d x d
        overlap = torch.linalg.svdvals(a @ b.T).sum()
    else:
        values, vectors = torch.linalg.eigh(a.T @ a)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        overlap = torch.linalg.eigvalsh(root @ (b.T @ b) @ root).clamp(min=0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum()
    return float((apart + a.square().sum() + b.square().sum() - 2 * overlap).clamp(min=0))


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy between features a [N, d] and b [M, d], N and M >= 2, with
    the kernel (a^T b / d + 1)^3; with Inception's features this is KID (Binkowski et al. 2018). It may be below 0."""
    assert len(a) > 1 and len(b) > 1, "the unbiased estimate needs two rows"

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: torch.Tensor) -> torch.Tensor:
        k = kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    a, b = a.double(), b.double()
    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def load_lpips(*, device: str | torch.device = "cpu") -> Compare:
    """Load LPIPS (Zhang et al. 2018, AlexNet) as a function of x [N, 3, H, W] (clamped) and truth [1 or N, 3, H, W] in
    [-1, 1] that returns [N]; at least 32 px.

    Raises ImportError if the package is missing or broken, FileNotFoundError if AlexNet's weights are not available.
    """
    network = lpips_network(device=device)

    def distance(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        x = x.float().clamp(-1, 1)
        return network(x.to(device), truth.float().expand_as(x).to(device)).flatten().cpu()

    return distance


def load_dists(*, device: str | torch.device = "cpu") -> Compare:
    """Load DISTS (:mod:`rsd.metrics.dists`) as a function of x [N, 3, H, W] (clamped) and truth [1 or N, 3, H, W] in
    [-1, 1] that returns [N]; at least 32 px. Raise FileNotFoundError if its weights are not available."""
    network = dists_network(device=device)

    def distance(x: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        x, y = ((v.float().clamp(-1, 1).to(device) + 1) / 2 for v in (x, truth.expand_as(x)))
        return torch.cat([network(a, b).cpu() for a, b in zip(x.split(1), y.split(1), strict=True)])

    return distance


def load_clip(name: str, *, device: str | torch.device = "cpu", revision: str | None = None) -> tuple[Any, Any, Pixels]:
    """Load a frozen CLIPModel in float32, its tokenizer, and the function from images [N, 3, H, W] in [-1, 1] (clamped)
    to the input of its vision model. ``name``: hub id or folder (safetensors only).

    Raises ValueError with the remedy if the model is not available.
    """
    from rsd.hub import broken, check_name, fetch, quietly
    from rsd.hub.weights import load_model

    what = "CLIP model"
    check_name(name, what=what, built_in=(), marker="config.json", example="openai/clip-vit-large-patch14")
    local = Path(name).expanduser().is_dir()
    where = str(Path(name).expanduser()) if local else name
    commit = None if local else fetch(name, "config.json", revision=revision, what=what).parent.name
    with quietly():
        from transformers import CLIPModel, CLIPTokenizer
    folder = Path(where) if local else None
    model = load_model(CLIPModel, name, folder, what=what, dtype=torch.float32, commit=commit)
    try:
        with quietly():
            tokenizer = CLIPTokenizer.from_pretrained(where, revision=commit or "main")
    except Exception as error:
        raise ValueError(broken(error, name, what=what, revision=revision)) from error
    model = model.float().eval().requires_grad_(False).to(device)
    size = model.config.vision_config.image_size
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))

    def pixels(images: torch.Tensor) -> torch.Tensor:
        x = images.to(device, torch.float32).clamp(-1, 1)
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        return ((x + 1) / 2 - mean) / std

    return model, tokenizer, pixels


def load_clip_score(name: str = CLIP, *, device: str | torch.device = "cpu", revision: str | None = None) -> Match:
    """Load CLIP's cosine similarity as a function of images [N, 3, H, W] in [-1, 1] (clamped) and a prompt that returns
    [N]. For ``name`` and errors see :func:`load_clip`.
    """
    model, tokenizer, pixels = load_clip(name, device=device, revision=revision)

    def match(images: torch.Tensor, prompt: str) -> torch.Tensor:
        words = tokenizer(prompt, truncation=True, return_tensors="pt").to(device)
        found = model(**words, pixel_values=pixels(images))
        return F.cosine_similarity(found.image_embeds, found.text_embeds).cpu()

    return match
