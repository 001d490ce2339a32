"""Dry runs build every experiment's settings and models at the paper's scale, on the meta device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.memory import Need
from rsd.memory import meta as dryrun
from rsd.priors import load_prior
from rsd.tasks.inverse.operators import make_operator
from rsd.tasks.inverse.options import Restore
from rsd.tasks.reproduce import data, models
from rsd.tasks.reproduce.estimate import calls_of, estimates, size
from rsd.tasks.reproduce.experiments import ENTRIES
from rsd.tasks.reproduce.options import FFHQ, IF, SD, Reproduce
from rsd.tasks.reproduce.plan import on_pixels

GIB = 2**30
OPTIONS = Reproduce(name="all", scale="paper", dry_run=True)


@pytest.fixture
def undried(monkeypatch):
    """Replace the networks by their sizes, a FLOP for each pass of one and a byte for each particle; draw no heads."""

    def prior_of(name, dtype):
        size, latent = {SD: (512, True), FFHQ: (256, False), "heads": (64, True)}.get(name, (64, False))
        return SimpleNamespace(image_size=size, latent=latent, dtype=models.DTYPES[dtype])

    passes = [f"{network}_{way}" for network in ("unet", "decoder", "encoder") for way in ("forward", "backward")]
    monkeypatch.setattr(models, "prior_of", prior_of)
    monkeypatch.setattr(models, "flops", lambda name, dtype: dict.fromkeys(passes, 1.0))
    monkeypatch.setattr(models, "features_flops", lambda *_: 1.0)
    monkeypatch.setattr(models, "learned_flops", lambda *_: 1.0)
    monkeypatch.setattr(models, "memory_of", lambda *_: Need(1, 0, 0, 0))
    monkeypatch.setattr(models, "weights_of", lambda _: 0)
    monkeypatch.setattr(data, "heads", lambda folder, count, view: folder.parent)


@pytest.mark.parametrize("scale", ["paper", "builtin"])
def test_settings_of_every_entry(scale, undried):
    """What the slow tests measure with the networks themselves."""
    for entry in ENTRIES:
        rows = list(estimates(entry, replace(OPTIONS, scale=scale)))
        assert [one.plan.label for one in rows] == [row.label for row in entry.rows]
        for one in rows:
            assert one.plan.why_not is None, (entry.name, one.plan.label)
            if entry.command == "toy":
                continue
            assert one.plan.prior in ((SD, IF, FFHQ) if scale == "paper" else ("heads", "heads-pixels"))
            assert one.runs in ((1, 2, 75, 100) if scale == "paper" else (1, 2, 4)) and 2 <= one.particles <= 20
            assert 10 <= one.steps <= 10_000 and one.memory == one.particles
            each = one.flops / (one.runs * one.particles * one.steps)
            known = {"red-diff": 1, "nonrepuls": 3, "dps": 2}  # a pass, and the decoder's or its own gradient
            assert each == pytest.approx(known.get(one.plan.given.get("method"), each)) and 1 <= each <= 23
        if scale == "builtin" and entry.command == "restore" and entry.name not in ("fig15", "fig16"):
            assert len({one.steps for one in rows}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_at_the_papers_scale(entry):
    rows = list(estimates(entry, OPTIONS))
    assert [one.plan.label for one in rows] == [row.label for row in entry.rows]
    for one in rows:
        assert one.plan.why_not is None
        if entry.command == "toy":
            continue
        assert one.plan.prior in (SD, IF, FFHQ)
        assert one.runs in (1, 2, 75, 100) and 10 <= one.steps <= 10_000 and 2 <= one.particles <= 20
        assert 0.2 * GIB < one.memory < 78 * GIB  # an A100's
        assert 0 < one.flops < 50 * 3600 * 32e12  # and 50 of its hours


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_at_the_built_in_scale(entry, heads_pixels):
    rows = list(estimates(entry, Reproduce(name="all", dry_run=True, number=1)))
    for one in rows:
        assert one.plan.why_not is None
        assert entry.command == "toy" or (one.runs == 1 and one.flops > 0)
    if entry.command == "restore" and entry.name not in ("fig15", "fig16"):  # which are about the number of steps
        assert len({one.steps for one in rows}) == 1


def test_small_memory_is_printed_in_mib():
    assert (size(45 * 2**20), size(0.1 * GIB), size(26.04 * GIB)) == ("45 MiB", "0.1 GiB", "26.0 GiB")


@pytest.mark.slow
def test_flops_are_the_published_ones():
    """Stable Diffusion's UNet: 402 GMAC at 64 x 64 latents, two FLOPs each."""
    of = models.flops(SD, "float16")
    assert of["unet_forward"] == pytest.approx(0.804e12, rel=0.01)
    assert of["decoder_forward"] == pytest.approx(2.5e12, rel=0.02)
    assert of["decoder_backward"] == pytest.approx(of["decoder_forward"], rel=0.05)
    assert models.features_flops(models.DINO, SD, "float16") == pytest.approx(0.146e12, rel=0.05)


def test_the_papers_own_time_is_estimated(monkeypatch):
    """D.8.1: two samples in 1000 steps took 8.8 minutes; here one of three decodes per step is saved. The memory, which
    is measured in a dry run of its own, is a slow test's subject."""
    monkeypatch.setattr(models, "memory_of", lambda *_: Need(1, 0, 0, 0))
    entry = next(entry for entry in ENTRIES if entry.name == "fig15")
    row = next(one for one in estimates(entry, OPTIONS) if one.plan.label == "RLSD, many steps")
    assert (row.particles, row.steps) == (2, 1000)
    minutes = row.flops / row.runs / 32e12 / 60
    assert 5 < minutes < 8.8


def test_calls_equal_those_of_a_run(tiny_folder, heads_pixels):
    """The network calls in a step of each method on tiny priors equal those in the estimate."""
    for method in ("dps", "pigdm", "red-diff", "latent-dps", "psld", "fps-smc", "nonrepuls", "latent-red-diff"):
        prior = load_prior("heads-pixels" if on_pixels(method) else str(tiny_folder("epsilon")))
        f = make_operator("sr2", size=prior.image_size)
        y = torch.zeros(1, 3, prior.image_size // 2, prior.image_size // 2)
        hyper = ("M=3",) if method == "fps-smc" else ()
        calls = calls_of(Restore(images=(), method=method, hyper=hyper), latent=prior.latent)
        counted = []
        for steps in (2, 3):
            prior.calls.clear()
            rsd.restore(y, f, prior=prior, features="pixels", method=method, particles=1, steps=steps, hyper=hyper)
            counted.append(prior.calls.copy())
        one = {name: counted[1][name] - counted[0][name] for name in counted[1]}
        assert {name: n for name, n in one.items() if n} == calls, method


def test_the_users_data_are_used(tmp_path, capsys, undried):
    (tmp_path / "coco.txt").write_text("one\ntwo\n", encoding="utf-8")
    flags = ["--scale", "paper", "--dry-run", "--number", "7", "--coco", str(tmp_path / "coco.txt"), "--steps", "3"]
    assert main(["reproduce", "fig31", *flags]) == 0
    output = capsys.readouterr().out
    assert "VSD, gamma 40: 7 x 4 particles x 3 steps" in output
    assert output.splitlines()[-1] == "6 runs in all, 0.0 hours of an A100, network passes only"


def test_the_users_pixel_prior_is_read_from_its_folder(tmp_path):
    from diffusers import UNet2DModel

    small = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = UNet2DModel(sample_size=64, block_out_channels=(32, 64), **small)
    unet.save_config(tmp_path / "unet")
    prior = models.prior_of(str(tmp_path), "float16")
    assert prior.image_size == 64 and prior.device.type == "meta"
    assert dryrun.weight(prior.network) * 2 == dryrun.weight(unet)  # in float16


def test_a_built_in_prior_is_measured_without_its_weights(heads_pixels):
    prior = models.prior_of.__wrapped__("heads-pixels", "float32")
    assert {p.device.type for p in (*prior.network.parameters(), models.latent(prior))} == {"meta"}
    condition = prior.condition(models.PROMPT, "", 7.5)  # embedded while there were weights
    there, back = dryrun.flops(lambda z: prior.epsilon(z, 500, condition), models.latent(prior))
    assert 1e6 < there < 1e9 and back > 0.5 * there


def test_the_built_in_scale_is_estimated_on_the_command_line(capsys, undried):
    assert main(["reproduce", "fig22", "--dry-run"]) == 0
    assert "RLSD: 4 x 4 particles x 100 steps" in capsys.readouterr().out
