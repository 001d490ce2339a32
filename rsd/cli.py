"""The ``rsd`` command: select the subcommand, import only what it needs, and print errors as one sentence."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from rsd.errors import TRACEBACK, describe, is_mistake
from rsd.runs.flags import quoted
from rsd.runs.words import closest_name, match_name, normalise, synonyms

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
"""Let torch's threads sleep while they wait. By default they spin, which makes steps tens of times slower if other
programs use the same cores (docs/cost.md). torch reads this when it is imported, which is later."""

COMMANDS = {
    "restore": (
        "rsd.tasks.inverse.command",
        "restore images: inpainting, super-resolution, deblurring, phase, HDR, yours",
    ),
    "measure": ("rsd.tasks.inverse.command:measure", "measure clean images by an operator: files that restore takes"),
    "compare": ("rsd.tasks.inverse.compare.command", "methods x tasks x images on equal terms: one table, one picture"),
    "methods": ("rsd.tasks.inverse.methods", "the methods of restore and compare, with their citations"),
    "tasks": ("rsd.tasks.inverse.names", "the tasks of restore and compare, with their citations"),
    "config": ("rsd.tasks.config", "the settings that would apply to a task, and where each comes from"),
    "text-to-image": ("rsd.tasks.text_to_image.command", "draw several different pictures of a prompt"),
    "text-to-3d": ("rsd.tasks.text_to_3d.command", "make several different 3-D scenes of a prompt, and their meshes"),
    "sweep": ("rsd.tasks.text_to_image.sweep", "quality against diversity: methods x gammas x prompts, as a plot"),
    "calibrate": (
        "rsd.tasks.calibrate.command",
        "trust the spread: samples against exact posteriors of built-in heads",
    ),
    "toy": ("rsd.tasks.toy.command", "two Gaussians, two particles: how repulsion prevents collapse (paper, D.10.1)"),
    "reproduce": ("rsd.tasks.reproduce.command", "the paper's experiments: a report, and which claims hold here"),
    "ui": ("rsd.tasks.ui.command", "a page in the browser: restore, draw, make scenes, and watch the particles"),
    "heads": ("rsd.heads.command", "write built-in test images: procedural heads with known attributes"),
    "doctor": ("rsd.doctor", "what this machine can do, and why not"),
}

SYNONYMS = synonyms({
    "generate draw paint image t2i txt2img text2img text2image sample prompt dream":
        'to draw: rsd text-to-image "a man with a beard"',
    "3d t23d text23d textto3 mesh scene text2mesh": 'to make scenes: rsd text-to-3d "a man with a beard"',
    "fix repair run solve reconstruct degrade": "to restore images: rsd restore photo.png --task TASK",
    "benchmark bench table evaluate": "to compare methods: rsd compare --images FOLDER",
    "paper experiments experiment": "the paper's experiments: rsd reproduce --list",
    "gui web webui page app gradio browser interface server serve": "a page in the browser: rsd ui",
    "check info env devices gpu": "what this machine can do: rsd doctor",
    "list models priors": "rsd methods, rsd tasks and rsd doctor list what there is",
    "faces data testimages": "built-in test images: rsd heads --out heads",
    "train finetune": "the models ship trained; scripts/heads in a clone trains them",
})  # fmt: skip
"""Other words for commands, normalised (rsd.runs.words), and what to type."""

KEPT = {
    "restore": "; what was done is kept, continue with --resume",
    "compare": "; what was done is kept, the same command continues",
    "text-to-image": "; what was done is kept, continue with --resume",
    "sweep": "; what was done is kept, the same command continues",
    "reproduce": "; what was done is kept, continue with --resume",
}
"""The message after an interruption; the other commands keep nothing."""

SHARED = ("restore", "text-to-image", "text-to-3d", "doctor")
"""Commands for several processes; the others would write the same files in each."""

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def usage() -> str:
    """Return the text of ``rsd --help``."""
    lines = [f"  {name:<15}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "rsd: repulsive score distillation. N particles denoise, repel each other and fit your data.",
            "",
            "usage: rsd COMMAND ... (rsd COMMAND --help lists its options)",
            "",
            *lines,
            "",
            "exit codes: 0 all done, 1 some failed, 2 wrong usage or input, 130 interrupted (see --resume)",
            f"{TRACEBACK}=1 shows where an error comes from",
        ]
    )


def command_first(argv: list[str]) -> list[str]:
    """Return the command line with its command first, spelled as in COMMANDS. Raise ValueError, with a suggestion, if
    it contains no command."""
    first = match_name(argv[0], COMMANDS)
    if first in COMMANDS:
        return [first, *argv[1:]]
    if first.startswith("-"):
        # prefer a word that does not follow a flag: rsd --prior heads restore photo.png
        places = [place for place, word in enumerate(argv) if word in COMMANDS]
        free = [place for place in places if not argv[place - 1].startswith("-")]
        places = [place for place in places if argv[place] != "heads"]  # which is also a prior
        if free:
            return [argv[free[0]], *argv[: free[0]], *argv[free[0] + 1 :]]
        likely = "restore" if any(map(is_picture, argv)) else "COMMAND"
        rest = list(argv)
        if places:
            likely = rest.pop(places[0])
        raise ValueError(
            f"The command comes before the flags: {command_line('rsd', likely, *rest)} (rsd --help lists the commands)."
        )
    if is_picture(argv[0]):
        raise ValueError(
            f"{argv[0]} is not a command; to restore it: {command_line('rsd', 'restore', *argv)} --task TASK."
        )
    if meant := SYNONYMS.get(normalise(argv[0])):
        raise ValueError(f'There is no command "{argv[0]}"; {meant}.')
    found = closest_name(argv[0], COMMANDS)
    if found is None:
        from rsd.tasks.inverse.names import TASK_SYNONYMS, is_task, task_name

        task = task_name(argv[0])
        if is_task(task):
            raise ValueError(
                f"{argv[0]} is a task, not a command: {command_line('rsd', 'restore', *argv[1:], '--task', task)}"
            )
        if meant := TASK_SYNONYMS.get(normalise(argv[0])):
            raise ValueError(f'There is no command "{argv[0]}"; as a --task of rsd restore: {meant}.')
    hint = f' Did you mean "{found}"?' if found else ""
    raise ValueError(f'Unknown command "{argv[0]}".{hint} There are: {", ".join(COMMANDS)}.')


def is_picture(word: str) -> bool:
    """Return whether a word names a picture or an existing file."""
    return word.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")) or os.path.isfile(word)


def command_line(*words: str) -> str:
    """Format a command line, quoted for the shell."""
    return " ".join(quoted(word) for word in words)


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return DONE if argv else WRONG_USAGE
    if argv[0] in ("--version", "-V", "version"):
        from rsd import __version__

        print(f"rsd {__version__}")
        return DONE
    try:
        argv = command_first(argv)
    except ValueError as error:
        return _print_error(str(error))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and argv[0] not in SHARED:
        return _print_error(f"rsd {argv[0]} runs in one process; start it without a launcher.")
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), function or "main")
    try:
        return command(argv[1:])
    except KeyboardInterrupt:
        print(f"\nrsd: interrupted{KEPT.get(argv[0], '')}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # of `rsd restore --help | head`; discard the rest of the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _print_error(describe(error), WRONG_USAGE if is_mistake(error) else FAILED)


def _print_error(message: str, code: int = WRONG_USAGE) -> int:
    """Print an error with the rank of the process, if there are several. Return the exit code."""
    rank, size = (int(os.environ.get(name, k)) for k, name in enumerate(("RANK", "WORLD_SIZE")))
    who = f" (process {rank} of {size})" if size > 1 else ""
    print(f"rsd{who}: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
