"""The ``rsd`` command: picks the subcommand, loads only what it needs, and turns errors into one sentence."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from rsd.errors import TRACEBACK, is_mistake, told

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
"""torch's threads sleep while they wait for one another: by default they spin, and beside other programs that want the
same cores each step is then tens of times slower (docs/cost.md). Read when torch is imported, which is later."""

COMMANDS = {
    "restore": (
        "rsd.tasks.inverse.command",
        "restore images: inpainting, super-resolution, deblurring, phase, HDR, yours",
    ),
    "measure": ("rsd.tasks.inverse.measuring", "measure clean images by an operator: files that restore takes"),
    "compare": ("rsd.tasks.inverse.compare", "methods x tasks x images on equal terms: one table, one picture"),
    "methods": ("rsd.tasks.inverse.list_methods", "the methods of restore and compare, with their citations"),
    "tasks": ("rsd.tasks.inverse.list_tasks", "the tasks of restore and compare, with their citations"),
    "text-to-image": ("rsd.tasks.text_to_image.command", "draw several different pictures of a prompt"),
    "text-to-3d": ("rsd.tasks.text_to_3d.command", "make several different 3-D scenes of a prompt, and their meshes"),
    "sweep": ("rsd.tasks.text_to_image.sweep", "quality against diversity: methods x gammas x prompts, as a plot"),
    "toy": ("rsd.tasks.toy.command", "two Gaussians, two particles: how repulsion prevents collapse (paper, D.10.1)"),
    "reproduce": ("rsd.tasks.reproduce.command", "the paper's experiments: a report, and which claims hold here"),
    "heads": ("rsd.heads.command", "write built-in test images: procedural heads with known attributes"),
    "doctor": ("rsd.doctor", "what this machine can do, and why not"),
}

GO_ON = {
    "restore": "; what was done is kept, go on with --resume",
    "compare": "; what was done is kept, the same command goes on",
    "text-to-image": "; what was done is kept, go on with --resume",
    "sweep": "; what was done is kept, the same command goes on",
    "reproduce": "; what was done is kept, go on with --resume",
}
"""What an interrupted user is told; the other commands keep nothing."""

SHARED = ("restore", "text-to-image", "text-to-3d", "doctor")
"""What several processes may run; the others would all write the same files."""

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def usage() -> str:
    """The text of ``rsd --help``."""
    lines = [f"  {name:<15}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "rsd: repulsive score distillation. N particles denoise, repel one another and fit your data.",
            "",
            "usage: rsd COMMAND ... (rsd COMMAND --help tells its options)",
            "",
            *lines,
            "",
            "exit codes: 0 all done, 1 some failed, 2 wrong usage or input, 130 interrupted (see --resume)",
            f"{TRACEBACK}=1 shows where an error comes from",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return DONE if argv else WRONG_USAGE
    if argv[0] == "--version":
        from rsd import __version__

        print(f"rsd {__version__}")
        return DONE
    if argv[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        return _complain(f'Unknown command "{argv[0]}".{hint} There are: {", ".join(COMMANDS)}.')
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and argv[0] not in SHARED:
        return _complain(f"rsd {argv[0]} runs in one process; start it without a launcher.")
    command: Callable[[list[str]], int] = importlib.import_module(COMMANDS[argv[0]][0]).main
    try:
        return command(argv[1:])
    except KeyboardInterrupt:
        print(f"\nrsd: interrupted{GO_ON.get(argv[0], '')}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _complain(told(error), WRONG_USAGE if is_mistake(error) else FAILED)


def _complain(message: str, code: int = WRONG_USAGE) -> int:
    rank, size = (int(os.environ.get(name, k)) for k, name in enumerate(("RANK", "WORLD_SIZE")))
    who = f" (process {rank} of {size})" if size > 1 else ""
    print(f"rsd{who}: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
