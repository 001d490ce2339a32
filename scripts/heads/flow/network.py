"""The transformer of the flow prior, and its pipeline.

Prompts condition it through the pooled state of the text encoder alone, as classes do in DiT (Peebles & Xie 2023):
the embedding of the text tokens has the weight 0. All 64 text tokens are then equal, in every block, so training
computes one of them and gives it the weight of 64 in the attention (:class:`OneToken`). The result is exactly what the
pipeline computes with 64, in half the time.

The class of the pipeline requires two CLIP encoders and reads the states before the last layer. So the encoder of
`heads` gets a third layer, which adds nothing until :mod:`.words` trains it, and the second encoder returns zeros.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scripts.heads.latent import LENGTH, WIDTH

CHANNELS, LAYERS, HEADS = 128, 9, 2  # width, blocks and attention heads of the transformer
SILENT = 16  # width of the second text encoder, which returns zeros


def build_transformer() -> SD3Transformer2DModel:
    """Build the transformer (5.2 million parameters). Blocks start as the identity (Peebles & Xie 2023), v as 0."""
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=LAYERS, num_attention_heads=HEADS,
        attention_head_dim=CHANNELS // HEADS, joint_attention_dim=WIDTH + SILENT, caption_projection_dim=CHANNELS,
        pooled_projection_dim=WIDTH + SILENT, pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    modulations = [m.linear for b in transformer.transformer_blocks for m in (b.norm1, b.norm1_context)]
    for layer in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.zeros_(transformer.context_embedder.weight)
    transformer.context_embedder.weight.requires_grad_(False)
    return transformer


def start_from(transformer: SD3Transformer2DModel, folder: Path) -> None:
    """Load the weights in ``folder``, which may have fewer blocks: the others stay as :func:`build_transformer` left
    them, before the last block, which has no text to hand on. So the result predicts what those weights do."""
    theirs = SD3Transformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    ours, last = len(transformer.transformer_blocks) - 1, len(theirs.transformer_blocks) - 1
    if last > ours:
        raise ValueError(f"{folder} has {last + 1} blocks, and the flow prior {ours + 1}; take weights with fewer.")
    old, new = f"transformer_blocks.{last}.", f"transformer_blocks.{ours}."
    weights = {(new + k.removeprefix(old) if k.startswith(old) else k): v for k, v in theirs.state_dict().items()}
    missing, unexpected = transformer.load_state_dict(weights, strict=False)
    between = tuple(f"transformer_blocks.{k}." for k in range(last, ours))
    assert not unexpected and all(name.startswith(between) for name in missing), (missing, unexpected)


class OneToken:
    """Joint attention to one text token that stands for ``LENGTH`` equal ones."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, **_: Any) -> tuple[Any, Any]:
        """Attend from and to hidden_states [B, n, d] and encoder_hidden_states [B, 1, d]."""

        def split(x: torch.Tensor, norm: Any = None) -> torch.Tensor:
            x = x.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            return x if norm is None else norm(x)

        x, word = hidden_states, encoder_hidden_states
        query = torch.cat([split(attn.to_q(x), attn.norm_q), split(attn.add_q_proj(word), attn.norm_added_q)], 2)
        key = torch.cat([split(attn.to_k(x), attn.norm_k), split(attn.add_k_proj(word), attn.norm_added_k)], 2)
        value = torch.cat([split(attn.to_v(x)), split(attn.add_v_proj(word))], 2)
        bias = query.new_zeros(key.shape[2])
        bias[-1] = math.log(LENGTH)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.expand(query.shape[2], -1))
        out = out.transpose(1, 2).flatten(2)
        word = out[:, -1:] if attn.context_pre_only else attn.to_add_out(out[:, -1:])
        return attn.to_out[0](out[:, :-1]), word


def one_token(transformer: SD3Transformer2DModel, on: bool = True) -> None:
    """Let ``transformer`` take one text token in place of ``LENGTH`` equal ones, or again all of them."""
    transformer.set_attn_processor(OneToken() if on else JointAttnProcessor2_0())


def velocity(transformer: SD3Transformer2DModel, z: torch.Tensor, s: torch.Tensor, pooled: torch.Tensor) -> Any:
    """Return v [B, 4, 16, 16] at z [B, 4, 16, 16] and s [B] for pooled texts [B, WIDTH], after :func:`one_token`."""
    text = F.pad(pooled, (0, SILENT))
    return transformer(z, torch.zeros_like(text)[:, None], text, 1000 * s, return_dict=False)[0]


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build the scheduler of a flow without a shift, since the latents are small."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def text_encoder_of(encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """Return a copy of ``encoder`` with a further layer that adds nothing and an identity projection. The states before
    its last layer are those of ``encoder`` before the final norm, and the pooled state is the same."""
    config = CLIPTextConfig.from_dict(
        {**encoder.config.to_dict(), "num_hidden_layers": encoder.config.num_hidden_layers + 1}
    )
    wide = CLIPTextModelWithProjection(config)
    theirs = encoder.state_dict()
    prefix = "" if next(iter(wide.state_dict())).split(".")[0] == next(iter(theirs)).split(".")[0] else "text_model."
    missing, unexpected = wide.load_state_dict({prefix + k: v for k, v in theirs.items()}, strict=False)
    last = f"encoder.layers.{encoder.config.num_hidden_layers}."
    assert not unexpected and all(last in k or k == "text_projection.weight" for k in missing), (missing, unexpected)
    with torch.no_grad():
        for name, value in wide.named_parameters():
            if last in name and ("out_proj" in name or "fc2" in name):
                value.zero_()
        wide.text_projection.weight.copy_(torch.eye(WIDTH))
    return wide.eval().requires_grad_(False)


def silent_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Build the second encoder that the pipeline requires. It returns zeros."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=SILENT, intermediate_size=SILENT, projection_dim=SILENT,
        num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    silent = CLIPTextModelWithProjection(config).eval().requires_grad_(False)
    for value in silent.parameters():
        torch.nn.init.zeros_(value)
    return silent


def assemble(
    transformer: SD3Transformer2DModel, heads: Path, encoder: CLIPTextModelWithProjection | None = None
) -> StableDiffusion3Pipeline:
    """Build the pipeline of ``transformer`` with the other parts from the folder ``heads``. ``encoder``: the text
    encoder; None: that of ``heads``, with a layer that adds nothing."""
    one_token(transformer, False)
    vae = AutoencoderKL.from_pretrained(heads / "vae", torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)  # the class adds it, and cannot add None
    tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
    if encoder is None:
        encoder = text_encoder_of(CLIPTextModel.from_pretrained(heads / "text_encoder", dtype=torch.float32))
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=build_scheduler(), vae=vae.eval(),
        text_encoder=encoder, tokenizer=tokenizer,
        text_encoder_2=silent_encoder(tokenizer), tokenizer_2=tokenizer, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


@torch.no_grad()
def embed(pipe: StableDiffusion3Pipeline, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result of ``pipe.encode_prompt(..., max_sequence_length=0)`` without running the second encoder."""
    tokens = pipe.tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    out = pipe.text_encoder(tokens.to(pipe.text_encoder.device), output_hidden_states=True)
    wide = functools.partial(F.pad, pad=(0, SILENT))
    return wide(out.hidden_states[-2]), wide(out.text_embeds)


@torch.no_grad()
def pooled_states(encoder: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Return the pooled states [n, WIDTH] of captions. The encoder is causal, so padding after the longest caption
    has no effect and is left out."""
    tokens = tokenizer(captions, padding=True, max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    return encoder(tokens.to(encoder.device)).text_embeds
