"""``rsd ui``: read the flags, and serve the page until Ctrl-C. Imports nothing heavy."""

from __future__ import annotations

import socket
from importlib.util import find_spec

from rsd.runs import flags
from rsd.runs.settings import make_folder

from .options import HOST, Ui


def main(argv: list[str]) -> int:
    """Serve the page; return the exit code."""
    options = flags.parse(Ui, argv, prog="rsd ui")
    options.check()
    check_installed()
    check_port(options.port)
    make_folder(options.runs)
    print("rsd ui is starting ...", flush=True)
    from .serve import serve

    return serve(options)


def check_installed() -> None:
    """Raise ImportError, with the remedy, if gradio is not installed."""
    if find_spec("gradio") is None:
        raise ImportError("rsd ui needs gradio, which is not installed; type: pip install '.[ui]'")


def check_port(port: int) -> None:
    """Raise ValueError if another program uses the port, OSError if this one may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise PermissionError(f"Port {port} needs special rights; choose one from 1024 on with --port.") from error
        except OSError as error:
            raise ValueError(f"Port {port} is in use; choose another with --port, for example {port + 1}.") from error
