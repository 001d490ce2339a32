"""Particles optimised with Adam, one leaf tensor each: latents z, and the images x of RLSD."""

from __future__ import annotations

from typing import Any

import torch


class Leaves:
    """``values`` [N, ...] optimised with Adam, one leaf tensor per particle, so that a part of them can take a step.

    Adam's moments are allocated at the start, so a step allocates nothing: if a chunk runs out of memory, it can be
    repeated. On CUDA a step is one fused kernel.
    """

    def __init__(self, values: torch.Tensor, *, lr: float, betas: tuple[float, float], eps: float = 1e-8):
        self.leaves = [row.clone().requires_grad_() for row in values]
        fused = values.is_cuda or None
        self.optimiser = torch.optim.Adam(self.leaves, lr=lr, betas=betas, eps=eps, fused=fused)
        for leaf in self.leaves:
            step = torch.zeros((), device=leaf.device if fused else "cpu")
            moments = {"exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf)}
            self.optimiser.state[leaf] = {"step": step, **moments}

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Return the values of some particles [n, ...], a copy without gradient."""
        return torch.stack([leaf.detach() for leaf in self.leaves[rows]])

    @property
    def values(self) -> torch.Tensor:
        """All values [N, ...], a copy without gradient."""
        return self[:]

    def descend(self, gradients: torch.Tensor, rows: slice = slice(None)) -> None:
        """Take a step of Adam for some particles with ``gradients`` [n, ...]; the others stay."""
        self.optimiser.zero_grad()
        for leaf, gradient in zip(self.leaves[rows], gradients, strict=True):
            leaf.grad = gradient
        self.optimiser.step()  # moves only these rows: the others have no gradient
        self.optimiser.zero_grad()

    @torch.no_grad()
    def put(self, values: torch.Tensor, rows: slice = slice(None)) -> None:
        """Replace the values of some particles by ``values`` [n, ...], without a step."""
        for leaf, value in zip(self.leaves[rows], values, strict=True):
            leaf.copy_(value)

    def state(self, name: str) -> dict[str, Any]:
        """Return the state of a checkpoint, with keys that start with ``name``."""
        return {name: self.values, f"{name}_optimiser": self.optimiser.state_dict()["state"]}

    def load_state(self, state: dict[str, Any], name: str) -> None:
        """Load :meth:`state`, or that of an older version, which had one leaf for all particles."""
        self.put(state[name])
        moments = {int(k): v for k, v in state[f"{name}_optimiser"].items()}
        if moments[0]["exp_avg"].shape == state[name].shape:
            moments = {k: _row(moments[0], k) for k in range(len(self.leaves))}
        # Copy, so that the optimiser does not change the checkpoint's tensors.
        moments = {k: {what: v.clone() for what, v in one.items()} for k, one in moments.items()}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def _row(together: dict[str, torch.Tensor], k: int) -> dict[str, torch.Tensor]:
    """Return Adam's moments of particle k from those of one leaf [N, ...]."""
    return {what: value if what == "step" else value[k] for what, value in together.items()}
