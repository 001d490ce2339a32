"""The doctor reports what is installed and what is missing, and never crashes."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from rsd import __version__, doctor
from rsd.cli import main
from rsd.doctor import estimate


@pytest.fixture(autouse=True)
def nothing_optional(monkeypatch):
    """Hide the optional packages of this machine, which are slow to import."""
    monkeypatch.setattr(doctor, "BACKENDS", {})


def line(start: str) -> str:
    found = [text for text in doctor.report() if text.strip().startswith(start)]
    assert len(found) == 1, found
    return found[0]


def test_report():
    text = "\n".join(doctor.report())
    assert text.startswith(f"rsd {__version__} on Python {sys.version.split()[0]}")
    assert f"torch {torch.__version__.split('+')[0]}" in text and f"{torch.get_num_threads()} torch threads" in text
    for name in ("diffusers", "transformers", "accelerate", "numpy"):
        assert f"{name} {doctor._version(name)}" in text and f"{name} missing" not in text
    assert "GB free" in line("Hugging Face cache")


def test_main_prints_and_help(capsys):
    assert doctor.main(["--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == doctor.report()[0]
    assert main(["doctor", "--quik"]) == 2
    assert "There is no flag --quik. Did you mean --quick? rsd doctor --help lists them." in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        doctor.main(["--help"])
    assert "Skip the time estimates" in capsys.readouterr().out


def test_cuda(monkeypatch):
    class Card:
        name, total_memory = "Some GPU", 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: Card)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert line("cuda") == "cuda:0: Some GPU, 80 GiB; multiplies in float32, bfloat16, float16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    emulated = "not in bfloat16 (emulated: 20 to 40 times slower); --autocast is not possible"
    assert line("cuda") == f"cuda:0: Some GPU, 80 GiB; multiplies in float32, float16, {emulated}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "built for CUDA 12.8, but there is no driver or device" in line("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "a CPU build of torch" in line("cuda")


def test_backends(monkeypatch, tmp_path):
    (tmp_path / "breaks.py").write_text("raise OSError('no CUDA here\\nand more')")
    (tmp_path / "silent.py").write_text("raise RuntimeError")
    (tmp_path / "needs.py").write_text("import absent_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    names = ("numpy", "absent_package", "breaks", "silent", "needs")
    monkeypatch.setattr(doctor, "BACKENDS", dict.fromkeys(names, "what it is for: how to get it"))
    assert line("numpy") == f"  numpy {doctor._version('numpy')}"
    assert line("absent_package") == "  absent_package: missing; what it is for: how to get it"
    assert "does not import (no CUDA here); what it is for" in line("breaks")
    assert "does not import (RuntimeError()); what it is for" in line("silent")
    assert "does not import (No module named 'absent_dependency')" in line("needs")


def test_built_in_models(monkeypatch, tmp_path):
    (tmp_path / "latent" / "unet").mkdir(parents=True)
    (tmp_path / "latent" / "unet" / "weights").write_bytes(bytes(1_500_000))
    monkeypatch.setattr(doctor, "BUILT_IN", tmp_path)
    assert line("heads/latent").endswith("1.5 MB")
    assert 'the prior heads-flow: missing; train it with "python -m scripts.heads flow" in a' in line("heads/flow,")
    assert "the prior heads-flow-few: missing" in line("heads/flow-few")
    assert 'missing; train it with "python -m scripts.heads all" in a clone' in line("heads/features")
    assert '"python -m scripts.heads pixel" in a clone' in line("heads/pixel")
    assert '"python -m scripts.heads.face" in a clone' in line("heads/face")


def test_models_in_the_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "a" / "b"))
    assert "none yet at" in line("Hugging Face cache") and "GB free" in line("Hugging Face cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    repo = tmp_path / "models--someone--something"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs" / "x").write_bytes(bytes(20_000_000))
    (repo / "snapshots" / commit / "weights").symlink_to(repo / "blobs" / "x")
    assert "1 models" in line("Hugging Face cache")
    assert line("someone/something").endswith("0.02 GB")


def test_a_broken_section_does_not_stop_the_others(monkeypatch):
    def broken():
        raise RuntimeError("driver mismatch\nlong story")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    assert line("devices") == "devices: not available (driver mismatch)"
    assert line("heads/latent")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch does not import" in line("cpu")


def test_what_the_processor_multiplies_in(monkeypatch):
    held: dict[str, tuple[torch.dtype, ...]] = {}
    monkeypatch.setattr("rsd.priors.precision.multiplies_in", lambda dtype, device: dtype in held["has"])
    monkeypatch.setattr("rsd.priors.precision.instructions", lambda: ("amx_bf16", "avx512_bf16"))
    threads = f"{torch.get_num_threads()} torch threads; multiplies in float32"
    held["has"] = (torch.bfloat16,)
    assert line("cpu").endswith(
        f"{threads}, bfloat16 (amx_bf16, avx512_bf16), not in float16 (emulated: 20 to 40 times slower)"
    )
    held["has"] = ()
    assert line("cpu").endswith(
        f"{threads}, not in bfloat16 or float16 (emulated: 20 to 40 times slower); --autocast is not possible"
    )


def test_times_are_estimated_unless_quick(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "report", lambda: ["first"])
    seconds = dict.fromkeys([name for kind in estimate.KINDS for name in (*kind.passes, *kind.once)], 0.01)
    monkeypatch.setattr(estimate, "samples", dict)
    monkeypatch.setattr(estimate, "measure", lambda calls: seconds)
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  the restoration of `make demo` (N = 4, 50 steps): 15 to 30 s",
        "  a text-to-image run (N = 4, 240 steps): 37 to 74 s",
        "  a text-to-3d run of four scenes (N = 4, 12 steps): 1.8 to 3.5 minutes",
    ]
    monkeypatch.setattr(estimate, "samples", lambda: 1 / 0)
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["times: not available (division by zero)"]
    assert doctor.main(["--quick"]) == 0
    assert capsys.readouterr().out == "first\n"
