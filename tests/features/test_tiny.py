"""A cheaper force: a small decoder, smaller images, every k-th step."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import rsd
from rsd.cli import main
from rsd.features import Decoded, load_features, resized
from rsd.features.tiny_decoder import load_autoencoder, load_decoder
from rsd.priors import load_prior
from rsd.tasks.inverse.operators import make_operator, measure
from tests.inverse.test_rlsd import BASE, result


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory):
    """Return the folder of a random AutoencoderTiny for the tiny pipeline's latents."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "blocks": (1, 1)}
    model = AutoencoderTiny(
        encoder_block_out_channels=sizes["block_out_channels"], decoder_block_out_channels=sizes["block_out_channels"],
        num_encoder_blocks=sizes["blocks"], num_decoder_blocks=sizes["blocks"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-decoder")
    model.save_pretrained(folder)
    return folder


def test_a_small_decoder_takes_the_prior_s_latents_and_counts(tiny_folder, tiny_decoder):
    from diffusers import AutoencoderTiny

    prior = load_prior(str(tiny_folder()))
    decode = load_decoder(str(tiny_decoder), prior)
    z = torch.randn(3, *prior.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = decode(z)
    assert x.shape == (3, 3, 16, 16) and not any(p.requires_grad for p in decode.parameters())
    torch.testing.assert_close(x, AutoencoderTiny.from_pretrained(tiny_decoder).decode(z).sample)
    x.sum().backward()
    assert prior.calls == {"tiny_forward": 3, "tiny_backward": 3} and z.grad is not None
    phi = Decoded(prior, load_features("pixels", size=8), decode)(z)
    torch.testing.assert_close(phi, resized(x, 8).flatten(1))
    assert phi.shape == (3, 3 * 8 * 8) and "decoder_forward" not in prior.calls


def test_what_does_not_fit_is_reported(tiny_folder, tiny_decoder, tiny_heads_pixels, tmp_path):
    from diffusers import AutoencoderTiny

    prior = load_prior(str(tiny_folder()))
    with pytest.raises(ValueError, match='Unknown small decoder "tinny". Did you mean "tiny"?'):
        load_decoder("tinny", prior)
    with pytest.raises(ValueError, match="is an AutoencoderKL; give an AutoencoderTiny"):
        load_decoder(str(tiny_folder() / "vae"), prior)
    with pytest.raises(ValueError, match='"tiny" is for the built-in heads, not for the prior'):
        load_decoder("tiny", prior)
    twice = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    twice.save_pretrained(tmp_path / "twice")
    with pytest.raises(ValueError, match="returns images of 32 px for the latents .* makes 16 px"):
        load_decoder(str(tmp_path / "twice"), prior)
    with pytest.raises(ValueError, match="takes latents of 4 channels, which the prior"):
        load_decoder(str(tiny_decoder), load_prior(str(tiny_heads_pixels)))


def test_a_small_autoencoder_replaces_the_prior_s_in_proximal_guidance(tiny_folder, tiny_decoder):
    prior, f = load_prior(str(tiny_folder())), make_operator("inpaint_half_face", size=16)
    y = measure(f, torch.zeros(1, 3, 16, 16), 0.01, seed=0)

    def go(**changes):
        prior.calls.clear()
        found = rsd.restore(
            y, f, prior=prior, features="pixels", method="proximal-guidance", gamma=0.0, particles=2, steps=3, **changes
        )
        return found.images, dict(prior.calls)

    images, calls = go()
    assert calls["decoder_forward"] == 2 * 4 and calls["encoder_forward"] == 2 * 2 * 3 and "tiny_forward" not in calls
    other, calls = go(hyper=[f"coder={tiny_decoder}"])
    assert calls["tiny_forward"] == 2 * 3 and calls["tiny_encoder_forward"] == 2 * 2 * 3
    assert calls["decoder_forward"] == 2 and "encoder_forward" not in calls  # the result is the prior's own
    assert not torch.allclose(images, other, atol=1e-3)
    coder = load_autoencoder(str(tiny_decoder), prior)
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    assert coder.encode(z.new_zeros(2, 3, 16, 16)).shape == z.shape
    with pytest.raises(ValueError, match='Unknown small decoder "tinny"'):
        go(hyper=["coder=tinny"])
    with pytest.raises(ValueError, match='The built-in small decoder "tiny" has no encoder'):
        go(hyper=["coder=tiny"])


def test_every_second_step_repels_twice_as_strongly():
    every, records, _ = result(replace(BASE, gamma=2.0, repel_every=2))
    assert [r.repulsion > 0 for r in records] == [True, False] * 10
    _, strong, _ = result(replace(BASE, gamma=4.0))
    _, plain, _ = result(replace(BASE, gamma=2.0))
    assert records[0].repulsion == pytest.approx(2 * plain[0].repulsion, rel=1e-12)
    assert records[0].losses == strong[0].losses
    assert records[1].losses["coupling"] == strong[1].losses["coupling"] != plain[1].losses["coupling"]
    for chunk in (1, 3):
        cut, _, _ = result(replace(BASE, gamma=2.0, repel_every=2, chunk=chunk))
        torch.testing.assert_close(cut, every, rtol=0, atol=1e-8)


def test_a_run_with_a_cheap_force(tiny_folder, tiny_decoder, tiny_vit, tmp_path, capsys):
    from PIL import Image

    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "photo.png")
    command = [
        "restore",
        str(tmp_path / "photo.png"),
        "--clean",
        "--task",
        "inpaint_half_face",
        "--prior",
        str(tiny_folder()),
        "--steps",
        "4",
        "-n",
        "2",
    ]
    cheap = ["--features", str(tiny_vit), "--feature-size", "8", "--force-decoder", str(tiny_decoder)]
    out = tmp_path / "out"
    flags = [*cheap, "--repel-every", "2", "--gamma", "3", "--div-features", "pixels"]
    assert main([*command, "--method", "rlsd", *flags, "--out", str(out)]) == 0
    calls = json.loads((out / "metrics.json").read_text())["network_calls"]
    assert calls["tiny_forward"] == calls["tiny_backward"] == 2 * 2 and calls["decoder_forward"] == 2 * (4 + 1)
    said = (out / "config.yaml").read_text()
    assert "repel_every: 2" in said and "feature_size: 8" in said
    capsys.readouterr()
    assert main([*command, "--method", "nonrepuls", "--repel-every", "2", "--out", str(tmp_path / "no")]) == 2
    assert "--repel-every goes with the methods rlsd, nonaug, hybrid, but the method is" in capsys.readouterr().err
    assert main([*command, "--force-decoder", "tinny", "--out", str(tmp_path / "no")]) == 2
    assert 'Unknown small decoder "tinny"' in capsys.readouterr().err


def test_autocast_multiplies_in_bfloat16(tiny_folder, tiny_vit):
    plain, fast = (load_prior(str(tiny_folder())) for _ in range(2))
    fast.autocast = True  # load_prior refuses it where it is slow
    z = torch.randn(2, *plain.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for prior in (plain, fast):
        embed = Decoded(prior, load_features(str(tiny_vit)))
        with torch.no_grad():
            eps = prior.epsilon(z, 500)
        phi = embed(z)
        found.append((eps, prior.decode(z), phi, torch.autograd.grad((phi * torch.arange(8)).sum(), z)[0]))
    errors = [float(((a - b).norm() / a.norm()).detach()) for a, b in zip(*found, strict=True)]
    assert all(b.dtype == torch.float32 for b in found[1]) and all(1e-5 < e < 0.1 for e in errors), errors


def test_autocast_goes_with_float32(capsys, tmp_path):
    (tmp_path / "a.png").touch()
    assert main(["restore", str(tmp_path / "a.png"), "--autocast", "--dtype", "float16"]) == 2
    assert "--autocast goes with --dtype float32 or bfloat16, not float16" in capsys.readouterr().err
