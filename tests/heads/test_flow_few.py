"""The four-step distillation, and the built-in flow priors once their weights are in the package."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import CLIPTextModel, CLIPTokenizer

from rsd import hub
from rsd.cli import main
from rsd.priors import built_in, check_prior_name, family, image_size, load_prior, over_heads
from rsd.priors.index import FLOWS
from scripts.heads.__main__ import _ship_some
from scripts.heads.flow import few, network

HEADS = hub.BUILT_IN / "latent"
MEAN, SPREAD = 1.5, 0.4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(network, "LAYERS", 1)
    monkeypatch.setattr(network, "CHANNELS", 32)
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def width(s):
    """Standard deviation of z_s for z_0 from N(MEAN, SPREAD^2)."""
    return ((1 - s) ** 2 * SPREAD**2 + s**2) ** 0.5


def exact(z, s):
    """The velocity E[eps - z_0 | z_s]."""
    s = s.view(-1, *[1] * (z.ndim - 1))
    return (s - (1 - s) * SPREAD**2) / width(s) ** 2 * (z - (1 - s) * MEAN) - MEAN


def solution(noise, s):
    """The solution of the flow from z_1 = noise, at s."""
    return (1 - s) * MEAN + width(s) * noise


def test_a_path_is_the_solution_of_the_flow_of_a_gaussian():
    noise = torch.linspace(-3, 3, 50)[:, None]
    states = few.path(exact, noise, substeps=20)
    expected = torch.stack([solution(noise, s) for s in few.GRID], 1)
    torch.testing.assert_close(states, expected, rtol=0, atol=5e-3)
    assert (few.steps(exact, noise) - expected[:, -1]).abs().max() > 0.1  # four steps of the flow itself miss it


def test_four_steps_of_the_distilled_map_reach_the_solution():
    """Least squares on the targets finds the affine map of each segment, and its Euler steps are exact."""
    noise = torch.linspace(-3, 3, 50)[:, None]
    paths = torch.stack([solution(noise, s) for s in few.GRID], 1)
    fits = {}
    for k, s in enumerate(few.GRID[:-1]):
        z, at, target = few.segments(paths, torch.full((50,), k))
        assert at.unique().tolist() == [s]
        fits[s] = torch.linalg.lstsq(torch.cat([z, torch.ones_like(z)], 1), target).solution

    def student(z, s):
        return torch.cat([z, torch.ones_like(z)], 1) @ fits[float(s[0])]

    torch.testing.assert_close(few.steps(student, noise), MEAN + SPREAD * noise, rtol=0, atol=1e-4)


def teacher_and_words():
    torch.manual_seed(0)
    teacher = network.build_transformer()
    with torch.no_grad():
        for value in teacher.parameters():
            if value.requires_grad and value.ndim == 2:
                value.add_(0.05 * torch.randn_like(value))
    encoder = network.text_encoder_of(CLIPTextModel.from_pretrained(HEADS / "text_encoder", dtype=torch.float32))
    return teacher, encoder, CLIPTokenizer.from_pretrained(HEADS / "tokenizer")


def test_distillation_learns_and_resumes(tmp_path):
    teacher, encoder, tokenizer = teacher_and_words()

    def run(out, count):
        out.mkdir(exist_ok=True)
        torch.manual_seed(0)
        return few.distil(
            copy.deepcopy(teacher), encoder, tokenizer, out, count, shards=1, batch=8, lr=3e-3, each=4, every=1
        )

    student = run(tmp_path / "whole", 30)
    data = torch.load(tmp_path / "whole" / "few-data" / "paths-0000.pt")
    assert data["paths"].shape == (4, 5, 4, 16, 16)
    noise, pooled = data["paths"][:, 0].float(), data["pooled"].float()

    @torch.no_grad()
    def error(model):
        network.one_token(model)
        made = few.steps(lambda z, s: network.velocity(model, z, s, pooled), noise)
        return float((made - data["paths"][:, -1].float()).square().mean())

    assert error(student) < 0.8 * error(teacher)
    run(tmp_path / "pieces", 1)
    pieces = run(tmp_path / "pieces", 2)
    once = run(tmp_path / "once", 2)
    assert all(torch.equal(a, b) for a, b in zip(pieces.parameters(), once.parameters(), strict=True))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install untrained flow priors beside the other built-in models."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for part in hub.BUILT_IN.iterdir():
        if part.name not in FLOWS.values():
            (weights / part.name).symlink_to(part)
    for name in FLOWS:
        _ship_some(network.assemble(network.build_transformer(), HEADS), weights, name)
    monkeypatch.setattr(hub, "BUILT_IN", weights)
    return weights


def test_missing_flow_priors_say_how_they_are_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "BUILT_IN", tmp_path)
    with pytest.raises(ValueError, match='missing: .* train it with "python -m scripts.heads flow" in a clone'):
        check_prior_name("heads-flow")
    assert "heads-flow" not in built_in() and "heads" in built_in()


def test_a_folder_of_weights_makes_a_built_in_prior(installed, capsys, tmp_path):
    assert {"heads-flow", "heads-flow-few"} <= set(built_in())
    assert over_heads("heads-flow") and family("heads-flow") == "heads" and image_size("heads-flow") == 64
    own = {name: {part.name for part in (installed / name).iterdir()} for name in FLOWS.values()}
    assert own["flow"] - own["flow-few"] == {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    assert own["flow-few"] == {"model_index.json", "scheduler", "transformer"}
    prior, heads = load_prior("heads-flow"), load_prior("heads")
    assert prior.latent_shape == heads.latent_shape and prior.schedule.most < math.inf
    z = torch.randn(1, *heads.latent_shape)
    with torch.no_grad():
        torch.testing.assert_close(prior.decode(z), heads.decode(z), rtol=0, atol=1e-4)
    out = tmp_path / "run"
    arguments = ["text-to-image", "a bald man", "--prior", "heads-flow-few", "--method", "euler", "--steps", "4"]
    assert main([*arguments, "-n", "2", "--guidance", "1", "--gamma", "1", "--out", str(out)]) == 0
    assert (out / "grid.png").is_file() and "agreement" in capsys.readouterr().out
