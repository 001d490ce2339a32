"""One resumable training loop, shared by every built-in model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

Loss = Callable[[Any, np.random.Generator, torch.device], dict[str, torch.Tensor]]
Schedule = Callable[[int, int], float]
T = TypeVar("T")


def cosine(step: int, steps: int, warmup: int = 100) -> float:
    """Return the learning-rate factor: linear warm-up, then half a cosine to 1% at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def kept(file: Path, make: Callable[[], T]) -> T:
    """Return what ``make`` returned, tensors in a tuple or dict, from ``file``; call it if the file is missing. The
    file is whole or not there, also if several processes make it at once."""
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.tmp")
        torch.save(make(), part)
        os.replace(part, file)
    found: T = torch.load(file, weights_only=True)
    return found


def hold(step: int, steps: int, cooldown: int = 0, warmup: int = 100) -> float:
    """Return the learning-rate factor of a run without a fixed end: linear warm-up, then 1, and linearly to 0 over the
    last ``cooldown`` steps. A resumed run may have other ``steps``, so the end can be chosen later."""
    return min((step + 1) / warmup, 1.0, (steps - step) / max(cooldown, 1))


def native_precision() -> str:
    """Return Accelerate's name of the fastest precision: "bf16" if the GPU, or else the CPU, supports it natively, else
    "no" (float32)."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "no"


def averaged(name: str, model: Any, out: Path) -> tuple[Any, int]:
    """Return ``model`` with the EMA weights of the checkpoint ``out/name.pt`` in eval mode, and its number of steps.
    The training may still be running."""
    state = torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    trainable = [p for p in model.parameters() if p.requires_grad]
    average = EMAModel(trainable)
    average.load_state_dict(state["ema"])
    average.copy_to(trainable)
    return model.eval(), state["step"]


def _save(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def fit(
    name: str,
    model: Any,
    loss: Loss,
    *,
    out: Path,
    steps: int,
    lr: float,
    ema: float = 0.999,
    weight_decay: float = 0.01,
    precision: str | None = None,
    schedule: Schedule = cosine,
    every: int = 100,
    layout: torch.memory_format = torch.channels_last,
    before_step: Callable[[int], None] | None = None,
    after_step: Callable[[Any, int], None] | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    check: Callable[[Any], dict[str, float]] | None = None,
) -> Any:
    """Minimise ``sum(loss(model, rng, device).values())`` with AdamW, or the ``optimiser`` given, whose groups may
    multiply the learning rate by a ``factor``; return the model with EMA weights, in eval mode.

    Random numbers depend on (step, process), and ``out/name.pt`` is rewritten every ``every`` steps, so an interrupted
    run resumes. ``precision``: Accelerate's name; None: :func:`native_precision`. ``check``: figures of the model with
    EMA weights, in eval mode, which are printed with each checkpoint; it may use no global random numbers.
    """
    accelerator = Accelerator(mixed_precision=precision or native_precision())
    trainable = [p for p in model.parameters() if p.requires_grad]
    if optimiser is None:
        optimiser = torch.optim.AdamW(trainable, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = EMAModel(trainable, decay=ema)
    checkpoint, start, spent = out / f"{name}.pt", 0, 0.0
    model = model.to(accelerator.device, memory_format=layout)
    average.to(accelerator.device)
    parts = {"model": model, "optimiser": optimiser, "ema": average}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])
        start, spent = state["step"], state["seconds"]
        accelerator.print(f"{name}: resuming at step {start} of {steps}", flush=True)
    prepared, stepper = accelerator.prepare(model, optimiser)
    prepared.train()
    clock, recent = time.monotonic(), []
    for step in range(start, steps):
        if before_step:
            before_step(step)
        for group in stepper.param_groups:
            group["lr"] = group.get("factor", 1.0) * lr * schedule(step, steps)
        rng = np.random.default_rng([step, accelerator.process_index])
        torch.manual_seed(step * 64 + accelerator.process_index)
        terms = loss(prepared, rng, accelerator.device)
        accelerator.backward(sum(terms.values()))
        accelerator.clip_grad_norm_(trainable, 1.0)
        stepper.step()
        stepper.zero_grad()
        average.step(trainable)
        if after_step:
            after_step(model, step)
        recent.append({k: float(v.detach()) for k, v in terms.items()})
        if (step + 1) % every == 0 or step + 1 == steps:
            elapsed = time.monotonic() - clock
            means = "  ".join(f"{k} {np.mean([r[k] for r in recent]):.5f}" for k in recent[0])
            if check:
                average.store(trainable)
                average.copy_to(trainable)
                means += "".join(f"  {k} {v:.3f}" for k, v in check(model.eval()).items())
                average.restore(trainable)
                model.train()
            rate, minutes = elapsed / (step + 1 - start), (spent + elapsed) / 60
            accelerator.print(f"{name} {step + 1}/{steps}  {means}  {rate:.2f} s/step  {minutes:.1f} min", flush=True)
            recent = []
            if accelerator.is_main_process:
                states = {key: part.state_dict() for key, part in parts.items()}
                _save(checkpoint, {**states, "step": step + 1, "seconds": spent + elapsed})
    average.copy_to(trainable)
    return model.eval()
