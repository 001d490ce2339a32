"""Muon for matrices: steps along the orthogonal matrix nearest to the averaged gradient. Adam for the rest.

After Jordan et al. 2024 ("Muon: an optimizer for hidden layers"). torch.optim.Muon multiplies in bfloat16,
which many processors emulate; this one uses the precision of the gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

SIZE = 0.4
"""Root mean square of a matrix update divided by the learning rate, similar to Adam's."""


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return about U V^T of a matrix x = U S V^T [m, n], with singular values of 0.7 to 1.2, by Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = (x.mT if tall else x) / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdam(torch.optim.Optimizer):
    """Muon on ``matrices`` (a convolution is one of outputs by all else) and Adam on ``others``, with one learning rate
    and decoupled weight decay."""

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        others: Iterable[torch.Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ):
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters with a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._muon(p, p.grad, group) if group["muon"] else self._adam(p, p.grad, group)
                p.sub_(update, alpha=group["lr"])

    def _muon(self, p: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"])
        matrix = ahead.flatten(1)
        return (orthogonal(matrix) * (SIZE * max(matrix.shape) ** 0.5)).view_as(p)

    def _adam(self, p: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        state, (first, second) = self.state[p], group["betas"]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - first) / (1 - first ** state["step"])
        square = state["square"].lerp_(gradient**2, 1 - second) / (1 - second ** state["step"])
        return mean / (square.sqrt() + 1e-8)
