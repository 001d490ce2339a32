"""Loading pipelines of the families from folders: names, sizes, variants, and text encoders that are released."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from rsd.priors import check_prior_name, image_size, index, is_latent, load_prior
from rsd.priors.families import FAMILIES
from rsd.priors.families.load import prior_of
from tests.priors.families.tiny import BUILD, build


def test_every_family_has_a_tiny_pipeline():
    assert [family.module.split(":")[0] for family in FAMILIES] == list(BUILD)


@torch.no_grad()
@pytest.mark.parametrize("family", BUILD)
def test_a_folder_loads_as_the_prior_of_its_pipeline(family, saved, tmp_path):
    folder = saved(family)
    assert is_latent(str(folder))
    prior = load_prior(str(folder), size=(32, 16))
    own = prior_of(build(family, tmp_path), size=(32, 16))
    assert prior.latent_shape == own.latent_shape and prior.image_size == 32
    z = torch.randn(2, *own.latent_shape, generator=torch.Generator().manual_seed(0))
    got, expected = (p.epsilon(z, 500, p.condition("red dog", "", 2.0)) for p in (prior, own))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.decode(z), own.decode(z), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "side"), [("sdxl", 16), ("sd3", 16), ("flux", 256), ("flux2", 256), ("sana", 16), ("pixart", 16)]
)
def test_the_size_of_pictures_is_told_by_small_files(family, side, saved, tmp_path):
    """The tiny autoencoders have a factor of 2, the real ones 8 or 32. FLUX's configuration contains no size."""
    for part in ("transformer", "unet", "vae", "text_encoder"):
        (tmp_path / part).mkdir()
        if (saved(family) / part).exists():
            shutil.copy(saved(family) / part / "config.json", tmp_path / part)
    shutil.copy(saved(family) / "model_index.json", tmp_path)
    assert image_size(str(tmp_path)) == side


@pytest.mark.parametrize("fits", [True, False])
def test_text_encoders_are_on_one_device(fits, saved, monkeypatch):
    """If T5 does not fit on the GPU, CLIP stays on the CPU too: SD3's pipeline puts all tokens on one device."""

    class Encoder:
        device = torch.device("cpu")

        def to(self, device):
            self.device = torch.device(device)
            return self

    prior = load_prior(str(saved("sd3")), size=16)
    gpu = prior.device = torch.device("cuda", 0)
    free = iter([gpu, gpu, gpu if fits else torch.device("cpu")])
    monkeypatch.setattr("rsd.priors.families.load.load_network", lambda *_: Encoder())
    monkeypatch.setattr("rsd.priors.families.load.roomy", lambda *_: next(free))
    prior._load_text(prior)
    encoders = [getattr(prior.pipeline, part) for part in ("text_encoder", "text_encoder_2", "text_encoder_3")]
    assert {encoder.device.type for encoder in encoders} == {"cuda" if fits else "cpu"}


def test_text_encoders_come_with_the_first_new_prompt_and_go(saved):
    prior = load_prior(str(saved("sd3")), size=16)
    assert prior.pipeline.text_encoder is None
    first = prior.condition("a red tree", "", 2.0)
    assert prior.pipeline.text_encoder_3 is not None
    prior.release_text_encoder()
    assert prior.pipeline.text_encoder is None and prior.pipeline.text_encoder_3 is None
    assert torch.equal(prior.condition("a red tree").embeddings, first.embeddings)
    again = load_prior(str(saved("sd3")), size=16)
    cached = again.condition("a red tree", "", 2.0)
    assert again.pipeline.text_encoder is None
    for name in ("embeddings", "pooled", "negative", "negative_pooled"):
        assert torch.equal(getattr(cached, name), getattr(first, name))


def test_a_pipeline_in_memory_cannot_embed_after_it_was_released(tmp_path):
    prior = prior_of(build("flux", tmp_path), size=16)
    prior.condition("red")
    prior.release_text_encoder()
    prior.condition("red")
    with pytest.raises(ValueError, match='released before the prompt "blue"'):
        prior.condition("blue")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:this processor has no float16", "ignore:.*has only variants")
def test_a_folder_of_a_variant_in_half_precision(saved, tmp_path):
    pipe = build("flux", tmp_path / "words").to(torch.float16)
    pipe.save_pretrained(tmp_path / "model", variant="fp16")
    prior = load_prior(str(tmp_path / "model"), dtype="float16", size=16)
    assert prior.network.dtype == torch.float16 and prior.vae.dtype == prior.dtype == torch.float32
    z = torch.randn(1, *prior.latent_shape)
    got = prior.epsilon(z, 500, prior.condition("red"))
    assert got.dtype == torch.float32
    whole = load_prior(str(saved("flux")), size=16)
    torch.testing.assert_close(got, whole.epsilon(z, 500, whole.condition("red")), rtol=0, atol=0.02)


def test_sd3_without_t5_loads(tmp_path):
    pipe = build("sd3", tmp_path / "words", with_t5=False)
    pipe.save_pretrained(tmp_path / "model")
    listed = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert listed["text_encoder_3"] == [None, None]
    assert load_prior(str(tmp_path / "model"), size=16).condition("red").embeddings.shape[1] == 16 + 256


def test_other_parts_schedulers_and_sizes_are_refused(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved("flux"), folder)
    listed = json.loads((folder / "model_index.json").read_text())

    def change(**parts):
        (folder / "model_index.json").write_text(json.dumps({**listed, **parts}))

    change(vae=["diffusers", "AutoencoderTiny"])
    with pytest.raises(ValueError, match="The vae of .* is a diffusers.AutoencoderTiny; it must be an AutoencoderKL"):
        index.find(str(folder))
    change(text_encoder_2=[None, None])
    with pytest.raises(ValueError, match="The text_encoder_2 of"):
        index.find(str(folder))
    change(scheduler=["diffusers", "DDIMScheduler"])
    with pytest.raises(
        ValueError, match="DDIMScheduler, is not a flow scheduler; use a FlowMatchEulerDiscreteScheduler"
    ):
        load_prior(str(folder), size=16)
    change()
    with pytest.raises(ValueError, match="multiples of 4 px; got 18 x 18"):
        load_prior(str(folder), size=18)
    with pytest.raises(ValueError, match="makes pictures of one size"):
        load_prior("heads", size=64)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_a_single_checkpoint_with_the_rest_of_a_pipeline(family, saved, tmp_path):
    """The file uses diffusers' own names; diffusers converts other names."""
    from safetensors.torch import save_file

    whole = load_prior(str(saved(family)), size=16)
    changed = {k: 1.1 * v for k, v in whole.network.state_dict().items()}
    file = tmp_path / "tuned.safetensors"
    save_file(changed, file)
    name = f"{file}@{saved(family)}"
    check_prior_name(name)
    tuned = load_prior(name, size=16)
    assert tuned.name == name and all(torch.equal(v, changed[k]) for k, v in tuned.network.state_dict().items())
    z = torch.randn(1, *whole.latent_shape)
    assert torch.equal(tuned.decode(z), whole.decode(z))
    assert not torch.equal(tuned.epsilon(z, 500), whole.epsilon(z, 500))


def test_single_checkpoints_that_do_not_load(saved, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "tuned.safetensors"
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match='is a single file; .* or "/.*tuned.safetensors@PIPELINE"'):
        load_prior(str(file))
    with pytest.raises(ValueError, match=r'There is no file ".*absent.safetensors"'):
        load_prior(f"{tmp_path}/absent.safetensors@{saved('flux')}")
    with pytest.raises(ValueError, match="did not load as the transformer of .*; name the pipeline"):
        load_prior(f"{file}@{saved('flux')}")
    with pytest.raises(ValueError, match="PixArtTransformer2DModel has no conversion of; give a folder"):
        load_prior(f"{file}@{saved('pixart')}")
    file.write_bytes(b"none")
    with pytest.raises(ValueError, match="is no safetensors file that can be read"):
        load_prior(f"{file}@{saved('flux')}")


@torch.no_grad()
def test_a_tiny_decoder_takes_the_latents_as_the_network_has_them(tmp_path):
    """A decoder like TAESD3 and TAEF1, for the force, has no factor and no shift of its own."""
    from diffusers import AutoencoderTiny

    from rsd.features.tiny_decoder import load_decoder

    prior = prior_of(build("flux", tmp_path / "words"), size=16)
    tiny = AutoencoderTiny(
        latent_channels=4, decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1), scaling_factor=1.0,
        encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
    )  # fmt: skip
    tiny.save_pretrained(tmp_path / "tiny")
    z = torch.randn(2, *prior.latent_shape)
    torch.testing.assert_close(load_decoder(str(tmp_path / "tiny"), prior)(z), tiny.decode(z).sample)
    other = prior_of(build("flux2", tmp_path / "words"), size=16)
    with pytest.raises(ValueError, match="latents of 4 channels"):
        load_decoder(str(tmp_path / "tiny"), other)


@pytest.mark.parametrize("model", ["SD3.5 medium", "PixArt-Sigma", "SANA 1.6B"])
def test_the_sizes_in_the_table_are_those_of_the_real_configurations(model):
    from scripts import families

    make, _, texts = families.MODELS[model]
    with torch.device("meta"):
        pipe = make()
    family = next(family for family in FAMILIES if family.pipeline == type(pipe).__name__)
    counted = families.billions(pipe.transformer), texts, families.billions(pipe.vae)
    assert [round(size, 2) for size in counted] == [round(size, 2) for size in family.sizes]


def test_large_states_of_a_language_model_are_not_taken_for_damage(tmp_path):
    prior = prior_of(build("z_image", tmp_path), size=16)
    prior.embed = lambda text, device, negative: {"embeddings": torch.full((1, 3, 8), 1e6)}
    prior.condition("red")
    prior.watch.check()
    prior.embed = lambda text, device, negative: {"embeddings": torch.full((1, 3, 8), float("nan"))}
    prior.condition("blue")
    with pytest.raises(ValueError, match="The text encoder of the prior"):
        prior.watch.check()
