"""The flow prior: a small SD3 transformer trained by rectified flow on the latents and captions of `heads`.

Autoencoder, tokenizer and text encoder are those of `heads`, frozen; only the transformer is trained. The pipeline is
an ordinary StableDiffusion3Pipeline without T5. This class requires two CLIP encoders and reads the states before the
last layer. So the encoder of `heads` gets a third layer that changes nothing, and the second encoder returns zeros.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from rsd.heads.data import head_from_row, make_shard
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import averaged, fit, hold
from scripts.heads.latent import LENGTH, WIDTH, sample_caption
from scripts.heads.muon import MuonAdam

LAYERS = 4
SILENT = 16  # width of the second text encoder, which returns zeros
SHARD = 500  # heads per shard
FIRST_SHARDS, STEPS_PER_SHARD = 1, 20  # shards at the start, and steps per further shard


def build_transformer() -> SD3Transformer2DModel:
    """Build the transformer (5.1 million parameters). Blocks start as the identity (Peebles & Xie 2023), v as 0."""
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=LAYERS, num_attention_heads=3,
        attention_head_dim=64, joint_attention_dim=WIDTH + SILENT, caption_projection_dim=192,
        pooled_projection_dim=WIDTH + SILENT, pos_embed_max_size=16, qk_norm="rms_norm",
    )  # fmt: skip
    modulations = [m.linear for b in transformer.transformer_blocks for m in (b.norm1, b.norm1_context)]
    for layer in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return transformer


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


def assemble(transformer: SD3Transformer2DModel, heads: Path) -> StableDiffusion3Pipeline:
    """Build the pipeline of ``transformer`` with the other parts from the folder ``heads``."""
    vae = AutoencoderKL.from_pretrained(heads / "vae", torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)  # the class adds it, and cannot add None
    tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(heads / "text_encoder", dtype=torch.float32)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=build_scheduler(), vae=vae.eval(),
        text_encoder=text_encoder_of(encoder), tokenizer=tokenizer,
        text_encoder_2=silent_encoder(tokenizer), tokenizer_2=tokenizer, text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Return the means of the latents, float32 [n, 4, 16, 16], unscaled. Not in bfloat16, which may be emulated."""
    parts = torch.from_numpy(images).split(50)
    return torch.cat([vae.encode(to_tensor(part.numpy(), vae.device)).latent_dist.mean for part in parts])


class Shards:
    """Latents [n, 4, 16, 16] (posterior means, unscaled) and heads of the training shards, rendered if missing.

    The number of shards depends on the step alone, so a resumed run uses the same data. ``seen``: number of heads that
    the current step draws from.
    """

    def __init__(self, vae: AutoencoderKL, folder: Path, shards: int, count: int = SHARD):
        self.vae, self.folder, self.shards, self.count = vae, folder, shards, count
        self.latents = torch.zeros(0)
        self.rows: list[np.ndarray] = []
        self.seen = 0
        folder.mkdir(parents=True, exist_ok=True)

    def at(self, step: int) -> None:
        """Load the shards that ``step`` draws from."""
        wanted = min(self.shards, FIRST_SHARDS + step // STEPS_PER_SHARD)
        while len(self.rows) < wanted * self.count:
            made = self._shard(len(self.rows) // self.count)
            self.latents = torch.cat([self.latents.reshape(-1, *made["latents"].shape[1:]), made["latents"]])
            self.rows.extend(made["heads"].numpy())
        self.seen = wanted * self.count

    def _shard(self, number: int) -> dict[str, torch.Tensor]:
        file = self.folder / f"train-{number:04d}.pt"
        if not file.exists():
            made = make_shard("train", number, self.count)
            latents = encode(self.vae, made["images"])
            torch.save({"latents": latents, "heads": torch.from_numpy(made["heads"])}, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").rename(file)
        return torch.load(file, weights_only=True)


def sample_times(count: int) -> torch.Tensor:
    """Draw s in (0, 1): logit-normal (Esser et al. 2024), and 10% uniform to cover both ends."""
    even = torch.rand(count)
    return torch.where(torch.rand(count) < 0.1, even, torch.randn(count).sigmoid())


@torch.no_grad()
def embed(pipe: StableDiffusion3Pipeline, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result of ``pipe.encode_prompt(..., max_sequence_length=0)`` without running the second encoder."""
    tokens = pipe.tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    out = pipe.text_encoder(tokens.to(pipe.text_encoder.device), output_hidden_states=True)
    wide = functools.partial(torch.nn.functional.pad, pad=(0, SILENT))
    return wide(out.hidden_states[-2]), wide(out.text_embeds)


def train(
    heads: Path,
    out: Path,
    steps: int,
    *,
    shards: int = 80,
    batch: int = 64,
    lr: float = 1e-3,
    cooldown: int = 0,
    count: int = SHARD,
    every: int = 10,
) -> StableDiffusion3Pipeline:
    """Train v = eps - z by rectified flow, z_s = (1 - s) z + s eps. ``heads``: folder of the latent pipeline. ``out``:
    folder of the shards (``count`` heads each) and the checkpoint. ``cooldown``: final steps over which the learning
    rate, otherwise constant, falls to 0."""
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    pipe = assemble(build_transformer(), heads)
    data = Shards(pipe.vae, out / "flow-data", shards, count)

    def loss(model, rng, device):
        rows = rng.integers(data.seen, size=batch)
        captions = [sample_caption(head_from_row(data.rows[k]), rng)[0] for k in rows]
        states, pooled = (x.to(device) for x in embed(pipe, captions))
        z = (pipe.vae.config.scaling_factor * data.latents[rows]).to(device)
        s, eps = sample_times(batch).to(device), torch.randn(z.shape).to(device)
        z_s = torch.lerp(z, eps, s[:, None, None, None])
        guess = model(z_s, states, pooled, 1000 * s).sample
        error = ((guess.float() - (eps - z)) ** 2).mean((1, 2, 3))
        return {"v": error.mean()}

    model = pipe.transformer
    inner = {p for b in model.transformer_blocks for m in b.children() for p in m.parameters()}
    norms = {p for b in model.transformer_blocks for m in (b.norm1, b.norm1_context) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p in inner - norms and p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is q for q in matrices)]
    model = fit(
        "flow", model, loss, out=out, steps=steps, lr=lr, ema=0.999, every=every, before_step=data.at,
        schedule=functools.partial(hold, cooldown=cooldown), optimiser=MuonAdam(matrices, others, lr),
        layout=torch.contiguous_format,
    )  # fmt: skip
    return pipe


def export(heads: Path, out: Path) -> tuple[StableDiffusion3Pipeline, int]:
    """Return a pipeline with the EMA weights of the checkpoint in ``out``, and its step; see :func:`averaged`."""
    transformer, step = averaged("flow", build_transformer(), out)
    return assemble(transformer, heads), step
