"""The settings of a run in a line, as its config.yaml has them."""

from __future__ import annotations

from typing import Any

from ..inverse.methods import METHODS
from ..text_to_image.options import TextToImage

ALWAYS = {"particles": "N =", "steps": "L ="}
TOLD = {
    "restore": {
        "gamma": "gamma", "window": "window", "interacting": "interacting", "lambda_": "lambda", "rho": "rho",
        "lr_x": "lr_x", "lr_z": "lr_z", "x_step": "x-step", "features": "features",
    },
    "text-to-image": {
        "gamma": "gamma", "window": "window", "features": "features", "guidance": "guidance", "lr": "lr",
        "score": "score", "lr_phi": "lr_phi",
    },
    "text-to-3d": {
        "views": "views a step", "gamma": "gamma", "interaction": "between", "features": "features",
        "guidance": "guidance", "lr": "lr",
    },
    "toy": {"gamma": "gamma", "realisations": "pairs", "lr": "lr"},
}  # fmt: skip
"""By command: the settings that decide what a run shows, and what they are called."""
SILENT: dict[str, tuple[Any, ...]] = {"window": ([0.0, 1.0],), "x_step": ("adam",), "features": ("auto",)}
"""Values of settings that are not told: they change nothing, or are everybody's. Others are told unless None."""


def settings(command: str, config: dict[str, Any]) -> str:
    """Such as "N = 4, L = 100, gamma 12, lambda 0.05, rho 0.075, lr_z 0.6, x-step exact"; of a restoration those that
    its method reads."""
    chosen = {**ALWAYS, **TOLD[command]}
    method = config.get("method", "")
    if command == "restore":
        reads = [name for name in METHODS[method].uses if name != "lr_x" or config["x_step"] == "adam"]
        chosen = {name: title for name, title in chosen.items() if name in ALWAYS or name in reads}
    if command == "text-to-image":
        idle = TextToImage(method=method).unread
        chosen = {name: title for name, title in chosen.items() if name not in idle}
    known = {title: config[name] for name, title in chosen.items() if config.get(name) not in SILENT.get(name, (None,))}
    parts = [f"{title} {plain(value)}" for title, value in known.items()]
    return ", ".join([*parts, *config.get("hyper", [])])


def plain(value: Any) -> str:
    """A number as short as it can be, a list as a range."""
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]" if len(value) > 1 else plain(value[0])
    return f"{value:g}" if isinstance(value, float) else str(value)
