"""Loading weights without and with a variant, in shards, from folders and from the hub cache."""

from __future__ import annotations

import json
import warnings

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from rsd import metrics
from rsd.features import load_features
from rsd.features.tiny_decoder import load_decoder
from rsd.hub import weights
from rsd.hub.weights import find_weights
from rsd.metrics.aesthetic import _read
from rsd.priors import load_prior
from tests.priors.test_pixel import build_if

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "mine": torch.float32}
VARIANTS = [("fp16", None), ("bf16", None), ("mine", None), ("fp16", "20KB"), (None, "20KB"), (None, None)]
"""The variant in which a model is saved (None: plain) and the size limit of its files."""


def saved(model, folder, variant, most):
    """Write a model; return its tensors in the precision of the file."""
    model = model.to(DTYPES.get(variant, torch.float32))
    model.save_pretrained(folder, variant=variant, **({"max_shard_size": most} if most else {}))
    names = {file.name for file in folder.iterdir()}
    assert any("index" in name for name in names) == bool(most)
    assert not variant or not names & {"model.safetensors", "diffusion_pytorch_model.safetensors"}
    return {name: value.float() for name, value in model.state_dict().items()}


def same(model, tensors):
    found = model.state_dict()
    return found.keys() == tensors.keys() and all(
        value.dtype == torch.float32 and torch.equal(value, tensors[name]) for name, value in found.items()
    )


@pytest.fixture
def told():
    """Return the warnings from all parts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: {str(one.message) for one in caught if "has only variants of its weights" in str(one.message)}


def named(variant, what, folder):
    """Return the warning if weights without a variant are preferred."""
    taken = f'using "{variant}" in its saved precision.'
    return {f'The {what} "{folder}" has only variants of its weights; {taken}'} if variant else set()


@pytest.mark.parametrize(("variant", "most"), VARIANTS)
def test_latent_priors(tiny_pipeline, tmp_path, variant, most, told):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    expected = {}
    for part in ("unet", "vae", "text_encoder"):
        for file in (tmp_path / part).glob("*.safetensors"):
            file.unlink()
        expected[part] = saved(getattr(pipeline, part), tmp_path / part, variant, most)
    prior = load_prior(str(tmp_path))
    assert all(same(getattr(prior, part), tensors) for part, tensors in expected.items())
    assert told() == named(variant, "prior", tmp_path)


@pytest.mark.parametrize(("variant", "most"), [("bf16", None), ("fp16", "20KB"), (None, None)])
def test_pixel_priors_and_t5(tmp_path, variant, most, told):
    pipeline = build_if()
    pipeline.save_pretrained(tmp_path)
    expected = {}
    for part in ("unet", "text_encoder"):
        for file in (tmp_path / part).glob("*.safetensors"):
            file.unlink()
        expected[part] = saved(getattr(pipeline, part), tmp_path / part, variant, most and "5KB")
    prior = load_prior(str(tmp_path))
    _, encoder = prior.text._load()
    assert same(prior.unet, expected["unet"]) and same(encoder, expected["text_encoder"])
    assert told() == named(variant, "prior", tmp_path)


@pytest.mark.parametrize(("variant", "most"), [("mine", None), ("fp16", "20KB")])
def test_feature_maps_clip_and_small_decoders(tiny_folder, tiny_vit, tmp_path, variant, most, told):
    from diffusers import AutoencoderTiny
    from transformers import AutoModel, CLIPConfig, CLIPModel, CLIPTokenizer

    vit, clip, tiny = (tmp_path / name for name in ("vit", "clip", "tiny"))
    expected = saved(AutoModel.from_pretrained(tiny_vit, add_pooling_layer=False), vit, variant, most and "2KB")
    assert same(load_features(str(vit)).model, expected)

    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder("epsilon") / "tokenizer")
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**layers, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config={**layers, "image_size": 16, "patch_size": 8}))
    expected = saved(model, clip, variant, most)
    tokenizer.save_pretrained(clip)
    assert same(metrics.load_clip(str(clip))[0], expected)

    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    decoder = AutoencoderTiny(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), **widths)
    expected = saved(decoder, tiny, variant, most and "5KB")
    assert same(load_decoder(str(tiny), load_prior(str(tiny_folder()))).model, expected)
    whats = {"feature map": vit, "CLIP model": clip, "small decoder": tiny}
    assert told() == set().union(*(named(variant, what, folder) for what, folder in whats.items()))


def test_aesthetic_heads(tmp_path, hub_cache, told):
    head = {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.ones(2), "1.weight": torch.ones(1, 2)}
    for variant in ("fp16", "bf16"):
        folder = tmp_path / variant
        folder.mkdir()
        save_file({k: v.to(DTYPES[variant]) for k, v in head.items()}, folder / f"model.{variant}.safetensors")
        hub_cache(f"owner/head-{variant}", folder)
        for name in (str(folder), f"owner/head-{variant}"):
            found = _read(name, None)
            assert found.keys() == head.keys() and all(torch.equal(found[k].float(), v) for k, v in head.items())
    shards = tmp_path / "shards"
    shards.mkdir()
    for k, name in enumerate(head):
        save_file({name: head[name]}, shards / f"model-{k + 1:05d}-of-00003.safetensors")
    listed = {name: f"model-{k + 1:05d}-of-00003.safetensors" for k, name in enumerate(head)}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    found = _read(str(shards), None)
    assert found.keys() == head.keys() and all(torch.equal(found[k], v) for k, v in head.items())
    assert len(told()) == 4


FILES = ("", "fp16", "bf16", "fp32", "ema", "non_ema", "zz")


@pytest.mark.parametrize(
    ("dtype", "there", "taken"),
    [
        (torch.float32, FILES, None), (torch.float64, FILES, None), (torch.float32, FILES[1:], "fp32"),
        (torch.float32, ("fp16", "bf16", "zz"), "fp16"), (torch.float32, ("bf16", "zz"), "bf16"),
        (torch.float32, ("zz", "non_ema"), "non_ema"), (torch.float16, FILES, "fp16"), (torch.bfloat16, FILES, "bf16"),
        (torch.bfloat16, ("", "fp16"), "fp16"), (torch.float16, ("", "bf16"), None), (torch.float16, ("bf16",), "bf16"),
    ],
)  # fmt: skip
def test_which_variant_is_taken(tmp_path, dtype, there, taken):
    for variant in there:
        (tmp_path / f"model.{variant}.safetensors".replace("..", ".")).touch()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "absent.safetensors"}}')
    if "" not in there:
        (tmp_path / "model.safetensors.index.json").unlink()
    found = find_weights("x", tmp_path, what="prior", dtype=dtype)
    name = f"model.{taken}.safetensors" if taken else "model.safetensors"  # the whole one, not the shards
    assert (found.variant, found.files) == (taken, (tmp_path / name,))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"pytorch_model.bin": ""}, "contains pytorch_model.bin, but no model.safetensors. Only safetensors are loaded "
            "(pickles can run code): convert it with save_pretrained(FOLDER)."),
        ({"other.safetensors": ""}, "contains no model.safetensors, nor one of a variant (model.fp16.safetensors); "
            "write it again with save_pretrained."),
        ({"model.safetensors.index.fp16.json": '{"weight_map": {"a": "model.fp16-00001-of-00002.safetensors"}}',
            "pytorch_model.bin": ""}, "model.fp16-00001-of-00002.safetensors is missing; copy or write it again."),
        ({"model.safetensors.index.json": '{"weight_map": {"a": "../a.safetensors"}}'},
            "is not a list of safetensors; copy or write it again."),
        ({"model.safetensors.index.json": "{"}, "is not a list of safetensors; copy or write it again."),
        ({}, "contains no model.safetensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_reported_with_the_remedy(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as caught:
        find_weights(str(tmp_path), tmp_path, what="prior")
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert ("convert" in str(caught.value)) == (list(files) == ["pytorch_model.bin"])


def test_a_damaged_variant_is_not_to_be_converted(tiny_vit, tmp_path):
    from transformers import AutoModel

    saved(AutoModel.from_pretrained(tiny_vit, add_pooling_layer=False), tmp_path, "fp16", None)
    file = tmp_path / "model.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        ValueError, match="did not load: .* A file is damaged: download, copy or write it again.$"
    ) as caught:
        load_features(str(tmp_path))
    assert "convert" not in str(caught.value)


def test_hub_models_of_a_variant_only(tiny_pipeline, hub_cache, tmp_path):
    """They come from the cache, since the tests' hub does not respond; shards too."""
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="50KB")
    hub_cache("owner/half-only", tmp_path)
    prior = load_prior("owner/half-only")
    assert same(prior.unet, {k: v for k, v in pipeline.unet.state_dict().items()})
    assert (tmp_path / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").is_file()


def test_the_hub_is_asked_for_what_is_better_than_the_cache(monkeypatch, hub_cache, tmp_path):
    """A variant in the cache does not replace the full-precision weights on the hub."""
    save_file({"a": torch.ones(1)}, tmp_path / "model.fp16.safetensors")
    hub_cache("owner/both", tmp_path)
    asked = []
    listing = ["model.fp16.safetensors", "model.safetensors", "part/model.bf16.safetensors"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: asked.append(name) or listing)
    weights._listed.cache_clear()

    def fetch(name, file, *, revision, what):
        asked.append(file)
        return tmp_path / file

    monkeypatch.setattr(weights, "fetch", fetch)
    for dtype, taken in ((torch.float32, "model.safetensors"), (torch.float16, "model.fp16.safetensors")):
        asked.clear()
        assert find_weights("owner/both", None, what="prior", dtype=dtype).files == (tmp_path / taken,)
        assert asked == (["owner/both", taken] if dtype == torch.float32 else [taken])
    found = find_weights("owner/both", None, what="prior", part="part")
    assert found.variant == "bf16" and asked[-1] == "part/model.bf16.safetensors"
    weights._listed.cache_clear()
