"""Train the built-in "heads" models: ``python -m scripts.heads all --work DIR``, from nothing to evaluated weights
(`heads-pixels` from the packaged ones, unless ``--pixel-init None``).

Every stage can be run alone, resumes with the same command if interrupted, and uses CUDA if Accelerate finds it
(``accelerate launch -m scripts.heads ...`` for several processes).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    IFPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import ResNetForImageClassification, ViTModel

import rsd.heads
from rsd.heads.attributes import ATTRIBUTES, VIEWS
from rsd.heads.data import head_from_row, load_shards, make_shard
from rsd.priors.index import BUILT_IN, FEW, FLOW, POSED, SHARED
from rsd.runs.flags import Flag, script
from scripts.heads import autoencoder, classifier, errors, evaluate, features, latent, pixel, views
from scripts.heads.flow import few
from scripts.heads.flow import train as flow

WEIGHTS = Path(rsd.heads.__file__).parent / "weights"
STAGES = (
    "data", "autoencoder", "latent", "decoder", "classifier", "features", "evaluate", "pixel-data", "pixel",
    "pixel-evaluate",
)  # fmt: skip


@dataclass
class Heads:
    """Train the built-in models, stage by stage."""

    stage: Annotated[
        Literal[
            "all",
            "data",
            "autoencoder",
            "latent",
            "decoder",
            "classifier",
            "features",
            "evaluate",
            "pixel-data",
            "pixel",
            "pixel-export",
            "pixel-errors",
            "pixel-evaluate",
            "views",
            "views-export",
            "views-evaluate",
            "flow",
            "flow-export",
            "flow-errors",
            "flow-evaluate",
            "flow-few",
            "flow-few-evaluate",
        ],  # fmt: skip
        Flag(positional=True),
    ]
    """Stage to run; "all" runs those of "heads" and "heads-pixels" in order. "…-export" writes the weights of an
    unfinished run to ``out``, and "…-errors" measures them there in a minute, without sampling."""
    work: Path = Path("runs/heads")
    """Data and checkpoints (about 2 GB)."""
    out: Path = WEIGHTS
    """Folder of the finished models."""
    threads: int = 0
    """Number of torch threads (0: one per core)."""
    shards: int = 40
    """Training shards of 2,000 heads each; of the pixel model, 500 heads with their twins each."""
    autoencoder_steps: int = 3600
    latent_steps: int = 4800
    decoder_steps: int = 5000
    classifier_steps: int = 2000
    features_steps: int = 2000
    pixel_steps: int = 90_000
    """Steps of the pixel model; a resumed run may use another number."""
    pixel_cooldown: int = 300
    """Final steps over which the learning rate, constant before, falls to 0."""
    pixel_batch: int = 32
    pixel_lr: float = 5e-4
    pixel_lean: float = 3.0
    """Limit of the pixel model's loss weights at high noise; a resumed run may use another. From scratch, start at 20:
    colours, which are decided there, come first."""
    pixel_init: Path | None = WEIGHTS / "pixel"
    """Pipeline with the pixel model's initial weights if ``work`` has no checkpoint; None: train from scratch."""
    pixel_prompts: int = 256
    """Number of prompts of "pixel-evaluate"; the model card's figures use 256."""
    views_steps: int = 4000
    """Steps of the prior of views; a resumed run may use another number."""
    views_cooldown: int = 300
    """Final steps over which its learning rate, otherwise constant, falls to 0."""
    views_prompts: int = 256
    """Number of prompts of "views-evaluate"; the model card's figures use 256."""
    flow_steps: int = 40_000
    """Steps of the flow prior; a resumed run may use another number."""
    flow_cooldown: int = 300
    """Final steps over which the flow prior's learning rate, otherwise constant, falls to 0."""
    flow_shards: int = 40
    """Training shards of the flow prior, 500 heads each, computed once, one in 100 steps."""
    flow_init: Path | None = WEIGHTS / "flow"
    """Pipeline with the flow prior's text encoder, and its initial weights if ``work`` has no checkpoint; None: train
    both from scratch."""
    flow_batch: int = 24
    flow_lr: float = 1e-3
    few_steps: int = 10_000
    """Steps of the distillation of the flow prior to four steps; a resumed run may use another number."""
    few_shards: int = 40
    """Shards of its paths, 250 each."""
    flow_prompts: int = 256
    """Number of prompts of "flow-evaluate"; the model card's figures use 256."""


def data(o: Heads) -> None:
    """Render the missing shards."""
    _render(o.work / "data", "train", o.shards, make_shard)
    _render(o.work / "data", "validation", 1, make_shard)


def pixel_data(o: Heads) -> None:
    """Render the missing shards of the pixel model: 32 px, views from all sides, twins to train on."""
    _render(o.work / "pixel-data", "train", o.shards, pixel.make_twin_shard)
    _render(o.work / "pixel-data", "validation", 1, pixel.make_pixel_shard)


def _render(folder: Path, split: str, shards: int, make: Callable[[str, int], dict[str, np.ndarray]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        file = folder / f"{split}-{shard:04d}.npz"
        if not file.exists():
            made = make(split, shard)
            part = file.with_suffix(f".{os.getpid()}.tmp")
            with part.open("wb") as opened:
                np.savez(opened, images=made["images"], heads=made["heads"])
            os.replace(part, file)


def _initial(folder: Path | None) -> Path | None:
    """Return the folder of initial weights, or None if it is the package's and missing there. Raise ValueError if
    another one is missing."""
    if folder is None or folder.is_dir():
        return folder
    if folder.parent != WEIGHTS:
        raise ValueError(f"The folder of initial weights {folder} does not exist; check the path.")
    print(f"{folder} is missing: training from nothing")
    return None


def _load(o: Heads, split: str, folder: str = "data") -> dict[str, np.ndarray]:
    return load_shards(o.work / folder, split)


def train_autoencoder(o: Heads) -> None:
    """Train encoder and decoder together."""
    model = autoencoder.train(_load(o, "train")["images"], o.work, o.autoencoder_steps)
    model.save_pretrained(o.work / "autoencoder")
    print(autoencoder.psnr(model, _load(o, "validation")["images"]))


def train_latent(o: Heads) -> None:
    """Train the diffusion model on the frozen encoder's latents."""
    vae = AutoencoderKL.from_pretrained(o.work / "autoencoder").eval()
    latent.train(vae, _load(o, "train"), o.work, o.latent_steps).save_pretrained(o.work / "latent")


def train_decoder(o: Heads) -> None:
    """Train the decoder alone for longer; can run in parallel to ``latent``."""
    vae = AutoencoderKL.from_pretrained(o.work / "autoencoder").eval()
    vae = autoencoder.train_decoder(vae, _load(o, "train")["images"], o.work, o.decoder_steps)
    vae.save_pretrained(o.work / "decoder")
    print(autoencoder.psnr(vae, _load(o, "validation")["images"]))


def train_classifier(o: Heads) -> None:
    """Train the scoring network."""
    model = classifier.train(_load(o, "train"), o.work, o.classifier_steps)
    print(json.dumps(classifier.accuracy(model, _load(o, "validation")), indent=1))
    model.half().save_pretrained(o.out / "classifier")


def train_features(o: Heads) -> None:
    """Train the feature map of the repulsion."""
    model = features.train(_load(o, "train")["images"], o.work, o.features_steps)
    model.half().save_pretrained(o.out / "features")


def train_pixel(o: Heads) -> None:
    """Train the diffusion model of 32 px pictures from all sides."""
    pipe = pixel.train(
        _load(o, "train", "pixel-data"), o.work, o.pixel_steps, batch=o.pixel_batch, lr=o.pixel_lr, most=o.pixel_lean,
        init=_initial(o.pixel_init), cooldown=o.pixel_cooldown,
    )  # fmt: skip
    _ship(pipe, o.out / "pixel")


def export_pixel(o: Heads) -> None:
    """Write the averaged weights of the pixel model's last checkpoint, during training or after it was stopped."""
    pipe, step = pixel.export(o.work)
    _ship(pipe, o.out / "pixel")
    print(f"{o.out / 'pixel'}: the weights of step {step}")


def train_views(o: Heads) -> None:
    """Train the prior that knows where the camera stands. Renders and encodes its own data."""
    _ship_some(views.train(o.out / "latent", o.work, o.views_steps, cooldown=o.views_cooldown), o.out, POSED)


def export_views(o: Heads) -> None:
    """Export the averaged weights of the last checkpoint of the prior of views, during or after training."""
    pipe, step = views.export(o.out / "latent", o.work)
    _ship_some(pipe, o.out, POSED)
    print(f"{o.out / 'views'}: the weights of step {step}")


def _ship_some(pipe: DiffusionPipeline, out: Path, name: str) -> None:
    """Save the built-in prior of that name in ``out``, without the parts that it has from another one."""
    folder = out / BUILT_IN[name]
    _ship(pipe, folder)
    for part in SHARED[name]:
        shutil.rmtree(folder / part)


def run_views_evaluation(o: Heads) -> None:
    """Measure the half-precision prior of views in ``out``: "views" in figures.json, views-samples.png in ``work``."""
    judge = ResNetForImageClassification.from_pretrained(o.out / "classifier", dtype=torch.float32).eval()
    heads = StableDiffusionPipeline.from_pretrained(o.out / "latent", safety_checker=None, dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(o.out / "views" / "unet", torch_dtype=torch.float32)
    heads.register_modules(unet=unet)
    figures, around = views.evaluate(heads, judge, o.views_prompts)
    _note(o, {"views": figures})
    evaluate.contact_sheet(around, 12).save(o.work / "views-samples.png")


def train_flow(o: Heads) -> None:
    """Train the flow prior. Renders and encodes its own data."""
    pipe = flow.train(
        o.out / "latent", o.work, o.flow_steps, shards=o.flow_shards, batch=o.flow_batch, lr=o.flow_lr,
        cooldown=o.flow_cooldown, init=_initial(o.flow_init),
    )  # fmt: skip
    _ship_some(pipe, o.out, FLOW)


def export_flow(o: Heads) -> None:
    """Export the averaged weights of the flow prior's last checkpoint, during or after training."""
    pipe, step = flow.export(o.out / "latent", o.work, init=_initial(o.flow_init))
    _ship_some(pipe, o.out, FLOW)
    print(f"{o.out / 'flow'}: the weights of step {step}")


def train_few(o: Heads) -> None:
    """Distil the flow prior in ``out`` to four steps."""
    pipe = few.train(
        o.out / "latent", o.out / BUILT_IN[FLOW], o.work, o.few_steps, shards=o.few_shards, cooldown=o.flow_cooldown
    )
    _ship_some(pipe, o.out, FEW)


def _flow_networks(
    o: Heads, name: str
) -> tuple[ResNetForImageClassification, StableDiffusionPipeline, StableDiffusion3Pipeline]:
    """Load the classifier, "heads", and a flow prior in ``out``, FLOW or FEW."""
    judge = ResNetForImageClassification.from_pretrained(o.out / "classifier", dtype=torch.float32).eval()
    heads = StableDiffusionPipeline.from_pretrained(o.out / "latent", safety_checker=None, dtype=torch.float32)
    heads.vae.register_to_config(shift_factor=0.0)

    def load(name: str, owner: dict[str, DiffusionPipeline]) -> StableDiffusion3Pipeline:
        shared = {part: getattr(owner[other], part) for part, other in SHARED[name].items()}
        return StableDiffusion3Pipeline.from_pretrained(
            o.out / BUILT_IN[name], **shared, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
        )

    pipe = load(FLOW, {"heads": heads})
    return judge, heads, pipe if name == FLOW else load(name, {"heads": heads, FLOW: pipe})


def _renders(o: Heads) -> np.ndarray:
    """Render twice as many validation heads as "flow-evaluate" has prompts, uint8 [n, 64, 64, 3]."""
    return make_shard("validation", 0, 2 * o.flow_prompts)["images"]


def run_few_evaluation(o: Heads) -> None:
    """Measure the prompt agreement and the Frechet distance of the four-step flow prior in ``out``. Writes "flow-few"
    to figures.json and flow-few-samples.png to ``work``."""
    judge, _, pipe = _flow_networks(o, FEW)
    pairs = evaluate.prompts(o.flow_prompts)
    images = evaluate.sample(
        pipe, [text for text, _ in pairs], 1.0, len(few.GRID) - 1, sigmas=list(few.GRID[:-1]), height=64, width=64,
        max_sequence_length=0,
    )  # fmt: skip
    figures = {
        "prompts": len(pairs),
        "obedience": evaluate.obedience(judge, images, [named for _, named in pairs]),
        "frechet": evaluate.frechet(judge, images, _renders(o)),
    }
    _note(o, {"flow-few": figures})
    evaluate.contact_sheet(images[:64], 8).save(o.work / "flow-few-samples.png")


def run_flow_evaluation(o: Heads) -> None:
    """Measure the prompt agreement of the half-precision flow prior in ``out`` and of "heads", on the same prompts with
    the same number of network passes, and their Frechet distances to renders. Writes "flow" to figures.json and
    flow-samples.png to ``work``."""
    judge, heads, pipe = _flow_networks(o, FLOW)
    pairs = evaluate.prompts(o.flow_prompts)
    texts, told = [text for text, _ in pairs], [told for _, told in pairs]
    images = evaluate.sample(pipe, texts, height=64, width=64, max_sequence_length=0)
    theirs = evaluate.sample(heads, texts, height=64, width=64)
    renders = _renders(o)
    figures = {
        "prompts": len(pairs),
        "obedience": evaluate.obedience(judge, images, told),
        "obedience_of_heads": evaluate.obedience(judge, theirs, told)["all"],
        "frechet": evaluate.frechet(judge, images, renders),
        "frechet_of_heads": evaluate.frechet(judge, theirs, renders),
    }
    _note(o, {"flow": figures})
    free = evaluate.sample(pipe, [""] * 32, guidance=1.0, seed=1, height=64, width=64, max_sequence_length=0)
    evaluate.contact_sheet(np.concatenate([images[:32], free]), 8).save(o.work / "flow-samples.png")


def _ship(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save in half precision, without the paths of this machine."""
    pipe.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("*.json"):  # diffusers records where a model was loaded from
        entry = json.loads(file.read_text())
        if isinstance(entry, dict) and entry.pop("_name_or_path", None):
            file.write_text(json.dumps(entry, indent=2) + "\n")


def assemble(o: Heads) -> None:
    """Write the pipeline with the longer-trained decoder to ``out``, in half precision."""
    pipe = StableDiffusionPipeline.from_pretrained(o.work / "latent", safety_checker=None)
    vae = AutoencoderKL.from_pretrained(o.work / "decoder")
    vae.register_to_config(scaling_factor=pipe.vae.config.scaling_factor)
    pipe.register_modules(vae=vae)
    _ship(pipe, o.out / "latent")


def run_evaluation(o: Heads, count: int = 256) -> None:
    """Evaluate the half-precision models in ``out`` on held-out heads: figures.json there, samples.png in ``work``."""
    if (o.work / "decoder").exists() and (o.work / "latent").exists():
        assemble(o)
    held = _load(o, "validation")
    pipe = StableDiffusionPipeline.from_pretrained(o.out / "latent", safety_checker=None, dtype=torch.float32)
    judge = ResNetForImageClassification.from_pretrained(o.out / "classifier", dtype=torch.float32).eval()
    vit = ViTModel.from_pretrained(o.out / "features", add_pooling_layer=False, dtype=torch.float32).eval()
    pairs = evaluate.prompts(count)
    images = evaluate.sample(pipe, [text for text, _ in pairs], height=64, width=64)
    free = evaluate.sample(pipe, [""] * 32, guidance=1.0, seed=1, height=64, width=64)
    neighbours = features.nearest_neighbour(vit, held["images"], held["heads"][:, : len(ATTRIBUTES)].astype(int))
    figures = {
        "autoencoder": autoencoder.psnr(pipe.vae, held["images"]),
        "classifier": classifier.accuracy(judge, held),
        "obedience": evaluate.obedience(judge, images, [named for _, named in pairs]),
        "features_1nn": dict(zip(ATTRIBUTES, map(float, neighbours), strict=True)),
    }
    _note(o, figures)
    evaluate.contact_sheet(np.concatenate([images[:32], free]), 8).save(o.work / "samples.png")


def pixel_errors(o: Heads) -> None:
    """Print the errors of the pixel model in ``out`` on held-out pictures, and their increase by wrong words."""
    _print_table(errors.held_out_errors(IFPipeline.from_pretrained(o.out / "pixel", dtype=torch.float32)))


def flow_errors(o: Heads) -> None:
    """Print the errors of the denoised estimates of the flow prior in ``out`` and of "heads", without a prompt."""
    _print_table(errors.flow_errors(o.out / "latent", _flow_networks(o, FLOW)[2]))


def _print_table(rows: dict[str, list[float]]) -> None:
    for name, values in rows.items():
        print(f"{name:16s}", *(f"{v:9.5f}" for v in values))


def run_pixel_evaluation(o: Heads) -> None:
    """Evaluate how the half-precision pixel model in ``out`` follows attributes and view words, beside the judges'
    accuracy on true pictures: "pixels" in figures.json, pixel-samples.png in ``work``."""
    judge = ResNetForImageClassification.from_pretrained(o.out / "classifier", dtype=torch.float32).eval()
    train, held = _load(o, "train", "pixel-data"), _load(o, "validation", "pixel-data")
    views = {
        name: [head_from_row(row).camera.view for row in d["heads"]] for name, d in (("train", train), ("held", held))
    }
    reader = evaluate.ViewReader(judge, train["images"][:4000], views["train"][:4000])
    pipe = IFPipeline.from_pretrained(o.out / "pixel", dtype=torch.float32)
    pairs = evaluate.prompts(o.pixel_prompts, view="all")
    images = evaluate.sample(pipe, [text for text, _ in pairs], clean_caption=False)
    codes, seen = classifier.targets(held)
    right = torch.from_numpy(evaluate.classify(judge, held["images"])) == codes
    wanted = [next(view for view in VIEWS if text.endswith(view)) for text, _ in pairs]
    found = reader(images)
    figures = {
        "prompts": len(pairs),
        "judge_of_attributes": float(right[seen].float().mean()),
        "judge_of_views": float(np.mean(np.array(reader(held["images"])) == views["held"])),
        "obedience": evaluate.obedience(judge, images, [named for _, named in pairs]),
        "views": {v: float(np.mean([f == v for f, w in zip(found, wanted, strict=True) if w == v])) for v in VIEWS},
        "view": float(np.mean(np.array(found) == wanted)),
    }
    _note(o, {"pixels": figures})
    free = evaluate.sample(pipe, [""] * 32, guidance=1.0, seed=1, clean_caption=False)
    evaluate.contact_sheet(np.concatenate([images[:32], free]), 8, 4).save(o.work / "pixel-samples.png")


def _note(o: Heads, figures: dict[str, Any]) -> None:
    """Print figures and update figures.json."""
    print(json.dumps(figures, indent=1))
    file = o.out / "figures.json"
    older = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**older, **figures}, indent=1) + "\n")


RUN = {
    "data": data, "autoencoder": train_autoencoder, "latent": train_latent, "decoder": train_decoder,
    "classifier": train_classifier, "features": train_features, "evaluate": run_evaluation,
    "pixel-data": pixel_data, "pixel": train_pixel, "pixel-export": export_pixel,
    "pixel-errors": pixel_errors, "pixel-evaluate": run_pixel_evaluation,
    "views": train_views, "views-export": export_views, "views-evaluate": run_views_evaluation,
    "flow": train_flow, "flow-export": export_flow, "flow-errors": flow_errors, "flow-evaluate": run_flow_evaluation,
    "flow-few": train_few, "flow-few-evaluate": run_few_evaluation,
}  # fmt: skip


def main() -> None:
    """Run the stage, or all of them."""
    o = script(Heads, "python -m scripts.heads")
    if o.threads:
        torch.set_num_threads(o.threads)
    for stage in STAGES if o.stage == "all" else (o.stage,):
        RUN[stage](o)


if __name__ == "__main__":
    main()
