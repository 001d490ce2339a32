"""`heads-views`: the latent prior that knows where the camera stands, for scenes.

It is the UNet of `heads`, trained further on heads from all sides, with the camera's pose as a class embedding that is
added to the time embedding, as in MVDream (Shi et al. 2023). Text encoder and autoencoder are those of `heads`. The
pose is left out now and then, as captions are, so that the prior also works without a camera.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPTextModel, CLIPTokenizer

from rsd.heads.attributes import ATTRIBUTES, Camera, Head, caption, sample_values, visible
from rsd.heads.data import SPLITS, head_from_row, row_of
from rsd.heads.reading import from_view
from rsd.heads.render import render
from rsd.priors.base import joined
from rsd.priors.latent import POSE, LatentPrior
from scripts.heads.evaluate import AzimuthReader, obedience
from scripts.heads.fit import averaged, fit, hold, kept
from scripts.heads.flow.data import encode
from scripts.heads.latent import LENGTH, noise_weights, sample_caption
from tasks.text_to_3d.scene.cameras import Cameras

SHARD, FIRST_SHARDS, STEPS_PER_SHARD = 500, 12, 30
UNPOSED = 0.1  # share of pictures whose pose is left out
EARLY = 0.6  # share of timesteps at which the side of a view is decided, t >= 400
FASTER = 5.0  # factor of the learning rate of the pose's embedding


def draw_head(split: str, index: int) -> Head:
    """Return head number ``index`` seen from a random side, half of the fronts more often; the light hardly moves, so
    that the views of a scene have the same."""
    rng = np.random.default_rng([SPLITS[split], 3, index])
    values, spread = sample_values(rng), rng.choice([50.0, 180.0], p=[0.3, 0.7])
    camera = Camera(rng.uniform(-spread, spread), rng.uniform(-10, 25), rng.uniform(0.99, 1.01))
    return Head(values, camera, (rng.uniform(-0.1, 0.1), rng.uniform(0.4, 0.5)))


def poses(heads: list[Head]) -> torch.Tensor:
    """Return the camera-to-world matrices of ``heads``, float32 [n, 16], with positions at distance 1."""
    angles = torch.tensor([[h.camera.azimuth, h.camera.elevation] for h in heads], dtype=torch.float64)
    ones = torch.ones(len(heads), dtype=torch.float64)
    return Cameras(angles[:, 0], angles[:, 1], ones, ones).pose().flatten(1).float()


class Posed(torch.nn.Module):
    """The UNet of `heads` with a place for the pose; the text encoder is frozen. The pose's embedding starts at random:
    from zero, 300 steps taught it nothing, since the UNet has no use for it yet."""

    def __init__(self, heads: Path):
        super().__init__()
        plain = UNet2DConditionModel.from_pretrained(heads / "unet", torch_dtype=torch.float32)
        config = {**plain.config, "class_embed_type": "projection", "projection_class_embeddings_input_dim": POSE}
        self.unet = UNet2DConditionModel.from_config(config)
        missing, unknown = self.unet.load_state_dict(plain.state_dict(), strict=False)
        assert not unknown and all(name.startswith("class_embedding") for name in missing)
        self.text_encoder = CLIPTextModel.from_pretrained(heads / "text_encoder", dtype=torch.float32)
        self.text_encoder.requires_grad_(False)

    def forward(self, z_t: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        """Return the noise [B, 4, 16, 16]."""
        text = self.text_encoder(tokens).last_hidden_state
        return self.unet(z_t, t, text, class_labels=pose).sample


class Shards:
    """Latents and rows of heads, made as steps need them, so that a resumed run uses the same data."""

    def __init__(self, heads: Path, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.vae = AutoencoderKL.from_pretrained(heads / "vae", torch_dtype=torch.float32).eval()
        self.latents, self.heads = torch.empty(0, *(4, 16, 16)), list[Head]()
        folder.mkdir(parents=True, exist_ok=True)

    def at(self, step: int) -> None:
        """Load the shards that ``step`` draws from."""
        wanted = min(self.count, FIRST_SHARDS + step // STEPS_PER_SHARD)
        for number in range(len(self.heads) // SHARD, wanted):
            made = kept(self.folder / f"views-{number:04d}.pt", partial(self._made, number))
            self.latents = torch.cat([self.latents, made["latents"].float()])
            self.heads += [head_from_row(row) for row in made["heads"].numpy()]

    def _made(self, number: int) -> dict[str, torch.Tensor]:
        heads = [draw_head("train", number * SHARD + k) for k in range(SHARD)]
        z = self.vae.config.scaling_factor * encode(self.vae, np.stack([render(h) for h in heads]))
        return {"latents": z.half(), "heads": torch.tensor(np.array([row_of(h) for h in heads], dtype=np.float32))}


def train(
    heads: Path, out: Path, steps: int, *, shards: int = 60, batch: int = 32, lr: float = 4e-4, cooldown: int = 300
) -> StableDiffusionPipeline:
    """Train the posed UNet; ``heads``: the folder of the pipeline it begins with."""
    tokenizer = CLIPTokenizer.from_pretrained(heads / "tokenizer")
    data = Shards(heads, out / "views-data", shards)
    abar = DDIMScheduler.from_pretrained(heads / "scheduler").alphas_cumprod
    weight = noise_weights(abar)

    def loss(model: Any, rng: np.random.Generator, device: torch.device) -> dict[str, torch.Tensor]:
        rows = rng.integers(len(data.heads), size=batch)
        some = [data.heads[k] for k in rows]
        captions = [sample_caption(head, rng)[0] for head in some]
        tokens = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        pose = poses(some) * torch.from_numpy(rng.random(batch) >= UNPOSED)[:, None]
        z = data.latents[rows]
        t, eps = torch.randint(1000, (batch,)), torch.randn_like(z)
        t = torch.where(torch.rand(batch) < EARLY, torch.randint(400, 1000, (batch,)), t)
        a = abar[t][:, None, None, None]
        guess = model(
            (a.sqrt() * z + (1 - a).sqrt() * eps).to(device), t.to(device), tokens.input_ids.to(device), pose.to(device)
        )
        error = ((guess.float() - eps.to(device)) ** 2).mean((1, 2, 3))
        return {"eps": (weight[t].to(device) * error).mean()}

    torch.manual_seed(0)
    posed = Posed(heads)
    new = list(posed.unet.class_embedding.parameters())
    old = [p for p in posed.unet.parameters() if not any(p is q for q in new)]
    groups: list[dict[str, Any]] = [{"params": old}, {"params": new, "factor": FASTER}]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    model = fit(
        "views", posed, loss, out=out, steps=steps, lr=lr, ema=0.998, before_step=data.at, optimiser=optimiser,
        schedule=lambda step, total: hold(step, total, cooldown=cooldown),
    )  # fmt: skip
    return assemble(heads, model)


def export(heads: Path, out: Path) -> tuple[StableDiffusionPipeline, int]:
    """Return the averaged weights of the last checkpoint in ``out`` as a pipeline, and its step."""
    model, step = averaged("views", Posed(heads), out)
    return assemble(heads, model), step


@torch.no_grad()
def sample(pipe: StableDiffusionPipeline, heads: list[Head], texts: list[str], steps: int = 20) -> np.ndarray:
    """Sample pictures uint8 [n, H, W, 3] with the cameras of ``heads``, by DDIM with guidance 3."""
    prior, images = LatentPrior(pipe), []
    pipe.scheduler.set_timesteps(steps)
    for first in range(0, len(heads), 32):
        rows = slice(first, first + 32)
        condition = joined([prior.condition(text, "", 3.0) for text in texts[rows]])
        condition = replace(condition, pose=poses(heads[rows]))
        z = torch.randn(len(heads[rows]), *prior.latent_shape, generator=torch.Generator().manual_seed(first))
        for t in pipe.scheduler.timesteps:
            z = pipe.scheduler.step(prior.epsilon(z, int(t), condition), t, z).prev_sample
        images.append(((prior.decode(z).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(images)


def evaluate(pipe: StableDiffusionPipeline, judge: Any, prompts: int) -> tuple[dict[str, Any], np.ndarray]:
    """Measure on held-out heads whether samples have the attributes that the prompts tell and the cameras' azimuths;
    return the figures, and one prompt from twelve sides, uint8 [48, H, W, 3] for four prompts."""
    train, held = ([draw_head(split, k) for k in range(n)] for split, n in (("train", 3000), ("test", prompts)))
    azimuths, true = (np.array([h.camera.azimuth for h in some]) for some in (train, held))
    reader = AzimuthReader(judge, np.stack([render(h) for h in train]), azimuths)
    texts, told = [], []
    for k, head in enumerate(held):
        seen, rng = visible(head.values, head.camera), np.random.default_rng([7, k])
        named = {a for a in ATTRIBUTES if seen[a] and rng.random() < 0.65}
        texts.append(caption(head.values, named, head.camera.view))
        told.append({a: head[a] for a in named})
    images = sample(pipe, held, texts)
    figures: dict[str, Any] = {"prompts": prompts, "obedience": obedience(judge, images, told)}
    for name, pictures in (("azimuth", images), ("azimuth_of_renders", np.stack([render(h) for h in held]))):
        errors = np.abs((reader(pictures) - true + 180) % 360 - 180)
        figures[name] = {"median": float(np.median(errors)), "within_30": float((errors <= 30).mean())}
    around = [replace(h, camera=Camera(a, 7.5)) for h in held[:4] for a in range(0, 360, 30)]
    return figures, sample(
        pipe, around, [from_view(caption(h.values), h.camera.view, h.camera.azimuth) for h in around]
    )


def assemble(heads: Path, model: Posed) -> StableDiffusionPipeline:
    """Return an ordinary pipeline with the posed UNet."""
    model.unet.set_attn_processor(AttnProcessor2_0())
    return StableDiffusionPipeline.from_pretrained(
        heads, unet=model.unet, safety_checker=None, torch_dtype=torch.float32
    )
