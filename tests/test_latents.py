"""Particles optimised with Adam, one leaf tensor each."""

from __future__ import annotations

import pytest
import torch

from rsd.latents import Leaves
from rsd.randomness import Stream
from rsd.runs.session import flat, nested

START = Stream(0).noise("start", (2, 3), range(4))
OPTIONS = dict(lr=0.1, betas=(0.9, 0.99), eps=1e-6)


def gradients(step: int) -> torch.Tensor:
    return Stream(1).noise("gradient", (2, 3), range(4), step)


def together(steps: int) -> tuple[torch.Tensor, torch.optim.Adam]:
    """Do the same with torch's Adam on one leaf."""
    z = START.clone().requires_grad_()
    optimiser = torch.optim.Adam([z], **OPTIONS)
    for step in range(steps):
        z.grad = gradients(step)
        optimiser.step()
    return z, optimiser


def test_a_leaf_a_particle_is_adam_on_all_of_them():
    z = Leaves(START, **OPTIONS)
    for step in range(5):
        z.descend(gradients(step))
    assert torch.equal(z.values, together(5)[0].detach())


def test_some_particles_step_and_the_others_stay():
    z = Leaves(START, **OPTIONS)
    for step in range(3):
        z.descend(gradients(step)[1:3], slice(1, 3))
    assert torch.equal(z.values[1:3], together(3)[0].detach()[1:3])
    assert torch.equal(z.values[[0, 3]], START[[0, 3]])


def test_a_gradient_that_was_left_behind_is_not_taken():
    """If a step has failed, its gradients must not move particles in the next one."""
    z = Leaves(START, **OPTIONS)
    for leaf in z.leaves:
        leaf.grad = torch.ones(2, 3)
    z.descend(gradients(0)[:1], slice(0, 1))
    assert torch.equal(z.values[1:], START[1:]) and not torch.equal(z.values[0], START[0])


def test_values_are_a_copy_and_can_be_put():
    z = Leaves(START, **OPTIONS)
    z.values.zero_()
    assert torch.equal(z.values, START)
    z.put(torch.ones(2, 2, 3), slice(2, 4))
    assert torch.equal(z.values[2:], torch.ones(2, 2, 3)) and torch.equal(z.values[:2], START[:2])


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("old", [False, True])
def test_it_resumes_also_from_a_checkpoint_with_one_leaf_for_all(old, n):
    """Save and load through the names and tensors of a file. ``old``: as text-to-image stored latents up to version
    0.0."""
    first = Leaves(START[:n], **OPTIONS)
    for step in range(3):
        first.descend(gradients(step)[:n])
    state = first.state("z")
    if old:
        one = torch.nn.Parameter(START[:n].clone())
        optimiser = torch.optim.Adam([one], **OPTIONS)
        for step in range(3):
            one.grad = gradients(step)[:n]
            optimiser.step()
        state = {"z": one.detach(), "z_optimiser": optimiser.state_dict()["state"]}
    z = Leaves(torch.zeros(n, 2, 3), **OPTIONS)
    z.load_state(nested(flat(state)), "z")
    for leaves in (first, z):
        leaves.descend(gradients(3)[:n])
    assert torch.equal(z.values, first.values)
