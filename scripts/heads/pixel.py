"""The pixel pipeline at 32 px: a UNet with the blocks of DeepFloyd IF and a T5 encoder, trained together from nothing.

Views of all azimuths, alike, and captions that tell the view, often with what it hides: each camera of a scene asks for
the whole scene's prompt, and a prior that never read "sunglasses, back view" puts them on the back of the head. What
makes it obey is the latent pipeline's (see :mod:`scripts.heads.latent`): the encoder is also asked what a caption
tells, here by a reader of its states' mean, and the loss leans to the noisy end. The schedule is DDPM's, which ends in
all but pure noise: the mean colour of 32 x 32 pixels outlives the noise of Stable Diffusion's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from rsd.heads.attributes import VIEWS, Head, caption, sample_told
from rsd.heads.data import head_from_row, make_shard
from rsd.heads.reading import known_words
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import fit
from scripts.heads.latent import ANSWERS, NOISE_WEIGHT, READING, answers_to, noise_weights

SIZE, WIDTH, LENGTH = 32, 128, 77  # pixels; of the text states; tokens, as many as IF reads
WHOLE = 0.5  # how often a caption with a view also tells what the view hides: "sunglasses, back view" shows none
QUESTIONS = [*ANSWERS, len(VIEWS) + 1]  # what the reader is asked: each attribute, and the view


def make_pixel_shard(split: str, shard: int, count: int = 2000) -> dict[str, np.ndarray]:
    """A shard of views from everywhere; each pixel is the mean of four of a 64 px render (direct ones are rougher)."""
    data = make_shard(split, shard, count, view="all", size=2 * SIZE)
    return {**data, "images": halve(data["images"])}


def halve(images: np.ndarray) -> np.ndarray:
    """uint8 [B, 2h, 2w, 3] to uint8 [B, h, w, 3] by means of 2 x 2."""
    B, h, w, _ = images.shape
    means = images.reshape(B, h // 2, 2, w // 2, 2, 3).mean((2, 4))
    return means.round().astype(np.uint8)


def build_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with the captions' words; others fall into letters. It minds case: IF's prompts are lower case."""
    words = [("▁" + word, -2.0) for word in sorted(known_words())]
    letters = [(c, -9.0) for c in "abcdefghijklmnopqrstuvwxyz0123456789-.'!?"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = [*special, *words, (",", -2.0), ("▁", -3.0), *letters]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=LENGTH)


def build_text_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=32, d_ff=2 * WIDTH, num_layers=3, num_heads=4,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip


def build_unet(channels: tuple[int, ...] = (48, 96, 160), crossed: int = 1) -> UNet2DConditionModel:
    """IF's kinds of blocks: text is attended to at the ``crossed`` lowest resolutions, and pooled into the time
    embedding. There is room for IF's variance, which ``IFPipeline`` must find; it is not trained, and not used."""
    plain = len(channels) - crossed
    return UNet2DConditionModel(
        sample_size=SIZE, in_channels=3, out_channels=6, block_out_channels=channels, layers_per_block=1,
        down_block_types=(*["ResnetDownsampleBlock2D"] * plain, *["SimpleCrossAttnDownBlock2D"] * crossed),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * crossed, *["ResnetUpsampleBlock2D"] * plain),
        cross_attention_dim=WIDTH, encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj",
        addition_embed_type="text", addition_embed_type_num_heads=4, attention_head_dim=32, norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


def build_scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", variance_type="fixed_small")


def sample_caption(head: Head, rng: np.random.Generator, empty: float = 0.1) -> tuple[str, np.ndarray]:
    """A training caption and the answers to ``QUESTIONS``: 0 for what is left out, else 1 + its code, int64."""
    if rng.random() < empty:
        return "", np.zeros(len(QUESTIONS), dtype=np.int64)
    told, view = sample_told(head, rng, whole=WHOLE)
    return caption(head.values, told, view), np.append(answers_to(head, told), VIEWS.index(view) + 1 if view else 0)


class Denoiser(torch.nn.Module):
    """Text encoder, its reader and the UNet as one trainable module."""

    def __init__(self, tokenizer: T5Tokenizer):
        super().__init__()
        self.text_encoder, self.unet = build_text_encoder(tokenizer), build_unet()
        self.reader = torch.nn.Linear(WIDTH, sum(QUESTIONS))

    def forward(self, z_t, t, tokens, mask):
        """Noise [B, 3, 32, 32], and for each question the logits of what the caption told."""
        text = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        guess = self.unet(z_t, t, text).sample[:, :3]
        pooled = (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return guess, self.reader(pooled).split(QUESTIONS, dim=1)


def assemble(model: Denoiser, tokenizer: T5Tokenizer) -> IFPipeline:
    """The trained parts as an ordinary pipeline."""
    return IFPipeline(
        tokenizer, model.text_encoder, model.unet, build_scheduler(), None, None, None, requires_safety_checker=False
    )


def train(
    data: dict[str, np.ndarray], out: Path, steps: int, batch: int = 64, lr: float = 1e-3, most: float = NOISE_WEIGHT
) -> IFPipeline:
    """epsilon-prediction on the pixels of ``data`` (shards of :func:`make_pixel_shard`). ``most``: a noisy timestep's
    weight; obedience wants it large, eyes and mouths, which are drawn when little noise is left, want it small."""
    tokenizer = build_tokenizer()
    heads = [head_from_row(row) for row in data["heads"]]
    abar = build_scheduler().alphas_cumprod
    weight = noise_weights(abar, most)

    def loss(model, rng, device):
        rows = rng.integers(len(heads), size=batch)
        captions, answers = zip(*(sample_caption(heads[k], rng) for k in rows), strict=True)
        tokens = tokenizer(
            list(captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).to(device)
        x, t = to_tensor(data["images"][rows], torch.device("cpu")), torch.randint(len(abar), (batch,))
        eps = torch.randn_like(x)
        a = abar[t][:, None, None, None]
        z_t = (a.sqrt() * x + (1 - a).sqrt() * eps).to(device)
        guess, read = model(z_t, t.to(device), tokens.input_ids, tokens.attention_mask)
        error = ((guess.float() - eps.to(device)) ** 2).mean((1, 2, 3))
        told = torch.tensor(np.array(answers), device=device).unbind(1)
        reading = sum(F.cross_entropy(r.float(), a) for r, a in zip(read, told, strict=True))
        return {"eps": (weight[t].to(device) * error).mean(), "reading": READING * reading}

    model = Denoiser(tokenizer)
    model.unet.set_attn_processor(AttnAddedKVProcessor())  # the fused one is slow in bfloat16 on a CPU
    # Rows of channels would make group norm's backward in bfloat16 seven times slower: it has no such kernel on a CPU.
    model = fit("pixel", model, loss, out=out, steps=steps, lr=lr, ema=0.9995, layout=torch.contiguous_format)
    return assemble(model, tokenizer)
