"""The figures of finished runs, and plots of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from rsd.tasks.reproduce.cards import trade_off
from rsd.tasks.reproduce.measure import Measured, at_size, sharpness, toy_figures

ROWS = {
    "a": Measured({"x": {"psnr": 20.0, "div": 0.1}, "y": {"psnr": 22.0, "div": None}}),
    "b": Measured({"x": {"psnr": 21.0, "div": 0.2}, "y": {"psnr": 26.0, "div": 0.4}}, {"fid": 3.0}),
}


def test_means_are_over_what_is_known():
    assert ROWS["a"].mean("psnr") == 21 and ROWS["a"].mean("div") == 0.1
    assert ROWS["b"].mean("fid") == 3 and ROWS["a"].mean("fid") is None


def test_pictures_are_averaged_to_a_size():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert at_size(x, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert at_size(x, 8) is x
    with pytest.raises(ValueError, match="4 px cannot be averaged to 3 px"):
        at_size(x, 3)


def test_sharpness_is_the_gradient_in_units_of_the_truth_s():
    truth = torch.zeros(1, 3, 8, 8)
    truth[..., 4:] = 0.5
    assert sharpness(truth.expand(2, -1, -1, -1), truth, None) == pytest.approx(1)
    assert sharpness(0.5 * truth, truth, None) == pytest.approx(0.5)
    smooth = truth.clone()
    smooth[:, :, 4:] = 0.25
    hidden = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hidden[..., 5:, :] = True
    assert sharpness(smooth, truth, hidden) == pytest.approx(0)


def test_a_toy_s_pairs_have_figures_of_their_own():
    output = {"gamma": [0.5], "collapsed": [1], "misfit": [0.3], "realisations": 2}
    pairs = {"collapsed": [[True, False]], "misfit": [[0.2, 0.4]]}
    found = toy_figures({**output, "pairs": pairs})
    assert found.items["pair 1"] == {"gamma": 0.5, "collapsed": 0.0, "misfit": 0.4}
    before = toy_figures(output)  # of a file from before
    assert len(found.items) == 2 and len(before.items) == 1
    for name, value in (("gamma", 0.5), ("collapsed", 0.5), ("misfit", 0.3)):
        assert found.mean(name) == pytest.approx(value) and before.mean(name) == value


def test_a_plot_of_shares_ends_at_one(monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    rows = {label: Measured({"x": {"div": x, "agreement": y}}) for label, x, y in (("a", 0.0, 1.0), ("b", 0.2, 0.8))}
    assert trade_off(rows, "div", "agreement") is not None
    (left, _), (bottom, top) = plt.gca().get_xlim(), plt.gca().get_ylim()
    monkeypatch.undo()
    plt.close("all")
    assert (left, top) == (0, 1) and 0.7 < bottom < 0.8
