"""Check the arguments of ``rsd.restore`` before any model is loaded, and resolve its settings."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from rsd.features import check_features_name
from rsd.priors import check_prior_name, image_size, is_latent, takes_any_size
from rsd.runs.flags import joined
from rsd.runs.run import check_known

from .methods import METHODS, check_fits
from .operators import Operator, trial
from .operators.linear import check_exact
from .options import Settings, check_noise, check_steps, check_used, divergence_remedy
from .packaged import settings_of, settled
from .rlsd import image_shape


def check(y: Any, operator: Any, prior: Any, features: Any, changes: dict[str, Any]) -> str:
    """Return the prior's name. Raise ValueError for an argument of the wrong type or an unknown setting."""
    if isinstance(y, str | Path):
        raise ValueError(
            f'y is a path, "{y}"; give the tensor: rsd.media.read_image(path) for an image, read_measurement(path) '
            "for a .safetensors file."
        )
    if not isinstance(y, torch.Tensor):
        swapped = " (the order is: rsd.restore(y, operator))" if callable(y) else ""
        raise ValueError(
            f"y is of type {type(y).__name__}{swapped}; give a tensor [1, ...], torch.as_tensor(...)[None]."
        )
    if isinstance(operator, torch.Tensor):
        raise ValueError("The operator is a tensor (the order is: rsd.restore(y, operator)); give a function x -> y.")
    names = [one.name for one in fields(Settings)]
    check_known(names, changes)
    if isinstance(features, type) or not (isinstance(features, str) or callable(features)):
        kind = f"the class {features.__name__}" if isinstance(features, type) else f"of type {type(features).__name__}"
        raise ValueError(f"features is {kind}; give a name, or a function of images [B, 3, H, W] to [B, d].")
    if isinstance(features, str) and features != "auto":
        check_features_name(features)
    if isinstance(prior, str | Path):
        check_prior_name(str(prior))
        return str(prior)
    if isinstance(prior, type) or not (hasattr(prior, "epsilon") and hasattr(prior, "schedule")):
        kind = f"the class {prior.__name__}" if isinstance(prior, type) else f"of type {type(prior).__name__}"
        raise ValueError(
            f"prior is {kind}; give a name, a folder or a prior: for a pipeline in memory "
            "rsd.priors.latent.LatentPrior(pipeline) or rsd.priors.pixel.PixelPrior.from_pipeline(pipeline)."
        )
    return str(getattr(prior, "name", ""))


def settle(
    settings: Settings | None, changes: dict[str, Any], task: str, prior: str, preset: int | None
) -> tuple[Settings, str]:
    """Return the settings of a run and their source: ``settings`` if given, else the packaged ones, then ``changes``.
    Raise ValueError for a setting without effect, as the command line does."""
    yours = f", then yours: {', '.join(changes)}" if changes else ""
    if settings is not None:
        if not isinstance(settings, Settings):
            raise ValueError(
                f"settings is of type {type(settings).__name__}; give Settings(...), or its fields by name."
            )
        if preset is not None:
            raise ValueError(f"preset is {preset}, but settings are given too; leave one of them out.")
        return replace(settings, **_with_hyper(settings, changes)), f"your Settings{yours}"
    method = changes.get("method", "auto")
    if not isinstance(method, str):
        raise ValueError(f"method is {method!r}; give text.")
    found, source = settings_of(task, method=method, prior=prior, preset=preset)
    found = replace(found, **_with_hyper(found, {**changes, "method": found.method}))
    options, _ = settled(task, method=method, prior=prior, preset=preset)
    try:
        check_used(changes, replace(options, **changes))
    except ValueError as error:
        message = re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), str(error))
        raise ValueError(message) from None
    return found, source + yours


def _with_hyper(base: Settings, changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``changes``, with the hyper-parameters of ``base`` that they do not change, if the method stays."""
    own = changes.get("hyper")
    if not isinstance(own, list | tuple) or changes.get("method", base.method) != base.method:
        return changes
    return {**changes, "hyper": joined(base.hyper, own)}


def feature_size(settings: Settings, task: str, prior: str) -> int | None:
    """Return the size of the pictures that the packaged settings compare; None: as the features were trained."""
    return settled(task, method=settings.method, prior=prior, preset=None)[0].feature_size


def try_out(y: torch.Tensor, f: Operator, prior: Any, name: str, settings: Settings) -> None:
    """Raise ValueError, in one sentence, for an operator that the method or the prior cannot use, and for a y that the
    operator cannot produce."""
    named = isinstance(prior, str | Path)
    if named:
        check_steps(settings.method, settings.steps)
    size = image_size(name) if named else prior.image_size
    shape = picture_shape(y, f, prior, name)
    if size:
        latent = is_latent(name) if named else prior.latent or tuple(prior.latent_shape) != image_shape(prior)
        check_fits(settings.method, prior=name, latent=latent, operator=f.name, linear=f.linear, blind=f.blind)
    if settings.x_step == "exact" and "x_step" in METHODS[settings.method].uses:
        check_exact(f)
    place, dtype = (torch.device("cpu"), torch.float32) if named else (prior.device, prior.dtype)
    f.to(place)
    made = trial.measured(f, torch.zeros(1, *shape, device=place, dtype=dtype))
    trial.check_measurement(f, y.to(place), made, "y")
    check_noise(f.task, settings.sigma_v)
    if f.task == "operator":
        follows = trial.needs_gradient(settings.method, settings.x_step)
        trial.try_out(f, shape, place, gradient=follows, dtype=dtype)


def picture_shape(y: torch.Tensor, f: Operator, prior: Any, name: str) -> tuple[int, ...]:
    """Return the shape of the pictures (or points) that y measures: the prior's own; for a named prior that takes any
    size, the smallest multiple of y's sides that f measures as y, if there is one."""
    if not isinstance(prior, str | Path):
        return image_shape(prior)
    size = image_size(name)
    if takes_any_size(name) and y.ndim >= 3:
        for factor in range(1, 17):
            sides = (factor * y.shape[-2], factor * y.shape[-1])
            try:
                if trial.measured(f, torch.zeros(1, 3, *sides)).shape == y.shape:
                    return (3, *sides)
            except (ValueError, RuntimeError):  # f makes no pictures of that size
                continue
    return (3, size, size)


def diverged(where: str, settings: Settings) -> str:
    """Return the error message of a diverged run, with the remedy."""
    return f"The run diverged at {where}; {divergence_remedy(settings)}."
