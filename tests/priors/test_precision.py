"""Which precisions a machine supports, and the messages if it does not."""

from __future__ import annotations

import argparse
import warnings

import pytest
import torch

from rsd.cli import main
from rsd.priors import load_prior
from rsd.priors.precision import check_autocast, multiplies_in, settle_autocast
from rsd.tasks.inverse.compare.options import Compare

BF, FP, X86 = torch.bfloat16, torch.float16, {"architecture": "x86_64"}
REFUSED = "--autocast multiplies in bfloat16, which this processor emulates, 20 to 40 times slower than float32; leave"


@pytest.fixture
def machine(monkeypatch):
    """``machine(capabilities, bf16=, fp16=, onednn=)``: a processor, and what oneDNN says of it."""

    def pretend(held, *, bf16=False, fp16=False, onednn=True):
        ops = argparse.Namespace(_is_mkldnn_bf16_supported=lambda: bf16, _is_mkldnn_fp16_supported=lambda: fp16)
        monkeypatch.setattr(torch.ops, "mkldnn", ops)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: held)

    return pretend


@pytest.mark.parametrize(
    ("held", "said", "found"),
    [
        (X86, {}, (False, False)),
        ({**X86, "avx512_bf16": True, "amx_bf16": False}, {"bf16": True}, (True, False)),
        ({**X86, "amx_bf16": True, "amx_fp16": True}, {"bf16": True, "fp16": True}, (True, True)),
        ({**X86, "avx512_f": True}, {"bf16": True, "fp16": True}, (False, False)),  # AVX-512 without it: emulated
        ({**X86, "amx_bf16": True}, {"bf16": False}, (False, False)),  # switched off by ONEDNN_MAX_CPU_ISA
        ({**X86, "amx_bf16": True}, {"bf16": True, "onednn": False}, (False, False)),  # a build without oneDNN
        ({"architecture": "aarch64"}, {"bf16": True}, (True, False)),  # Graviton 3
        ({"architecture": "aarch64"}, {}, (False, False)),  # Graviton 2
    ],
)
def test_a_processor_multiplies_in_what_it_has_and_onednn_takes(machine, held, said, found):
    machine(held, **said)
    assert (multiplies_in(BF), multiplies_in(FP)) == found
    assert multiplies_in(torch.float32) and multiplies_in(torch.float64)


def test_cards(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: {"cuda:0": (7, 5), "cuda:1": (8, 0)}[device]
    )
    monkeypatch.setattr(torch.version, "hip", None)
    assert [multiplies_in(BF, f"cuda:{k}") for k in (0, 1)] == [False, True]
    assert multiplies_in(FP, "cuda:0") and multiplies_in(BF, "mps") and multiplies_in(BF, "meta")
    with pytest.raises(ValueError, match=r"which this card \(cuda:0\) emulates"):
        check_autocast("cuda:0")


def test_a_flag_is_refused_and_a_settings_file_is_not_heeded(machine, capsys):
    machine(X86)
    with pytest.raises(ValueError, match=f"^{REFUSED} it out"):
        settle_autocast(True, "cpu", typed=True)
    assert settle_autocast(False, "cpu", typed=False) is False and capsys.readouterr().err == ""
    assert settle_autocast(True, "cpu", typed=False) is False
    note = "rsd: note: autocast, in the settings file, is ignored: this processor has no bfloat16; networks multiply"
    assert capsys.readouterr().err == f"{note} in float32.\n"
    machine({**X86, "amx_bf16": True}, bf16=True)
    assert settle_autocast(True, "cpu", typed=True) is settle_autocast(True, "cpu", typed=False) is True
    assert capsys.readouterr().err == ""


def test_every_way_to_a_prior_refuses(machine, tiny_folder):
    machine(X86)
    with pytest.raises(ValueError, match=REFUSED):
        load_prior(str(tiny_folder()), autocast=True)
    from scripts.bench import problem

    with pytest.raises(ValueError, match=REFUSED):
        problem.make("heads", particles=1, steps=1, autocast=True)


@pytest.mark.parametrize(("dtype", "tells"), [("bfloat16", True), ("float16", True), ("float32", False)])
def test_an_emulated_precision_is_reported(machine, tiny_folder, dtype, tells):
    machine(X86)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_prior(str(tiny_folder()), dtype=dtype)
    says = (
        f"this processor has no {dtype} and emulates it: half the memory, and 20 to 40 times slower than float32; leave"
    )
    assert [str(one.message) for one in caught if "emulates" in str(one.message)] == [
        f"{says} --dtype out for speed."
    ] * tells


def test_restore_refuses_the_flag_and_leaves_out_the_file_s(machine, monkeypatch, tmp_path, capsys):
    machine(X86)
    seen = []
    monkeypatch.setattr("rsd.tasks.inverse.head.run", lambda options, jobs: seen.append((options, jobs)) or 0)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    (tmp_path / "own.yaml").write_text("autocast: true\n")
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "task": "sr4"}\n{"image": "b.png", "seed": 1}\n')
    command = ["restore", str(tmp_path / "list.jsonl"), "--clean", "--task", "inpaint_half_face"]
    assert main([*command, "--autocast"]) == 2
    assert REFUSED in capsys.readouterr().err and not seen
    assert main([*command, "--config", str(tmp_path / "own.yaml")]) == 0
    options, jobs = seen.pop()
    assert "autocast, in the settings file, is ignored" in capsys.readouterr().err
    assert len(jobs) == 2 and not any(one.autocast for one in (options, *(job.options for job in jobs)))
    machine({**X86, "amx_bf16": True}, bf16=True)
    assert main([*command, "--config", str(tmp_path / "own.yaml")]) == 0
    assert seen[0][0].autocast and all(job.options.autocast for job in seen[0][1])


def test_compare_refuses_the_flag_and_leaves_out_the_file_s(machine, monkeypatch, tmp_path, capsys):
    machine(X86)
    seen: list[Compare] = []
    monkeypatch.setattr(
        "rsd.tasks.inverse.compare.run.run", lambda compare, found, _: seen.append((compare, found)) or 0
    )
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "0.png").touch()
    (tmp_path / "own.yaml").write_text("autocast: true\n")
    command = ["compare", "--images", str(tmp_path / "clean"), "--methods", "rlsd,dps"]
    assert main([*command, "--autocast"]) == 2
    assert REFUSED in capsys.readouterr().err and not seen
    assert main([*command, "--config", str(tmp_path / "own.yaml")]) == 0
    compare, found = seen.pop()
    assert not compare.autocast and len(found) == 2 and not any(pair.options.autocast for pair in found)
    assert "is ignored" in capsys.readouterr().err
