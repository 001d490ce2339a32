"""Read networks once and write films quickly, in tests whose subject is neither.

A command loads its prior anew, and chooses colours for its film, which takes as long as a test's few steps with a tiny
network.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

_LOADED: dict[Any, Any] = {}
_PLAIN = (dict, OrderedDict, list, set)


def _key(call: Callable, folder: Path, rest: Any) -> Any:
    """Return what a load depends on: the files too, in case a test writes others to the same folder."""
    files = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.glob("*.*")))
    return call.__module__, call.__qualname__, str(folder), files, str(rest)


def _clone(x: Any, seen: dict[int, Any]) -> Any:
    """Return a copy of a module; copy.deepcopy would take as long as reading the files."""
    if id(x) in seen:  # tied weights
        return seen[id(x)]
    if isinstance(x, torch.nn.Module):
        seen[id(x)] = new = x.__class__.__new__(x.__class__)
        own = {name: value.copy() if type(value) in _PLAIN else value for name, value in vars(x).items()}
        for kind in ("_parameters", "_buffers", "_modules"):
            own[kind] = {name: _clone(value, seen) for name, value in own[kind].items()}
        vars(new).update(own)
        return new
    if isinstance(x, torch.nn.Parameter):
        seen[id(x)] = new = torch.nn.Parameter(x.detach().clone(), x.requires_grad)
        return new
    return x if x is None else x.detach().clone()


def _copy(pipeline: Any) -> Any:
    """Return a copy of a pipeline of diffusers, with its tokenizers."""
    new = copy.copy(pipeline)
    for name, part in vars(pipeline).items():
        if isinstance(part, torch.nn.Module):
            vars(new)[name] = _clone(part, {})
    vars(new)["scheduler"] = copy.deepcopy(pipeline.scheduler)
    return new


def built_once(build: Callable) -> Callable:
    """Decorate a function that builds a random pipeline of diffusers from a folder and settings: it builds each once
    and hands out copies, which takes a third of the time, and leaves the global generator as it does."""
    made: dict[str, tuple[Any, torch.Tensor]] = {}

    @functools.wraps(build)
    def found(*given: Any, **settings: Any) -> Any:
        key = str(([one for one in given if not isinstance(one, Path)], sorted(settings.items())))
        if key not in made:
            made[key] = build(*given, **settings), torch.get_rng_state()
        pipeline, state = made[key]
        torch.set_rng_state(state)
        return _copy(pipeline)

    return found


def _model(load: Callable) -> Callable:
    """Return :func:`rsd.hub.weights.load_model`, which hands out copies of what it has read from a local folder."""

    def found(kind: Any, name: str, folder: Path | None, **how: Any) -> Any:
        if folder is None:
            return load(kind, name, folder, **how)
        key = _key(load, Path(folder) / how.get("part", ""), (kind, name, sorted(how.items())))
        if key not in _LOADED:
            _LOADED[key] = load(kind, name, folder, **how)
        return _clone(_LOADED[key], {})

    return found


def _classifier(load: Callable) -> Callable:
    def found(*folder: Path) -> Any:
        from rsd.heads.classifier import FOLDER, HeadsClassifier

        key = _key(load, *(folder or (FOLDER,)), None)
        if key not in _LOADED:
            _LOADED[key] = load(*folder)
        return HeadsClassifier(_clone(_LOADED[key].network, {}))

    return found


@contextmanager
def networks_read_once() -> Iterator[None]:
    """Read each local network, and the classifier of heads, once per process, and hand out copies. Files that a test
    replaces are read again, and an error is never kept. ``rsd.hub.weights.load_model`` itself, which tests/hub tests,
    reads files as ever."""
    import rsd.features.tiny_decoder
    import rsd.priors.parts
    from rsd.heads.classifier import HeadsClassifier

    with pytest.MonkeyPatch.context() as patch:
        for module in (rsd.features, rsd.features.tiny_decoder, rsd.priors.parts):
            patch.setattr(module, "load_model", _model(module.load_model))
        patch.setattr(HeadsClassifier, "load", _classifier(HeadsClassifier.load))
        yield


@contextmanager
def quick_films() -> Iterator[None]:
    """Choose the colours of films less carefully; their palettes would take a sixth of a short run."""
    quantize, octree = Image.Image.quantize, Image.Quantize.FASTOCTREE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "quantize", lambda x, colors, **how: quantize(x, colors, octree, **how))
        yield
