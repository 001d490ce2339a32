"""Single checkpoints with the names of the original code, which diffusers converts, and what is said of others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rsd.cli import main
from rsd.priors import load_prior
from rsd.priors.parts import _single

Weights = dict[str, torch.Tensor]


def fused(weights: Weights, names: tuple[str, str, str], to: str) -> None:
    """Join q, k and v, as the original code has them."""
    for kind in ("weight", "bias"):
        if f"{names[0]}.{kind}" in weights:
            weights[f"{to}.{kind}"] = torch.cat([weights.pop(f"{name}.{kind}") for name in names])


def renamed(weights: Weights, rules: dict[str, str]) -> Weights:
    """Replace patterns in the names, the first that fits."""
    out = {}
    for name, value in weights.items():
        fits = next(((a, b) for a, b in rules.items() if re.search(a, name)), ("$^", ""))
        out[re.sub(*fits, name)] = value.contiguous()
    return out


def swapped(weight: torch.Tensor) -> torch.Tensor:
    """Swap scale and shift."""
    return torch.cat(weight.chunk(2)[::-1])


def original_sd3(weights: Weights) -> Weights:
    """Name the weights as Stability's code does."""
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    for k in range(layers):
        attn, to = f"transformer_blocks.{k}.attn", f"joint_blocks.{k}"
        fused(weights, (f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v"), f"{to}.x_block.attn.qkv")
        fused(
            weights, (f"{attn}.add_q_proj", f"{attn}.add_k_proj", f"{attn}.add_v_proj"), f"{to}.context_block.attn.qkv"
        )
    for name in (f"transformer_blocks.{layers - 1}.norm1_context.linear", "norm_out.linear"):
        for kind in ("weight", "bias"):
            weights[f"{name}.{kind}"] = swapped(weights[f"{name}.{kind}"])
    block = r"transformer_blocks\.(\d+)\."
    return renamed(weights, {
        r"^pos_embed\.pos_embed": "pos_embed", r"^pos_embed\.proj": "x_embedder.proj",
        r"^time_text_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
        r"^time_text_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
        r"^time_text_embed\.text_embedder\.linear_1": "y_embedder.mlp.0",
        r"^time_text_embed\.text_embedder\.linear_2": "y_embedder.mlp.2",
        rf"{block}attn\.norm_added_(.)": r"joint_blocks.\1.context_block.attn.ln_\2",
        rf"{block}attn\.norm_(.)": r"joint_blocks.\1.x_block.attn.ln_\2",
        rf"{block}attn\.to_out\.0": r"joint_blocks.\1.x_block.attn.proj",
        rf"{block}attn\.to_add_out": r"joint_blocks.\1.context_block.attn.proj",
        rf"{block}norm1\.linear": r"joint_blocks.\1.x_block.adaLN_modulation.1",
        rf"{block}norm1_context\.linear": r"joint_blocks.\1.context_block.adaLN_modulation.1",
        rf"{block}ff\.net\.0\.proj": r"joint_blocks.\1.x_block.mlp.fc1",
        rf"{block}ff\.net\.2": r"joint_blocks.\1.x_block.mlp.fc2",
        rf"{block}ff_context\.net\.0\.proj": r"joint_blocks.\1.context_block.mlp.fc1",
        rf"{block}ff_context\.net\.2": r"joint_blocks.\1.context_block.mlp.fc2",
        r"^norm_out\.linear": "final_layer.adaLN_modulation.1", r"^proj_out": "final_layer.linear",
    })  # fmt: skip


def original_z_image(weights: Weights) -> Weights:
    """Name the weights as Tongyi's code does."""
    for name in [name for name in weights if name.endswith("attention.to_q.weight")]:
        attn = name.removesuffix(".to_q.weight")
        fused(weights, (f"{attn}.to_q", f"{attn}.to_k", f"{attn}.to_v"), f"{attn}.qkv")
    return renamed(weights, {
        r"^all_final_layer\.2-1": "final_layer", r"^all_x_embedder\.2-1": "x_embedder",
        r"attention\.to_out\.0": "attention.out", r"attention\.norm_(.)": r"attention.\1_norm",
    })  # fmt: skip


ORIGINAL = {"sd3": original_sd3, "z_image": original_z_image, "qwen_image": lambda weights: weights}
"""The names of the original code where they follow from diffusers' (Qwen-Image's are the same)."""


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("family", ORIGINAL)
def test_a_checkpoint_with_the_original_names(family, prefix, saved, tmp_path, capsys):
    if family == "qwen_image" and prefix:
        pytest.skip("diffusers converts no names of Qwen-Image")
    whole = load_prior(str(saved(family)), size=16)
    state = {name: 1.1 * value for name, value in whole.network.state_dict().items()}
    file = tmp_path / "original.safetensors"
    save_file({prefix + name: value for name, value in ORIGINAL[family](dict(state)).items()}, file)
    tuned = load_prior(f"{file}@{saved(family)}", size=16)
    own = tuned.network.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())
    assert main(["text-to-image", "a dog", "--dry-run", "--features", "pixels", "--prior", tuned.name]) == 0
    assert f"GiB in {file}" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "flux2", "z_image", "qwen_image", "sana", "pixart"])
def test_which_networks_have_a_conversion(family, saved):
    """All of diffusers but PixArt's; the configuration is the pipeline's, so none is fetched."""
    import diffusers

    from rsd.priors.index import find

    found = find(f"absent.safetensors@{saved(family)}")
    assert found.family is not None
    kind = getattr(diffusers, found.family.parts[found.family.network][0])
    assert hasattr(kind, "from_single_file") == (family != "pixart")
    if family == "pixart":
        with pytest.raises(ValueError, match="is a single file, which PixArtTransformer2DModel has no conversion of"):
            _single(kind, found, "transformer", torch.float32)


def test_the_configuration_of_a_hub_pipeline_that_is_not_cached_must_be_fetched(tmp_path):
    file = Path(tmp_path, "x.safetensors")
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(
        ValueError, match="owner/absent.* is not in the local cache and the hub cannot be reached; go online"
    ):
        load_prior(f"{file}@owner/absent")
