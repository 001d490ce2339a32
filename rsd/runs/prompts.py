"""The prompts of a command, from its command line, a text file or a manifest, each with settings and a folder of its
own. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsd.heads.reading import read, unknown_words, unread_words
from rsd.priors import over_heads
from rsd.runs.folder import slug
from rsd.runs.options import check_used
from rsd.runs.settings import Line, is_manifest, read_manifest

EMPTY = '""'
"""How a line of a prompts file says the empty prompt."""

RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{k}" for d in ("com", "lpt") for k in range(1, 10))}
"""Names that Windows keeps for devices, whatever their suffix."""


@dataclass(frozen=True, eq=False)
class PromptJob:
    """A prompt to run. ``name``: its title and folder, by default the prompt itself."""

    prompt: str
    name: str
    options: Any


Resolve = Callable[[dict[str, Any]], Any]
"""The options where a manifest's line chooses the method."""


def list_prompts(
    options: Any,
    resolve: Resolve,
    settings: Collection[str],
    tidy: Callable[[str, Any], str] | None = None,
) -> list[PromptJob]:
    """Return the prompts of the command line, then those of --prompts: a text file (see :func:`gather`), or a manifest
    whose lines have a "prompt", a "name" and any of ``settings``.

    ``resolve``: the options with another method. ``tidy``: a prompt as it is run with its options. Random numbers
    depend on the prompt and the seed, not on the name.
    Raises what :func:`gather` and :func:`rsd.runs.settings.read_manifest` raise, and ValueError if two lines have one
    name, or a name that is another's prompt.
    """
    file = options.prompts if options.prompts and is_manifest(options.prompts) else None
    texts: list[str] = []
    if options.prompt or file is None:
        texts = gather(options.prompt, None if file else options.prompts, allow_empty=options.allow_empty)
    texts = [tidy(text, options) for text in texts] if tidy else texts
    jobs = [PromptJob(text, text, options) for text in dict.fromkeys(texts)]
    if file is None:
        return jobs
    chosen: dict[str, Any] = {}

    def make(line: Line) -> PromptJob:
        values = dict(line.settings)
        method = values.pop("method", None)
        if method is not None and method not in chosen:
            chosen[method] = resolve({"method": method})
        own = replace(options if method is None else chosen[method], **values)
        own.check()
        check_used(line.settings, own.unread)
        prompt = _tidy(line.source)
        prompt = tidy(prompt, own) if tidy else prompt
        if not (prompt or options.allow_empty):
            raise ValueError("the prompt is empty; say what to draw, or --allow-empty to draw without a prompt.")
        return PromptJob(prompt, line.name or prompt, own)

    example = '{"prompt": "a man with a beard", "seed": 7}'
    jobs += read_manifest(file, type(options), "prompt", settings, make, example=example)
    if not jobs:
        raise ValueError(f"The manifest {file} holds no prompt; write a line such as {example}.")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'Two prompts have one name, "{twice}"; give each line its own "name".')
    return jobs


def gather(prompts: Sequence[str] = (), file: Path | None = None, *, allow_empty: bool = False) -> list[str]:
    """The prompts given on the command line, then those of ``file``, each once and in order; runs of white space in
    them are one space.

    A file holds one prompt a line, in UTF-8; blank lines and lines that start with # are skipped, and a line of two
    double quotes is the empty prompt. On the command line an empty prompt is more often a slip (an unset variable) than
    meant, so it needs ``allow_empty``. A prompt given twice is run once, with a warning.

    Raises ValueError or FileNotFoundError, in one sentence: for an empty prompt, one that is the name of a file, no
    prompts at all, and a file that is missing, holds none, or is not UTF-8.
    """
    given = [_tidy(prompt) for prompt in prompts]
    for prompt in given:
        if ("." in prompt or "/" in prompt) and os.path.isfile(prompt):
            raise ValueError(f"The prompt {prompt} is a file; draw what its lines say with --prompts {prompt}.")
    if "" in given and not allow_empty:
        raise ValueError("The prompt is empty; say what to draw, or --allow-empty to draw without a prompt.")
    if file is not None:
        given += read_prompts(file)
    if not given:
        raise ValueError("There is no prompt; say what to draw, or give a file of prompts with --prompts FILE.")
    once = list(dict.fromkeys(given))
    for prompt in once:
        if given.count(prompt) > 1:
            warnings.warn(f'The prompt "{prompt}" is given {given.count(prompt)} times; it is run once.', stacklevel=2)
    return once


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file, as :func:`gather` describes it; raises what it raises."""
    if is_manifest(file):
        raise ValueError(f"The prompts file {file} is a manifest, which is not taken here; give one prompt a line.")
    if not file.is_file():
        why = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"The prompts file {file} {why}; give a text file, one prompt a line.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"The prompts file {file} is not UTF-8 in line {line}; save it as UTF-8 text.") from error
    except OSError as error:
        raise ValueError(f"The prompts file {file} cannot be read ({error.strerror}); check it.") from error
    if "\0" in text:
        raise ValueError(f"The prompts file {file} is not text; give a text file, one prompt a line.")
    lines = [_tidy(line) for line in text.splitlines()]
    prompts = ["" if line == EMPTY else line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"The prompts file {file} holds no prompt; write one a line ({EMPTY} is the empty one).")
    return prompts


def notes(prompt: str, prior: str) -> list[str]:
    """What someone should know who gives this prompt to a prior of this name, one sentence each; only those over heads
    know few words."""
    if not over_heads(prior):
        return []
    twice = sorted(read(prompt).contradicted)
    told = f'The prompt "{prompt}" tells {", ".join(twice)} in two ways; no score counts that.'
    return [*strange(prompt, prior), *([told] if twice else [])]


def strange(text: str, prior: str) -> list[str]:
    """Which words of any text, also one that no score reads, a prior over heads does not know, one sentence each."""
    if not over_heads(prior):
        return []
    found = []
    unknown = unknown_words(text)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        told = ", ".join(f'"{word}"' for word in unknown[:5]) + more
        found.append(f"The prior {prior} was never told of {told}; `rsd heads --help` lists its words.")
    unread = unread_words(text)
    if unread:
        told = ", ".join(f'"{word}"' for word in unread)
        found.append(f'The prior {prior} knows {told}, but not of what "{text}" says so; see `rsd heads --help`.')
    return found


def folder_name(prompt: str) -> str:
    """A safe folder name for a prompt, of 60 characters at most; different prompts have different ones.

    ``slug``'s, which ends in a hash of the prompt unless it is the prompt itself; a word that could be another file of
    the run (it has a dot) or a device (on Windows) also gets the hash.
    """
    name = slug(prompt)
    if name != prompt or not ("." in name or name in RESERVED):
        return name
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{name[:51].replace('.', '-')}-{mark}"


def default_name(prompts: Sequence[str], file: Path | None) -> str:
    """What the folder of these prompts is called where the user names none: after their file, or after the first of
    them and how many more there are."""
    more = f"-and-{len(prompts) - 1}-more" if len(prompts) > 1 else ""
    return slug(file.name) if file else folder_name(prompts[0]) + more


def folder_names(prompts: Sequence[str]) -> dict[str, str]:
    """The folder of each prompt, each its own. Raises ValueError in the one case in billions where two are alike."""
    names: dict[str, str] = {}
    for prompt in prompts:
        name = folder_name(prompt)
        other = next((p for p, n in names.items() if n == name and p != prompt), None)
        if other is not None:
            raise ValueError(f'The prompts "{other}" and "{prompt}" have the same folder name {name}; reword one.')
        names[prompt] = name
    return names


def _tidy(prompt: str) -> str:
    """White space of any kind is one space, none at the ends."""
    return " ".join(prompt.split())
