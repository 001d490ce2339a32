"""metrics.json: every null has its reason."""

import pytest
import torch

from rsd.heads.attributes import ATTRIBUTES
from rsd.heads.data import head_at
from rsd.metrics.scoring import Scorers, Subject, measure
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.options import Restore
from rsd.tasks.inverse.problem import Problem
from rsd.tasks.inverse.results import SCORES


class Judge:
    """A classifier that reads the first value of every attribute in every image."""

    def probabilities(self, images):
        rows = {a: torch.zeros(len(images), len(options)) for a, options in ATTRIBUTES.items()}
        for p in rows.values():
            p[:, 0] = 1
        return rows


@pytest.mark.parametrize(
    ("scale", "null", "reason"),
    [
        (1, "mean", "the measurement leaves no attribute open"),
        (0, "agreement", "the measurement shows no attribute for certain"),
    ],
)
def test_an_empty_coverage_has_its_reason(scale, null, reason):
    clean = torch.zeros(1, 3, 64, 64)
    operator = make_operator("operator", size=64, operator=lambda x: scale * x)
    problem = Problem(operator, operator(clean), clean, head_at("test", 0))
    options = Restore(images=(), clean=True)
    found = measure(SCORES, torch.rand(2, 3, 64, 64), Subject("", problem, options), Scorers(judge=Judge()))
    assert found["coverage"][null] is None and found["reasons"][f"coverage.{null}"] == reason
    other = {"mean": "agreement", "agreement": "mean"}[null]
    assert found["coverage"][other] is not None and f"coverage.{other}" not in found["reasons"]
