"""The pixel pipeline at 32 px: a UNet with the blocks of DeepFloyd IF and a T5 encoder, trained together from nothing.

Views of all azimuths, alike, and captions that tell the view, often with what it hides: each camera of a scene asks for
the whole scene's prompt, and a prior that never read "sunglasses, back view" puts them on the back of the head. What
makes it obey is the latent pipeline's (see :mod:`scripts.heads.latent`): the encoder is also asked what a caption
tells, here by a reader of its states' mean, and the loss leans to the noisy end. The schedule is DDPM's, which ends in
all but pure noise: the mean colour of 32 x 32 pixels outlives the noise of Stable Diffusion's.

Mouths, cheeks and ear-rings are a few pixels each, and the plain loss hardly feels them. Three things aim at them, none
of which moves what the model tends to, the mean of the noise given the noisy picture and the caption: the squared error
weighs more inside the face, by pixel and timestep alone; the timesteps where such details are decided are drawn more
often; and captions that tell the view come with the face more often than by chance, while those that do not, the empty
one among them, come with heads from everywhere, alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from rsd.heads.attributes import VIEWS, Head, caption, sample_mentioned
from rsd.heads.data import head_at, head_from_row, make_shard
from rsd.heads.reading import known_words
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import averaged, fit, hold, native_precision
from scripts.heads.latent import ANSWERS, NOISE_WEIGHT, READING, answers_to, noise_weights

SIZE, WIDTH, LENGTH = 32, 128, 77  # pixels; of the text states; tokens, as many as IF reads
WHOLE = 0.5  # how often a caption with a view also tells what the view hides: "sunglasses, back view" shows none
QUESTIONS = [*ANSWERS, len(VIEWS) + 1]  # what the reader is asked: each attribute, and the view
EMPTY = 0.1  # how often a caption is empty
TOLD = 0.5  # a caption tells at least this share of what is seen, on average
VIEW_TOLD = 0.75  # how often a caption that is not empty tells the view
VIEW_SHARES = (0.5, 0.375, 0.125)  # of front, side and back among the captions that tell it
DETAILS = (330.0, 120.0)  # the timesteps where a face's details are decided: their middle, and a standard deviation
AIMED = 0.6  # the share of timesteps drawn around there, the others uniformly
FACE = 6.0  # how much more a pixel of the face weighs there than one outside


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


def timestep_density(count: int) -> torch.Tensor:
    """How often each timestep is drawn, float32 [count], sum 1: uniform, and more around ``DETAILS``."""
    middle, spread = DETAILS
    bump = torch.exp(-0.5 * ((torch.arange(count) - middle) / spread) ** 2)
    return (1 - AIMED) / count + AIMED * bump / bump.sum()


def face_map(size: int = SIZE) -> torch.Tensor:
    """Where eyes, mouths, cheeks and ears of all views lie, float32 [size, size]: 1 inside an ellipse, 0 outside, soft
    at its edge. It is the region in which the pixels of training pictures change with those attributes."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    unit = size / SIZE
    far = (((y - 20.5 * unit) / (6.5 * unit)) ** 2 + ((x - 15.5 * unit) / (10 * unit)) ** 2) ** 2
    return torch.exp(-0.7 * far)


def pixel_weights(t: torch.Tensor) -> torch.Tensor:
    """Of each pixel's squared error at timesteps ``t`` [B], float32 [B, SIZE, SIZE], mean 1 over the pixels: more
    inside the face where its details are decided. Depending on nothing else, they leave the minimiser as it is."""
    middle, spread = DETAILS
    aim = torch.exp(-0.5 * ((t - middle) / (1.5 * spread)) ** 2)[:, None, None]
    weight = 1 + FACE * aim * face_map()
    return weight / weight.mean((1, 2), keepdim=True)


def sample_caption(
    head: Head, rng: np.random.Generator, empty: float = EMPTY, mention_view: bool | None = None
) -> tuple[str, np.ndarray]:
    """A training caption and the answers to ``QUESTIONS``: 0 for what is left out, else 1 + its code, int64.
    ``mention_view``: whether the view is; None: by chance."""
    if rng.random() < empty:
        return "", np.zeros(len(QUESTIONS), dtype=np.int64)
    told, view = sample_mentioned(head, rng, whole=WHOLE, least=TOLD, mention_view=mention_view)
    return caption(head.values, told, view), np.append(answers_to(head, told), VIEWS.index(view) + 1 if view else 0)


class Draw:
    """Draws (row, caption, answers) of training heads. Whether the caption is empty or tells the view is drawn first,
    then the head: from ``VIEW_SHARES`` if the view is told, else from all alike. So no caption's heads are others than
    with rows drawn alike: only how often it comes is."""

    def __init__(self, heads: Sequence[Head]):
        self.heads = heads
        views = np.array([VIEWS.index(head.camera.view) for head in heads])
        self.rows = [np.flatnonzero(views == k) for k in range(len(VIEWS))]
        shares = np.array([share if len(rows) else 0.0 for share, rows in zip(VIEW_SHARES, self.rows, strict=True)])
        self.shares = shares / shares.sum()

    def __call__(self, rng: np.random.Generator) -> tuple[int, str, np.ndarray]:
        """The row, its caption and the answers to ``QUESTIONS``."""
        empty, told = rng.random() < EMPTY, rng.random() < VIEW_TOLD
        if told and not empty:
            row = int(rng.choice(self.rows[rng.choice(len(VIEWS), p=self.shares)]))
        else:
            row = int(rng.integers(len(self.heads)))
        return row, *sample_caption(self.heads[row], rng, float(empty), mention_view=told)


class Denoiser(torch.nn.Module):
    """Text encoder, its reader and the UNet as one trainable module."""

    def __init__(self, tokenizer: T5Tokenizer):
        super().__init__()
        self.text_encoder, self.unet = build_text_encoder(tokenizer), build_unet()
        self.reader = torch.nn.Linear(WIDTH, sum(QUESTIONS))

    def forward(self, z_t, t, tokens, mask):
        """Noise [B, 3, 32, 32], and for each question the logits of what the caption told."""
        text, pooled = self.read(tokens, mask)
        guess = self.unet(z_t, t, text).sample[:, :3]
        return guess, self.reader(pooled).split(QUESTIONS, dim=1)

    def read(self, tokens, mask):
        """The text's states [B, LENGTH, WIDTH], and their means, [B, WIDTH], which the reader is shown."""
        text = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        return text, (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def assemble(model: Denoiser, tokenizer: T5Tokenizer) -> IFPipeline:
    """The trained parts as an ordinary pipeline."""
    return IFPipeline(
        tokenizer, model.text_encoder, model.unet, build_scheduler(), None, None, None, requires_safety_checker=False
    )


def warm_start(model: Denoiser, tokenizer: T5Tokenizer, folder: Path) -> None:
    """Give ``model`` the weights of a pipeline's folder, as shipped. The reader is not kept there: it is learnt
    first, alone, so that a fresh one's errors do not pull at the encoder. Raises ValueError if the words are numbered
    otherwise."""
    theirs = T5Tokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    if theirs != tokenizer.get_vocab():
        raise ValueError(f"The tokenizer in {folder} numbers the captions' words otherwise: no start from its weights.")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    model.unet.load_state_dict(unet.state_dict())
    model.text_encoder.load_state_dict(text_encoder.state_dict())
    learn_reader(model, tokenizer)


def learn_reader(model: Denoiser, tokenizer: T5Tokenizer, count: int = 1000, steps: int = 300) -> float:
    """Fit the reader alone to the encoder's states of ``count`` captions; its share of right answers there."""
    rng = np.random.default_rng(0)
    texts, answers = zip(*(sample_caption(head_at("train", k, "all"), rng) for k in range(count)), strict=True)
    tokens = tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        parts = zip(tokens.input_ids.split(100), tokens.attention_mask.split(100), strict=True)
        pooled = torch.cat([model.read(ids, mask)[1] for ids, mask in parts])
    told = torch.tensor(np.array(answers)).unbind(1)
    optimiser = torch.optim.Adam(model.reader.parameters(), lr=0.03)
    for _ in range(steps):
        logits = model.reader(pooled).split(QUESTIONS, dim=1)
        loss = sum((F.cross_entropy(r, a) for r, a in zip(logits, told, strict=True)), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(np.mean([float((r.argmax(1) == a).float().mean()) for r, a in zip(logits, told, strict=True)]))


def export(out: Path) -> tuple[IFPipeline, int]:
    """The EMA weights of the checkpoint in ``out`` as a pipeline, and the steps it has taken; see :func:`averaged`."""
    tokenizer = build_tokenizer()
    model, step = averaged("pixel", Denoiser(tokenizer), out)
    return assemble(model, tokenizer), step


def train(
    data: dict[str, np.ndarray],
    out: Path,
    steps: int,
    batch: int = 32,
    lr: float = 5e-4,
    most: float = NOISE_WEIGHT,
    init: Path | None = None,
    cooldown: int = 0,
) -> IFPipeline:
    """epsilon-prediction on the pixels of ``data`` (shards of :func:`make_pixel_shard`). ``most``: a noisy timestep's
    weight; obedience wants it large, eyes and mouths, which are drawn when little noise is left, want it small.
    ``init``: a pipeline's folder to begin from; without effect if ``out`` has a checkpoint. ``cooldown``: steps at the
    end over which the learning rate, else constant, falls to 0."""
    tokenizer = build_tokenizer()
    draw = Draw([head_from_row(row) for row in data["heads"]])
    abar = build_scheduler().alphas_cumprod
    weight, density = noise_weights(abar, most), timestep_density(len(abar))

    def loss(model, rng, device):
        rows, captions, answers = zip(*(draw(rng) for _ in range(batch)), strict=True)
        tokens = tokenizer(
            list(captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).to(device)
        x = to_tensor(data["images"][list(rows)], torch.device("cpu"))
        t, eps = torch.multinomial(density, batch, replacement=True), torch.randn_like(x)
        a = abar[t][:, None, None, None]
        z_t = (a.sqrt() * x + (1 - a).sqrt() * eps).to(device)
        guess, read = model(z_t, t.to(device), tokens.input_ids, tokens.attention_mask)
        error = ((guess.float() - eps.to(device)) ** 2).mean(1)
        each = weight[t][:, None, None] * pixel_weights(t)
        told = torch.tensor(np.array(answers), device=device).unbind(1)
        reading = sum(F.cross_entropy(r.float(), a) for r, a in zip(read, told, strict=True))
        return {"eps": (each.to(device) * error).mean(), "reading": READING * reading}

    model = Denoiser(tokenizer)
    if init and not (out / "pixel.pt").exists():
        warm_start(model, tokenizer, init)
    precision, layout = native_precision(), torch.channels_last  # a seventh faster in float32 on a CPU
    if precision == "bf16":
        model.unet.set_attn_processor(AttnAddedKVProcessor())  # the fused one is slow in bfloat16 on a CPU
        # Rows of channels would make group norm's backward in bfloat16 seven times slower: no such kernel on a CPU.
        layout = torch.contiguous_format
    model = fit(
        "pixel", model, loss, out=out, steps=steps, lr=lr, ema=0.9995, layout=layout,
        precision=precision, every=40, schedule=functools.partial(hold, cooldown=cooldown),
    )  # fmt: skip
    return assemble(model, tokenizer)
