"""``rsd ui`` before any page: its help, its mistakes, and what it imports."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from rsd.cli import main
from rsd.tasks.ui import command
from rsd.tasks.ui.options import HOST


@pytest.mark.parametrize("argv", [["--help"], ["ui", "--help"]])
def test_help_imports_neither_gradio_nor_torch(argv):
    code = (
        "import sys\nfrom rsd.cli import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit:\n    pass\n"
        "print('heavy:', *({'torch', 'gradio'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[-1] == "heavy:"
    assert "ui " in found


def test_the_page_is_for_this_machine_alone(capsys):
    assert HOST == "127.0.0.1"
    for flag in ("--share", "--host=0.0.0.0"):
        assert main(["ui", flag]) == 2
        assert f"There is no flag {flag.partition('=')[0]}" in capsys.readouterr().err


def test_mistakes_are_reported_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: object())
    (tmp_path / "file").touch()
    with socket.socket() as used:
        used.bind((HOST, 0))
        used.listen()
        port = used.getsockname()[1]
        told = {
            ("--port=0",): "port is 0; give 1 to 65535, for example 7860.",
            (f"--runs={tmp_path / 'file'}",): "is a file; choose another --runs.",
            (f"--port={port}",): f"Port {port} is in use; choose another with --port, for example {port + 1}.",
            ("runs",): '"runs" stands without a flag. rsd ui --help lists them.',
        }
        for argv, words in told.items():
            assert main(["ui", *argv]) == 2
            assert words in capsys.readouterr().err


def test_a_missing_package_is_reported_with_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["ui"]) == 2
    assert capsys.readouterr().err == "rsd: rsd ui needs gradio, which is not installed; type: pip install '.[ui]'\n"
