"""Implausible outputs of networks are errors that name the network. A diverged run is not reported as one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rsd
from rsd.cli import main
from rsd.features import Decoded, Function
from rsd.media import write_png
from rsd.priors import load_prior
from rsd.priors.watch import MAX_INPUT, MAX_OUTPUT, Watch
from rsd.tasks.inverse.operators import make_operator

WEIGHTS = {
    "vae": ("diffusion_pytorch_model.safetensors", "decoder.conv_out.weight", "decoder"),
    "unet": ("diffusion_pytorch_model.safetensors", "conv_out.weight", "UNet"),
    "text_encoder": ("model.safetensors", "final_layer_norm.weight", "text encoder"),
}


def damaged(folder: Path, part: str, value: float, weight: str | None = None) -> str:
    """Set a weight of one network of the pipeline in ``folder`` to ``value``; return the network's name in messages."""
    file, name, what = WEIGHTS[part]
    tensors = load_file(folder / part / file)
    key = next(key for key in tensors if key.endswith(weight or name))
    tensors[key].flatten()[0] = value
    save_file(tensors, folder / part / file, {"format": "pt"})
    return f'The {what} of the prior "{folder}" (its folder {part})'


@pytest.fixture
def broken(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder("epsilon"), tmp_path / "broken"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (MAX_OUTPUT, None),
        (1.1 * MAX_OUTPUT, "returned values of 1e+04, which is implausible"),
        (1e30, "returned values of 1e+30, which is implausible"),
        (float("inf"), "returned values that are not finite"),
        (float("nan"), "returned values that are not finite"),
    ],
)
def test_an_implausible_output_is_reported_once(answer, told):
    watch = Watch()
    watch.see("A", torch.ones(2), torch.full((2,), MAX_INPUT))
    watch.see("A", torch.tensor([0.5, -answer]), torch.zeros(2))
    watch.see("A", torch.ones(2), torch.ones(2))
    if told:
        with pytest.raises(ValueError, match=f"^A {told.replace('+', '.')}.*; its weights are damaged"):
            watch.check()
    watch.check()


@pytest.mark.parametrize("given", [1.1 * MAX_INPUT, float("inf"), float("nan")])
def test_answers_to_what_diverged_do_not_count(given):
    watch = Watch()
    watch.see("A", torch.full((2,), 1e30), torch.tensor([0.0, given]))
    with watch.paused():
        watch.see("A", torch.full((2,), 1e30), torch.zeros(2))
    watch.check()


SR = ("restore", "face.png", "--clean", "--task", "sr2")
SDS = ("text-to-image", "red", "--method", "sds", "--gamma", "0")


@pytest.mark.parametrize(
    ("command", "part", "value"),
    [
        ((*SR, "--gamma", "5", "--features", "pixels"), "vae", 1e30),
        ((*SR, "--method", "rlsd", "--gamma", "5", "--features", "pixels"), "vae", 1e30),
        ((*SR, "--method", "rlsd", "--gamma", "0"), "unet", 1e30),
        ((*SR, "--gamma", "0"), "vae", 1e30),
        ((*SR, "--gamma", "0"), "vae", 1e6),
        ((*SR, "--gamma", "0"), "unet", 1e30),
        ((*SR, "--gamma", "0"), "text_encoder", float("nan")),
        ((*SR, "--method", "latent-dps"), "vae", 1e30),
        ((*SR, "--method", "latent-dps"), "unet", float("nan")),
        (SDS, "vae", 1e30),
        (SDS, "unet", 1e30),
        (("text-to-image", "red", "--method", "ancestral"), "vae", float("nan")),
    ],
)
def test_commands_name_the_network(command, part, value, broken, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_png(Path("face.png"), torch.linspace(-1, 1, 3 * 256).view(1, 3, 16, 16))
    name = damaged(broken, part, value)
    fixed = ["--prior", str(broken), "--div-features", "pixels", "-n", "2", "--steps", "2", "--out", "out"]
    assert main([*command, *fixed]) == 2
    error = capsys.readouterr().err
    told = re.search(rf"rsd: {re.escape(name)} returned values (of (\S+), which|that are not finite)", error)
    assert told, error
    if value == value:  # the weight times what it weighs, about 1
        assert 1e-2 * value < float(told[2]) < 1e2 * value
    else:
        assert told[1] == "that are not finite"
    assert not Path("out/particles").exists() and not Path("out/metrics.json").exists()


@pytest.mark.parametrize("gamma", ["0", "5"])
def test_scenes_name_the_network(gamma, broken, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = damaged(broken, "vae", 1e30, "encoder.conv_in.weight")
    fixed = ["--prior", str(broken), "--div-features", "pixels", "--features", "pixels", "-n", "2", "--steps", "2"]
    fixed += ["--encoding", "grid", "--grid", "3", "6", "--samples", "6", "--fine", "0", "--views", "1"]
    assert main(["text-to-3d", "red", "--method", "sds", "--gamma", gamma, *fixed, "--out", "out"]) == 2
    assert name.replace("decoder", "encoder") in capsys.readouterr().err


def test_python_is_reported_too(broken):
    name = damaged(broken, "vae", 1e30)
    f, y = make_operator("sr2", size=16), torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError) as told:
        rsd.restore(y, f, prior=str(broken), features="pixels", particles=2, steps=2, gamma=5.0)
    assert str(told.value).startswith(f"{name} returned values of")


@pytest.mark.parametrize("scale", [1e30, float("nan")])
def test_an_implausible_feature_map_is_named_and_the_decoder_is_not(tiny_folder, scale):
    prior = load_prior(str(tiny_folder("epsilon")))
    embed = Decoded(prior, Function(lambda x: x.flatten(1) * scale, "mine:map"))
    with pytest.raises(ValueError, match='The feature map "mine:map" returned values .* for plausible images'):
        embed(torch.zeros(1, *prior.latent_shape))
    prior.watch.check()


def test_numbers_of_any_scale_are_features(tiny_folder):
    prior = load_prior(str(tiny_folder("epsilon")))
    embed = Decoded(prior, lambda x: x.flatten(1) * 1e12)
    assert float(embed(torch.zeros(1, *prior.latent_shape)).abs().max()) > 1e10


def test_the_built_in_networks_are_far_within_reason():
    prior = load_prior("heads")
    prior.condition("a man with a red hat")
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    prior.epsilon(z, 999)
    prior.encode(prior.decode(z))
    seen = {name.split()[1]: float(most) for name, most in prior.watch.most.items()}
    assert set(seen) == {"text", "UNet", "decoder", "encoder"} and max(seen.values()) < 100
    prior.watch.check()
