"""On CUDA: the same results as on a CPU, full memory, and each head from the command line to its files."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsd.cli import main
from rsd.features import load_features
from rsd.priors import load_prior
from rsd.tasks.inverse.methods import METHODS, run_class
from rsd.tasks.inverse.operators import make_operator, measure
from rsd.tasks.inverse.run import Decoded, Run, Settings

pytestmark = pytest.mark.cuda
BASE = Settings(particles=4, steps=4, gamma=6.0, memory="fast")
SMALL = {"resample": ("fits=2", "every=2"), "daps": ("ode=2", "langevin=3"), "latent-daps": ("ode=2", "langevin=3")}
SMALL["score-prior"] = ("batch=2", "ode=2", "layers=2", "hidden=8")


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Use float32 as on the CPU: by default convolutions on CUDA round to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def restore(device: str, settings: Settings) -> tuple[torch.Tensor, Run]:
    """Restore half a picture with the built-in prior; return the samples, on the CPU, and the run."""
    name = "heads-pixels" if METHODS[settings.method].space == "pixels" else "heads"
    prior, features = load_prior(name, device=device), load_features("heads", device=device)
    side = prior.image_size
    operator = make_operator("inpaint_half_face", size=side)
    truth = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
    y, embed = measure(operator, truth, 0.001, seed=0), Decoded(prior, features)
    run = run_class(settings.method)(prior, operator, y, settings, embed=embed)
    list(run.steps())
    return run.finish().cpu(), run


@pytest.mark.parametrize("changes", [{}, {"x_step": "exact"}, {"memory": "flat", "chunk": 1}])
def test_the_answers_are_a_cpu_s(changes):
    settings = replace(BASE, **changes)
    (theirs, _), (ours, _) = restore("cpu", settings), restore("cuda", settings)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_s_answers_are_a_cpu_s(method):
    settings = replace(BASE, method=method, particles=3, hyper=SMALL.get(method, ()))
    (theirs, _), (ours, _) = restore("cpu", settings), restore("cuda", settings)
    apart = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    assert apart < 2e-3, f"{apart:.1e} of their size"


def test_bfloat16_is_the_same_but_for_rounding():
    prior = {name: load_prior("heads", device="cuda") for name in ("float32", "bfloat16")}
    prior["bfloat16"].autocast = True
    z = torch.randn(2, *prior["float32"].latent_shape, generator=torch.Generator().manual_seed(0)).cuda()
    exact, rounded = (one.decode(z) for one in prior.values())
    assert 0 < float((exact - rounded).square().mean().sqrt()) < 0.02
    exact, rounded = (one.epsilon(z, 500) for one in prior.values())
    assert 0 < float((exact - rounded).square().mean().sqrt()) < 0.02


def crowded(settings: Settings, share: float, told: str) -> Run:
    """Repeat a run with ``share`` of the memory that it used apart from the weights. It must warn of that, matching
    ``told``, and return the same samples."""
    whole, _ = restore("cuda", settings)
    most = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    room = held + share * (most - held)
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.warns(UserWarning, match=told):
            found, run = restore("cuda", settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(found, whole, rtol=0, atol=2e-3)
    return run


def test_where_the_card_is_full_nothing_is_lost():
    settings = replace(BASE, particles=32, steps=2, memory="flat", chunk=32)
    run = crowded(settings, 1 / 4, ". instead of . particles go through a network at once")
    assert run.memory.chunk is not None and run.memory.chunk <= 16


def test_kept_graphs_that_do_not_fit_on_the_card_are_made_again():
    crowded(replace(BASE, particles=32, steps=2, chunk=4), 1 / 2, "computed twice from now on")


def run(*words: str | Path) -> None:
    """Run a command that must succeed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(word) for word in words]) == 0


def provenance(folder: Path) -> str:
    """Return the provenance of a run, flattened."""
    return json.dumps(json.loads((folder / "provenance.json").read_text()))


def test_restore(tmp_path):
    run("heads", "--out", tmp_path / "heads", "--number", 1)
    out = tmp_path / "run"
    task = ("--task", "inpaint_half_face")
    run("restore", tmp_path / "heads", "--clean", *task, "--steps", 3, "--device", "cuda", "--autocast", "--out", out)
    (found,) = out.rglob("metrics.json")
    assert json.loads(found.read_text())["peak_bytes"] > 0 and "cuda" in provenance(found.parent)


@pytest.mark.parametrize("method", ["vsd", "sds"])
def test_text_to_image(tmp_path, method):
    flags = ("-n", 2, "--steps", 3, "--method", method, "--device", "cuda", "--out", tmp_path / "run")
    run("text-to-image", "a man with a blue mohawk", *flags)
    assert "cuda" in provenance(tmp_path / "run")


@pytest.mark.parametrize("encoding", ["grid", "hash", "frequency"])
@pytest.mark.parametrize("renderer", ["dense", "packed"])
def test_text_to_3d(tmp_path, encoding, renderer):
    flags = ("-n", 2, "--steps", 3, "--turntable", 4, "--mesh-resolution", 24, "--device", "cuda")
    run(
        "text-to-3d",
        "a man",
        "--prior",
        "heads-pixels",
        *flags,
        "--encoding",
        encoding,
        "--renderer",
        renderer,
        "--out",
        tmp_path / "run",
    )
    assert "cuda" in provenance(tmp_path / "run")
