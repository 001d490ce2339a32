"""The latent diffusion pipeline: a Stable Diffusion UNet and a CLIP text encoder, trained together from scratch.

Two things make it follow prompts. The text encoder also predicts the attributes of each caption (by a linear *reader*
of its pooled state, discarded afterwards): with the noise loss alone it learned slowly which colour belongs to which
word. And the loss has more weight at high noise, where a picture's colours are decided and where the unweighted loss
hardly depends on the caption.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rsd.heads.attributes import ATTRIBUTES, Head, caption, sample_mentioned
from rsd.heads.data import head_at, head_from_row
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import fit, kept

WIDTH, LENGTH = 128, 64
READING = 0.003  # weight of the reader's loss
NOISE_WEIGHT = 20.0  # the epsilon loss has weight 1 / alpha^2, as for v-prediction, up to this
ANSWERS = [len(options) + 1 for options in ATTRIBUTES.values()]  # an attribute's values, or "not named"


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's byte-pair tokenizer with merges learnt from 4,000 captions; unknown words become letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    rng = np.random.default_rng(0)
    captions = [sample_caption(head_at("train", k), rng, empty=0)[0] for k in range(4000)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    bpe.train_from_iterator(captions, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    letters = sorted(alphabet)
    words = [
        *letters,
        *(c + "</w>" for c in letters),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {word: k for k, word in enumerate(dict.fromkeys(words))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, projection_dim=WIDTH,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means and standard deviations of the latents, each float32 [n, 4, 16, 16], unscaled."""
    means, deviations = [], []
    for part in np.array_split(images, max(len(images) // 100, 1)):
        with torch.autocast(autoencoder.device.type, torch.bfloat16):
            posterior = autoencoder.encode(to_tensor(part, autoencoder.device)).latent_dist
        means.append(posterior.mean.float().cpu())
        deviations.append(posterior.std.float().cpu())
    return torch.cat(means), torch.cat(deviations)


def sample_caption(head: Head, rng: np.random.Generator, empty: float = 0.1) -> tuple[str, np.ndarray]:
    """Return a training caption and its attributes: 0 if left out, else 1 + the code, int64 [attributes]."""
    if rng.random() < empty:
        return "", np.zeros(len(ATTRIBUTES), dtype=np.int64)
    mentioned, view = sample_mentioned(head, rng)
    return caption(head.values, mentioned, view), answers_to(head, mentioned)


def answers_to(head: Head, mentioned: set[str]) -> np.ndarray:
    """Return the reader's targets for a caption with the attributes ``mentioned``: 0 if left out, else 1 + the code,
    int64."""
    return np.where([a in mentioned for a in ATTRIBUTES], 1 + head.codes, 0)


def noise_weights(abar: torch.Tensor, most: float = NOISE_WEIGHT) -> torch.Tensor:
    """Return the weight of the squared error in epsilon at each timestep, 1 / alpha^2 up to ``most``, with mean 1."""
    weight = (1 / abar).clamp(max=most)
    return weight / weight.mean()


class Denoiser(torch.nn.Module):
    """Text encoder, its reader and the UNet as one trainable module."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder, self.unet = build_text_encoder(tokenizer), build_unet()
        self.reader = torch.nn.Linear(WIDTH, sum(ANSWERS))
        self.unet.set_attn_processor(AttnProcessor())  # in bf16 on CPUs faster than the fused kernel

    def forward(self, z_t, t, tokens):
        """Return the noise [B, 4, 16, 16], and for each attribute the reader's logits."""
        text = self.text_encoder(tokens)
        guess = self.unet(z_t, t, text.last_hidden_state).sample
        return guess, self.reader(text.pooler_output).split(ANSWERS, dim=1)


def assemble(autoencoder: AutoencoderKL, model: Denoiser, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """Return the trained parts as an ordinary pipeline."""
    model.unet.set_attn_processor(AttnProcessor2_0())
    return StableDiffusionPipeline(
        vae=autoencoder, text_encoder=model.text_encoder, tokenizer=tokenizer, unet=model.unet,
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def train(
    autoencoder: AutoencoderKL, data: dict[str, np.ndarray], out: Path, steps: int, batch: int = 64, lr: float = 1e-3
) -> StableDiffusionPipeline:
    """Train epsilon-prediction on the frozen encoder's latents; set the autoencoder's scaling factor."""
    tokenizer = build_tokenizer(out / "tokenizer")
    means, deviations = kept(out / "latents.pt", lambda: encode(autoencoder, data["images"]))
    scale = float(1 / means[:2000].std())
    autoencoder.register_to_config(scaling_factor=scale)
    heads = [head_from_row(row) for row in data["heads"][: len(means)]]
    abar = build_scheduler().alphas_cumprod
    weight = noise_weights(abar)

    def loss(model, rng, device):
        rows = rng.integers(len(means), size=batch)
        captions, answers = zip(*(sample_caption(heads[k], rng) for k in rows), strict=True)
        tokens = tokenizer(
            list(captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        z = scale * (means[rows] + deviations[rows] * torch.randn(batch, *means.shape[1:]))
        t, eps = torch.randint(1000, (batch,)), torch.randn_like(z)
        a = abar[t][:, None, None, None]
        z_t = (a.sqrt() * z + (1 - a).sqrt() * eps).to(device)
        guess, read = model(z_t, t.to(device), tokens.to(device))
        error = ((guess.float() - eps.to(device)) ** 2).mean((1, 2, 3))
        mentioned = torch.tensor(np.array(answers), device=device).unbind(1)
        reading = sum(F.cross_entropy(r.float(), a) for r, a in zip(read, mentioned, strict=True))
        return {"eps": (weight.to(device)[t] * error).mean(), "reading": READING * reading}

    model = fit("latent", Denoiser(tokenizer), loss, out=out, steps=steps, lr=lr, ema=0.9995)
    return assemble(autoencoder, model, tokenizer)
