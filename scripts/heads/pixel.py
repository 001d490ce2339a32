"""The pixel pipeline at 32 px: a UNet with the blocks of DeepFloyd IF and a T5 encoder, trained together from scratch.

Views have uniform azimuths, and captions name the view, often with attributes that it hides: every camera of a scene
uses the whole scene's prompt, and a prior that never saw "sunglasses, back view" puts them on the back of the head. As
for the latent pipeline (:mod:`scripts.heads.latent`), the encoder also predicts the attributes of a caption, here by a
reader of its mean state, and the loss has more weight at high noise. The schedule is DDPM's, which ends in nearly pure
noise: with Stable Diffusion's the mean colour of 32 x 32 pixels would remain visible.

Mouths, cheeks and ear-rings are a few pixels each and hardly change the unweighted loss. Four measures emphasise them
without changing the optimum, the mean of the noise given the noisy picture and the caption: the squared error has more
weight inside the face, depending only on pixel and timestep; the timesteps at which such details are decided are drawn
more often; captions with a view are drawn more often with front views, while those without, including the empty one,
are drawn with uniform views; and heads come with *twins*, which differ in one such attribute, with the same noise and a
caption that tells the attribute. What twins have in common cancels in the gradient of what a word changes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from rsd.heads.attributes import ATTRIBUTES, VIEWS, Head, caption, sample_mentioned, visible
from rsd.heads.data import SPLITS, head_at, head_from_row, make_shard, row_of
from rsd.heads.reading import known_words
from rsd.heads.render import render
from scripts.heads.autoencoder import to_tensor
from scripts.heads.fit import averaged, fit, hold, native_precision
from scripts.heads.latent import ANSWERS, NOISE_WEIGHT, READING, answers_to, noise_weights
from scripts.heads.muon import MuonAdam

SIZE, WIDTH, LENGTH = 32, 128, 77  # pixels; of the text states; tokens, as many as IF reads
WHOLE = 0.5  # how often a caption with a view also names hidden attributes, as in "sunglasses, back view"
QUESTIONS = [*ANSWERS, len(VIEWS) + 1]  # the reader's targets: each attribute, and the view
EMPTY = 0.25  # how often a head is drawn alone, without a caption: in about a tenth of the pictures
TOLD = 0.5  # a caption names at least this share of the visible attributes, on average
VIEW_TOLD = 0.75  # how often a caption that is not empty names the view
VIEW_SHARES = (0.5, 0.375, 0.125)  # of front, side and back among the captions with a view
DETAILS = (330.0, 120.0)  # mean and standard deviation of the timesteps at which a face's details are decided
AIMED = 0.6  # the share of timesteps drawn around there, the others uniformly
FACE = 6.0  # additional weight of a pixel of the face at these timesteps
SMALL = (
    "mouth", "person", "glasses", "left_eye", "right_eye", "left_ear", "right_ear", "left_cheek", "right_cheek",
)  # fmt: skip
"""Attributes in which twins differ."""
TWINS = 3  # how many a head has


def make_pixel_shard(split: str, shard: int, count: int = 2000) -> dict[str, np.ndarray]:
    """Render a shard of views from all sides; each pixel is the mean of four of a 64 px render, which is smoother."""
    data = make_shard(split, shard, count, view="all", size=2 * SIZE)
    return {**data, "images": halve(data["images"])}


def make_twin_shard(split: str, shard: int, count: int = 500) -> dict[str, np.ndarray]:
    """As :func:`make_pixel_shard`, of ``count`` heads, each followed by its :func:`twins`."""
    heads: list[Head] = []
    for k in range(shard * count, (shard + 1) * count):
        first = head_at(split, k, "all")
        heads += [first, *twins(first, np.random.default_rng([SPLITS[split], k, 1]))]
    images = np.stack([render(head, 2 * SIZE) for head in heads])
    return {"images": halve(images), "heads": np.array([row_of(head) for head in heads], dtype=np.float32)}


def twins(head: Head, rng: np.random.Generator, count: int = TWINS) -> list[Head]:
    """Return up to ``count`` heads that differ from ``head`` in one visible attribute of ``SMALL`` each."""
    seen = visible(head.values, head.camera)
    able = [a for a in SMALL if seen[a] and not (a == "person" and head["beard"] == "full")]
    chosen = rng.permutation(able)[:count].tolist()
    others = {a: [value for value in ATTRIBUTES[a] if value != head[a]] for a in chosen}
    return [replace(head, values={**head.values, a: str(rng.choice(others[a]))}) for a in chosen]


def halve(images: np.ndarray) -> np.ndarray:
    """Reduce uint8 [B, 2h, 2w, 3] to uint8 [B, h, w, 3] by 2 x 2 means."""
    B, h, w, _ = images.shape
    means = images.reshape(B, h // 2, 2, w // 2, 2, 3).mean((2, 4))
    return means.round().astype(np.uint8)


def build_tokenizer() -> T5Tokenizer:
    """Return T5's tokenizer with the captions' words; others become letters. It is case-sensitive, and IF's prompts are
    lower case."""
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
    """Return a UNet of IF's blocks, with cross-attention at the ``crossed`` lowest resolutions and pooled text in the
    time embedding. Its variance outputs, which ``IFPipeline`` requires, are neither trained nor used."""
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
    """Return the probability of each timestep, float32 [count]: uniform, plus a bump around ``DETAILS``."""
    middle, spread = DETAILS
    bump = torch.exp(-0.5 * ((torch.arange(count) - middle) / spread) ** 2)
    return (1 - AIMED) / count + AIMED * bump / bump.sum()


def face_map(size: int = SIZE) -> torch.Tensor:
    """Return the region of eyes, mouths, cheeks and ears in all views, float32 [size, size]: 1 inside an ellipse, 0
    outside, with a soft edge. There the training pictures depend on those attributes."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    unit = size / SIZE
    far = (((y - 20.5 * unit) / (6.5 * unit)) ** 2 + ((x - 15.5 * unit) / (10 * unit)) ** 2) ** 2
    return torch.exp(-0.7 * far)


def pixel_weights(t: torch.Tensor) -> torch.Tensor:
    """Return the weight of each pixel's squared error at timesteps ``t`` [B], float32 [B, SIZE, SIZE], with mean 1:
    larger inside the face where its details are decided. As it depends on nothing else, the minimiser is unchanged."""
    middle, spread = DETAILS
    aim = torch.exp(-0.5 * ((t - middle) / (1.5 * spread)) ** 2)[:, None, None]
    weight = 1 + FACE * aim * face_map()
    return weight / weight.mean((1, 2), keepdim=True)


def tell(head: Head, mentioned: set[str], view: str | None) -> tuple[str, np.ndarray]:
    """Return the caption of the attributes in ``mentioned``, except eyes behind sunglasses, and the targets of
    ``QUESTIONS``: 0 if left out, else 1 + the code, int64."""
    named = mentioned - {"left_eye", "right_eye"} if head["glasses"] == "sun" else mentioned
    asked = np.append(answers_to(head, named), VIEWS.index(view) + 1 if view else 0)
    return caption(head.values, named, view), asked


def sample_caption(head: Head, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Return a training caption and the targets of ``QUESTIONS``."""
    mentioned, view = sample_mentioned(head, rng, whole=WHOLE, least=TOLD, mention_view=bool(rng.random() < VIEW_TOLD))
    return tell(head, mentioned, view)


class Draw:
    """Draw heads with their twins, which follow them in ``heads``. First draw whether the caption is empty or has a
    view, then the head: by ``VIEW_SHARES`` if it has one, else uniformly. Only the frequency of a caption differs from
    uniform rows, not the distribution of its heads: a caption tells in what its twins differ, and the head of an empty
    one comes alone."""

    def __init__(self, heads: Sequence[Head]):
        self.heads = heads
        new = [k for k, head in enumerate(heads) if not k or not akin(heads[k - 1], head)]
        self.groups = [range(a, b) for a, b in itertools.pairwise([*new, len(heads)])]
        views = np.array([VIEWS.index(heads[rows[0]].camera.view) for rows in self.groups])
        self.of_view = [np.flatnonzero(views == k) for k in range(len(VIEWS))]
        shares = np.array([share if len(of) else 0.0 for share, of in zip(VIEW_SHARES, self.of_view, strict=True)])
        self.shares = shares / shares.sum()

    def __call__(self, rng: np.random.Generator) -> list[tuple[int, str, np.ndarray]]:
        """Return the row, its caption and the targets of ``QUESTIONS``, of a head and its twins."""
        empty, told = rng.random() < EMPTY, rng.random() < VIEW_TOLD
        if told and not empty:
            rows = self.groups[int(rng.choice(self.of_view[rng.choice(len(VIEWS), p=self.shares)]))]
        else:
            rows = self.groups[int(rng.integers(len(self.groups)))]
        if empty:
            return [(rows[0], "", np.zeros(len(QUESTIONS), dtype=np.int64))]
        heads = [self.heads[k] for k in rows]
        mentioned, view = sample_mentioned(heads[0], rng, whole=WHOLE, least=TOLD, mention_view=told)
        mentioned |= {a for head in heads for a in SMALL if head[a] != heads[0][a]}
        return [(k, *tell(head, mentioned, view)) for k, head in zip(rows, heads, strict=True)]

    def batch(self, rng: np.random.Generator, count: int) -> tuple[list[tuple[int, str, np.ndarray]], list[int]]:
        """Return ``count`` pictures as :meth:`__call__` does, and for each the number of its head, from 0."""
        drawn: list[tuple[int, str, np.ndarray]] = []
        owner: list[int] = []
        while len(drawn) < count:
            more = self(rng)[: count - len(drawn)]
            owner += [owner[-1] + 1 if owner else 0] * len(more)
            drawn += more
        return drawn, owner


def akin(head: Head, other: Head) -> bool:
    """Tell whether two heads have the same camera and light, as twins do."""
    return head.camera == other.camera and head.light == other.light


class Denoiser(torch.nn.Module):
    """Text encoder, its reader and the UNet as one trainable module."""

    def __init__(self, tokenizer: T5Tokenizer):
        super().__init__()
        self.text_encoder, self.unet = build_text_encoder(tokenizer), build_unet()
        self.reader = torch.nn.Linear(WIDTH, sum(QUESTIONS))

    def forward(self, z_t, t, tokens, mask):
        """Return the noise [B, 3, 32, 32], and the reader's logits for each question."""
        text, pooled = self.read(tokens, mask)
        guess = self.unet(z_t, t, text).sample[:, :3]
        return guess, self.reader(pooled).split(QUESTIONS, dim=1)

    def read(self, tokens, mask):
        """Return the text's states [B, LENGTH, WIDTH], and their means [B, WIDTH], the reader's input."""
        text = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        return text, (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def assemble(model: Denoiser, tokenizer: T5Tokenizer) -> IFPipeline:
    """Return the trained parts as an ordinary pipeline."""
    return IFPipeline(
        tokenizer, model.text_encoder, model.unet, build_scheduler(), None, None, None, requires_safety_checker=False
    )


def warm_start(model: Denoiser, tokenizer: T5Tokenizer, folder: Path) -> None:
    """Load the weights of a pipeline's folder into ``model``. The folder has no reader, which is fitted first, alone,
    so that its initial errors do not disturb the encoder. Raises ValueError if the vocabularies differ."""
    theirs = T5Tokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    if theirs != tokenizer.get_vocab():
        raise ValueError(f"The tokenizer in {folder} has another vocabulary than the captions; give --pixel-init None.")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    model.unet.load_state_dict(unet.state_dict())
    model.text_encoder.load_state_dict(text_encoder.state_dict())
    learn_reader(model, tokenizer)


def learn_reader(model: Denoiser, tokenizer: T5Tokenizer, count: int = 1000, steps: int = 300) -> float:
    """Fit the reader alone on the encoder's states of ``count`` captions; return its accuracy there."""
    rng = np.random.default_rng(0)
    texts, answers = zip(*(sample_caption(head_at("train", k, "all"), rng) for k in range(count)), strict=True)
    tokens = tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        parts = zip(tokens.input_ids.split(100), tokens.attention_mask.split(100), strict=True)
        pooled = torch.cat([model.read(ids, mask)[1] for ids, mask in parts])
    mentioned = torch.tensor(np.array(answers)).unbind(1)
    optimiser = torch.optim.Adam(model.reader.parameters(), lr=0.03)
    for _ in range(steps):
        logits = model.reader(pooled).split(QUESTIONS, dim=1)
        loss = sum((F.cross_entropy(r, a) for r, a in zip(logits, mentioned, strict=True)), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(np.mean([float((r.argmax(1) == a).float().mean()) for r, a in zip(logits, mentioned, strict=True)]))


def optimiser(model: Denoiser, lr: float) -> MuonAdam:
    """Return Muon for the weights inside the UNet, and Adam for the rest: its ends, norms and the text encoder."""
    blocks = (*model.unet.down_blocks, model.unet.mid_block, *model.unet.up_blocks)
    matrices = [p for block in blocks for p in block.parameters() if p.ndim > 1]
    inner = {id(p) for p in matrices}
    return MuonAdam(matrices, [p for p in model.parameters() if id(p) not in inner], lr)


def export(out: Path) -> tuple[IFPipeline, int]:
    """Return the EMA weights of the checkpoint in ``out`` as a pipeline, and its number of steps; see
    :func:`averaged`."""
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
    """Train epsilon-prediction on the pixels of ``data`` (shards of :func:`make_twin_shard`).

    ``most``: the limit of the weights at high noise; a large one helps to follow prompts, a small one helps eyes and
    mouths, which are decided at low noise. ``init``: a pipeline's folder with initial weights, ignored if ``out`` has a
    checkpoint. ``cooldown``: final steps over which the learning rate, constant before, falls to 0.
    """
    tokenizer = build_tokenizer()
    draw = Draw([head_from_row(row) for row in data["heads"]])
    abar = build_scheduler().alphas_cumprod
    weight, density = noise_weights(abar, most), timestep_density(len(abar))

    def loss(model, rng, device):
        drawn, owner = draw.batch(rng, batch)
        rows, captions, answers = zip(*drawn, strict=True)
        tokens = tokenizer(
            list(captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).to(device)
        x = to_tensor(data["images"][list(rows)], torch.device("cpu"))
        t, eps = torch.multinomial(density, batch, replacement=True)[owner], torch.randn_like(x)[owner]
        a = abar[t][:, None, None, None]
        z_t = (a.sqrt() * x + (1 - a).sqrt() * eps).to(device)
        guess, read = model(z_t, t.to(device), tokens.input_ids, tokens.attention_mask)
        error = ((guess.float() - eps.to(device)) ** 2).mean(1)
        each = weight[t][:, None, None] * pixel_weights(t)
        mentioned = torch.tensor(np.array(answers), device=device).unbind(1)
        reading = sum(F.cross_entropy(r.float(), a) for r, a in zip(read, mentioned, strict=True))
        return {"eps": (each.to(device) * error).mean(), "reading": READING * reading}

    model = Denoiser(tokenizer)
    if init and not (out / "pixel.pt").exists():
        warm_start(model, tokenizer, init)
    precision, layout = native_precision(), torch.channels_last  # in float32 on a CPU 1/7 faster
    if precision == "bf16":
        model.unet.set_attn_processor(AttnAddedKVProcessor())  # the fused kernel is slow in bfloat16 on a CPU
        # On a CPU channels_last makes group norm's backward in bfloat16 seven times slower.
        layout = torch.contiguous_format
    model = fit(
        "pixel", model, loss, out=out, steps=steps, lr=lr, ema=0.9995, layout=layout, optimiser=optimiser(model, lr),
        precision=precision, every=40, schedule=functools.partial(hold, cooldown=cooldown),
    )  # fmt: skip
    return assemble(model, tokenizer)
