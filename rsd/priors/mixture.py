"""A mixture of Gaussians in R^d, a prior with an exact score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from rsd.priors.base import Condition, Prior
from rsd.schedule import Schedule


class GaussianMixture(Prior):
    """p(z) = sum_k w_k N(z; mu_k, S_k), so that p_t(z_t) = sum_k w_k N(z_t; alpha mu_k, alpha^2 S_k + sigma^2 I) and
    epsilon = -sigma_t grad log p_t, exact at every t.

    ``means``: [K, d], with the dtype and device of the prior. ``variances``: a number or [K] (isotropic), [K, d]
    (diagonal) or [K, d, d] (full). ``weights``: [K], positive, normalised here (default: equal). ``schedule``: Stable
    Diffusion's by default. Raises ValueError for other shapes and for values that are not positive.
    """

    name = "gaussian mixture"
    image_size = 0

    def __init__(
        self,
        means: torch.Tensor,
        variances: torch.Tensor | float,
        weights: torch.Tensor | Sequence[float] | None = None,
        *,
        schedule: Schedule | None = None,
    ):
        if means.ndim != 2 or not means.is_floating_point():
            raise ValueError(f"means must be a float tensor [K, d]; got {means.dtype} {list(means.shape)}.")
        K, d = means.shape
        self.means = means
        self.dtype, self.device = dtype, device = means.dtype, means.device
        self.variances, self.axes = _principal(torch.as_tensor(variances, dtype=dtype, device=device), K, d)
        w = torch.as_tensor([1.0] * K if weights is None else weights, dtype=dtype, device=device)
        if w.shape != (K,) or not bool((w > 0).all()):
            raise ValueError(f"weights must be {K} positive numbers, one a component; got {w.tolist()}.")
        self.log_weights = (w / w.sum()).log()
        self.schedule = schedule or Schedule.scaled_linear()
        self.latent_shape: tuple[int, ...] = (d,)
        self.calls: Counter[str] = Counter()

    def condition(self, prompt: str = "", negative_prompt: str = "", guidance: float = 1.0) -> Condition:
        """Return a condition without text. Raise ValueError for a prompt."""
        if prompt or negative_prompt:
            raise ValueError("A Gaussian mixture takes no prompt.")
        return Condition(guidance=guidance)

    def epsilon(self, z_t: torch.Tensor, t: int | torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        """Return -sigma_t grad log p_t(z_t), [B, d], differentiable; t: one index or [B]."""
        z = z_t.to(self.means)
        alpha, sigma = self.schedule.coefficients(torch.as_tensor(t), z)
        offset = z[:, None] - alpha[:, None] * self.means  # [B, K, d]
        variance = alpha[:, None] ** 2 * self.variances + sigma[:, None] ** 2
        if self.axes is not None:
            offset = torch.einsum("bkd,kde->bke", offset, self.axes)
        log_joint = self.log_weights - 0.5 * (offset**2 / variance + variance.log()).sum(-1)
        pull = offset / variance
        if self.axes is not None:
            pull = torch.einsum("bke,kde->bkd", pull, self.axes)
        return (sigma * (log_joint.softmax(-1)[..., None] * pull).sum(1)).to(z_t.dtype)


def _principal(variances: torch.Tensor, K: int, d: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return variances along the principal axes, broadcastable to [K, d], and the axes [K, d, d] (None:
    coordinates)."""
    axes = None
    if variances.shape == (K, d, d):
        if not torch.allclose(variances, variances.mT):
            raise ValueError("variances [K, d, d] must be symmetric.")
        variances, axes = torch.linalg.eigh(variances)
    elif variances.ndim == 0 or variances.shape == (K,):
        variances = variances.reshape(-1, 1)
    elif variances.shape != (K, d):
        raise ValueError(
            f"variances must be a number, [{K}], [{K}, {d}] or [{K}, {d}, {d}]; got {list(variances.shape)}."
        )
    if not bool((variances > 0).all()):
        raise ValueError("variances must be positive (a full covariance: positive definite).")
    return variances, axes
