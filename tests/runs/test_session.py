"""Errors as sentences, devices, checkpoints, and messages after an interruption."""

from __future__ import annotations

import importlib

import pytest
import torch

from rsd import cli
from rsd.distributed import pick_device
from rsd.errors import describe, is_mistake
from rsd.runs.folder import RunFolder
from rsd.runs.run import Run
from rsd.runs.session import Session, collect_failure, flat, nested


@pytest.mark.parametrize(
    "state",
    [
        {"step": 3, "z": torch.ones(2)},
        {"a": {"b": {}, "c": []}, "d": [torch.zeros(1), {}, [], {"e": 1.5}], "f": {}},
        {"moments": {0: {"step": torch.tensor(2.0)}, 1: {}}},
        {},
    ],
)
def test_a_checkpoint_brings_back_what_it_was_given(state):
    def plain(value):
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else torch.as_tensor(value).tolist()

    assert plain(nested(flat(state))) == plain(state)


def test_a_checkpoint_of_another_version_is_reported(tmp_path):
    class Strict(Run):
        def load_state(self, state):
            state["new"]

    folder = RunFolder(tmp_path)
    folder.open({})
    folder.save_checkpoint(flat({"old": 1}), {"step": 1})
    with pytest.raises(
        ValueError, match="has no 'new': another version of rsd wrote it; delete checkpoint.safetensors"
    ):
        Session(Strict(), folder, None)


def test_a_checkpoint_that_only_some_processes_see_is_reported_by_all(tmp_path):
    class Shared:
        """Return what one of two processes prints. ``others``: whether the other sees a checkpoint, then whether it
        sees none."""

        def __init__(self, *others: bool):
            self.others = iter(others)

        def agree(self, flag: bool) -> bool:
            return next(self.others) or flag

    folder = RunFolder(tmp_path)
    folder.open({})
    run = Run()
    run.ensemble = Shared(True, False)
    with pytest.raises(ValueError, match=r"Some of the processes see no checkpoint.safetensors in .*share"):
        Session(run, folder, None)
    folder.save_checkpoint({}, {"step": 1})
    run.ensemble = Shared(False, True)
    with pytest.raises(ValueError, match="others do"):
        Session(run, folder, None)


@pytest.mark.parametrize("name", ["mps", "meta", "cuda", "cuda:99", "xpu:3"])
def test_a_device_that_cannot_compute_is_refused(name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is Metal here")
    with pytest.raises(ValueError, match=f"^Device {name} .*; use --device cpu or see `rsd doctor`.$"):
        pick_device(name)
    assert pick_device("cpu") == torch.device("cpu")


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL)
def test_full_memory_names_the_flags_that_help(error):
    wrapped = ValueError("The prior did not load")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        sentence = describe(one)
        assert sentence.startswith("Out of memory (") and "--chunk 1" in sentence and "--dtype" in sentence
        assert "\n" not in sentence and not is_mistake(one)


def test_an_unexpected_error_is_reported_with_type_and_location():
    def broken(_):
        raise TypeError("bad operand\nmore")

    failures: dict[str, str] = {}
    collect_failure("good", failures, lambda: None, several=True)
    collect_failure("a", failures, lambda: broken(1), several=True)
    collect_failure(
        "b", failures, lambda: (_ for _ in ()).throw(ValueError("The photo is grey; use another.")), several=True
    )
    collect_failure("c", failures, lambda: torch.ones(2) @ torch.ones(3), several=True)
    line = broken.__code__.co_firstlineno + 1
    assert (
        failures["a"] == f"TypeError in test_session.py, line {line}: bad operand (RSD_TRACEBACK=1 shows the traceback)"
    )
    assert failures["b"] == "The photo is grey; use another." and failures["c"].startswith(
        "RuntimeError in test_session"
    )
    assert set(failures) == {"a", "b", "c"}
    with pytest.raises(TypeError):
        collect_failure("a", failures, lambda: broken(1), several=False)
    with pytest.raises(KeyboardInterrupt):
        collect_failure("a", failures, lambda: (_ for _ in ()).throw(KeyboardInterrupt), several=True)


def command(monkeypatch, error):
    class Module:
        @staticmethod
        def main(argv):
            raise error

    monkeypatch.setattr(importlib, "import_module", lambda name: Module)


@pytest.mark.parametrize(
    ("name", "said"),
    [("restore", "continue with --resume"), ("sweep", "the same command continues"), ("toy", ""), ("heads", "")],
)
def test_ctrl_c_says_how_to_go_on_where_one_can(name, said, monkeypatch, capsys):
    command(monkeypatch, KeyboardInterrupt())
    assert cli.main([name]) == 130
    kept = f"; what was done is kept, {said}" if said else ""
    assert capsys.readouterr().err == f"\nrsd: interrupted{kept}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("No."), 2), (OSError("No."), 2), (KeyError("No."), 1), (FULL[0], 1)]
)
def test_errors_of_a_command_are_one_sentence_and_a_traceback_only_on_request(error, code, monkeypatch, capsys):
    command(monkeypatch, error)
    assert cli.main(["toy"]) == code
    said = capsys.readouterr().err
    assert said.startswith("rsd: ") and said.count("\n") == 1
    monkeypatch.setenv("RSD_TRACEBACK", "1")
    with pytest.raises(type(error)):
        cli.main(["toy"])
