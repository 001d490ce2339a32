"""``rsd text-to-image``: read flags, files and prompts, then run. Imports nothing heavy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rsd.errors import plain_warnings
from rsd.runs import flags
from rsd.runs.options import check_used, line_settings
from rsd.runs.prompts import PromptJob, list_prompts
from rsd.runs.settings import tokens

from .options import TextToImage
from .packaged import NO_PIXEL, parse

if TYPE_CHECKING:
    from .head import ImageHead


def list_jobs(options: TextToImage, argv: list[str]) -> list[PromptJob]:
    """Return the prompts to run. ``argv``: the flags that a manifest's line with another method keeps."""
    settings = line_settings(TextToImage, NO_PIXEL)
    return list_prompts(options, lambda choice: parse([*argv, *tokens(choice)])[0], settings)


def head_of(argv: list[str]) -> ImageHead:
    """Return the head that runs these arguments."""
    options, _ = parse(argv)
    jobs = list_jobs(options, argv)
    from .head import ImageHead

    return ImageHead(options, jobs)


def main(argv: list[str]) -> int:
    """Draw; return the exit code."""
    with plain_warnings():
        options, name = parse(argv)
        check_used(flags.values(TextToImage, argv, prog="rsd text-to-image"), options.unread)
        jobs = list_jobs(options, argv)
        print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        sys.stdout.flush()
        from .head import run

        return run(options, jobs)
