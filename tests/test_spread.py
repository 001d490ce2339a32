"""How particles are distributed over processes and chunks, and the records of a step."""

from __future__ import annotations

import math

import pytest
import torch

from rsd.distributed import Ensemble, Processes
from rsd.engine import Record
from rsd.memory import Memory
from rsd.spread import Spread


def test_by_default_all_particles_are_here_at_once():
    spread = Spread(range(3, 6))
    assert (spread.ids, spread.n, spread.total) == ([3, 4, 5], 3, 3)
    assert spread.each(lambda rows: (rows.start, rows.stop)) == [(0, 3)]
    assert spread.own(7) == 7 and spread.own(torch.arange(3)).tolist() == [0, 1, 2]


def test_chunks_and_a_part_of_an_ensemble():
    spread = Spread([2, 3, 4], Memory(2), Ensemble.of(5, Processes(1, 2)))
    assert spread.total == 5 and spread.ensemble.mine == [2, 3, 4]
    assert spread.cat(lambda rows: torch.arange(3)[rows]).tolist() == [0, 1, 2]
    assert spread.each(lambda rows: rows.stop) == [2, 3] and spread.own(torch.arange(5)).tolist() == [2, 3, 4]


def test_a_record_is_built_in_one_place():
    residual, push = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    norms = {"misfit": torch.tensor([3.0, 4.0])}
    record = Record.of(4, 17, Spread(range(2)), residual=residual, push=push, losses={"data": 0.5}, norms=norms)
    assert (record.step, record.t) == (4, 17) and record.losses == {"data": 0.5, "misfit": math.sqrt(12.5)}
    assert record.residual == 2.5 and record.repulsion == 1.0 and record.ratio == pytest.approx(0.4)
    alone = Record.of(0, torch.tensor([5, 6]), Spread(range(2)), residual=2.5)
    assert alone.t == [5, 6] and alone.repulsion == alone.ratio == 0 and alone.bandwidth is None
    assert alone.residual == 2.5
