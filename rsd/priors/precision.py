"""Which precisions a device supports in hardware. CPUs without half precision emulate it, 20 to 40 times slower."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BFLOAT16, FLOAT16 = ("amx_bf16", "avx512_bf16"), ("amx_fp16", "avx512_fp16")
"""Names of the x86 instructions that multiply in half precision."""


def instructions() -> tuple[str, ...]:
    """Return those of :data:`BFLOAT16` and :data:`FLOAT16` that this CPU supports."""
    import torch

    held = torch.cpu.get_capabilities()
    return tuple(name for name in (*BFLOAT16, *FLOAT16) if held.get(name))


def multiplies_in(dtype: torch.dtype, device: str | torch.device = "cpu") -> bool:
    """Return whether ``device`` multiplies in ``dtype`` in hardware (always for float32 and float64). A CPU needs the
    instructions and PyTorch's oneDNN. oneDNN's own answer is right on Arm; on x86 it is also yes for AVX-512, which
    only converts."""
    import torch

    kind = torch.device(device).type
    if dtype not in (torch.bfloat16, torch.float16) or kind not in ("cpu", "cuda"):
        return True
    half = dtype == torch.float16
    if kind == "cuda":  # Ampere (8.0) was the first with bfloat16; all have float16
        return half or bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    if not torch.backends.mkldnn.is_available():
        return False
    onednn = torch.ops.mkldnn
    taken = onednn._is_mkldnn_fp16_supported() if half else onednn._is_mkldnn_bf16_supported()
    if torch.cpu.get_capabilities().get("architecture") != "x86_64":
        return bool(taken)
    return bool(taken) and not set(FLOAT16 if half else BFLOAT16).isdisjoint(instructions())


def check_autocast(device: str | torch.device = "cpu") -> None:
    """Raise ValueError if the device does not support bfloat16."""
    import torch

    if not multiplies_in(torch.bfloat16, device):
        raise ValueError(
            f"--autocast multiplies in bfloat16, which {_called(device)} emulates, 20 to 40 times slower than "
            "float32; leave it out (`rsd doctor` lists what this machine supports)."
        )


def settle_autocast(asked: bool, device: str | torch.device, *, typed: bool) -> bool:
    """Return whether to use autocast. If the device does not support bfloat16, raise ValueError if the flag was
    ``typed``, and ignore it with a note if it is from a settings file."""
    import torch

    if not asked or typed or multiplies_in(torch.bfloat16, device):
        if asked:
            check_autocast(device)
        return asked
    print(
        f"rsd: note: autocast, in the settings file, is ignored: {_called(device)} has no bfloat16; networks "
        "multiply in float32.",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return False


def slow(dtype: torch.dtype, device: str | torch.device) -> str | None:
    """Return a warning if the device emulates ``dtype``; None otherwise."""
    if multiplies_in(dtype, device):
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"{_called(device)} has no {name} and emulates it: half the memory, and 20 to 40 times slower than float32; "
        "leave --dtype out for speed."
    )


def _called(device: str | torch.device) -> str:
    kind = str(device).partition(":")[0]
    return "this processor" if kind == "cpu" else f"this card ({device})"
