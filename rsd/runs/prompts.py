"""The prompts of a command, from its command line, a text file or a manifest, each with settings and a folder of its
own; and what commands with prompts have in common. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rsd.heads.reading import read, unknown_words, unread_words
from rsd.priors import over_heads
from rsd.runs.folder import slug
from rsd.runs.options import check_used, line_settings
from rsd.runs.settings import Line, Packaged, is_manifest, layers_of, plain, read_manifest, resolve

EMPTY = '""'
"""The line of a prompts file that means the empty prompt."""

RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{k}" for d in ("com", "lpt") for k in range(1, 10))}
"""Device names that Windows reserves, with any suffix."""


@dataclass(frozen=True, eq=False)
class PromptJob:
    """A prompt to run. ``name``: its title and folder, by default the prompt itself."""

    prompt: str
    name: str
    options: Any


Resolve = Callable[[dict[str, Any]], Any]
"""The options where a manifest's line chooses the method."""


@dataclass(frozen=True)
class PromptCommand:
    """A command whose inputs are prompts. ``kind``: the class of its options.

    ``packaged``: the packaged settings for options. ``same``: options that do not change a sample: a run may be
    resumed with other values, and config.yaml omits them. ``tidy``: (prompt, options) to the prompt that runs.
    """

    name: str
    kind: type
    packaged: Callable[[Any], Packaged]
    same: Collection[str]
    tidy: Callable[[str, Any], str] | None = None

    @property
    def prog(self) -> str:
        """The command in messages."""
        return f"rsd {self.name}"

    def layers(self, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields that --config sets, and those that the command line sets, whose prompts replace those of
        the file."""
        file, given = layers_of(self.kind, argv, prog=self.prog, positional="prompt")
        if "prompts" in given:
            file.pop("prompt", None)
        return file, given

    def resolve(self, file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the options from the packaged settings, then ``file``, then ``given``; and the name of the packaged
        settings."""
        kind: Any = self.kind
        found: tuple[Any, str | None] = resolve(kind, file, given, prog=self.prog, packaged=self.packaged)
        options, name = found
        assert name, "every method has packaged settings"
        return options, name

    def parse(self, argv: Sequence[str]) -> tuple[Any, str]:
        """Return what :meth:`resolve` returns for a command line."""
        return self.resolve(*self.layers(argv))

    def jobs(self, file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Any, list[PromptJob], str]:
        """Return the options, the prompts to run, and the name of the packaged settings.

        Raise ValueError for a field in ``given`` that the method does not read."""
        options, name = self.resolve(file, given)
        check_used(given, options.unread)

        def other(choice: dict[str, Any]) -> Any:
            return self.resolve(file, {**given, **choice})[0]

        return options, list_prompts(options, other, line_settings(self.kind, self.same), self.tidy), name

    def read(self, argv: Sequence[str]) -> tuple[Any, list[PromptJob]]:
        """Return the options of a command line and its prompts. Print where the settings come from."""
        options, jobs, name = self.jobs(*self.layers(argv))
        print(f"settings: {name}" + (f" and {options.config}" if options.config else "") + ", then your flags")
        sys.stdout.flush()
        return options, jobs

    def resolved(self, options: Any) -> dict[str, Any]:
        """Return the options as plain values for config.yaml."""
        found = {name: plain(value) for name, value in asdict(options).items() if name not in self.same}
        return {**found, "features": options.features_name}


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
    """Return the prompts of the command line, then those of ``file``, without duplicates; white space is one space.

    A file has one prompt per line, in UTF-8; blank lines and lines that start with # are skipped, and a line of two
    double quotes is the empty prompt. On the command line an empty prompt is usually a mistake (an unset variable), so
    it requires ``allow_empty``.

    Raises ValueError or FileNotFoundError for an empty prompt, a prompt that is the name of a file, no prompts, and a
    file that is missing, contains no prompt, or is not UTF-8.
    """
    given = [_tidy(prompt) for prompt in prompts]
    for prompt in given:
        if ("." in prompt or "/" in prompt) and os.path.isfile(prompt):
            raise ValueError(f"The prompt {prompt} is a file; use --prompts {prompt} to read prompts from it.")
    if "" in given and not allow_empty:
        raise ValueError("The prompt is empty; give a prompt, or --allow-empty to run without one.")
    if file is not None:
        given += read_prompts(file)
    if not given:
        raise ValueError("There is no prompt; give one, or a file of prompts with --prompts FILE.")
    once = list(dict.fromkeys(given))
    for prompt in once:
        if given.count(prompt) > 1:
            warnings.warn(f'The prompt "{prompt}" is given {given.count(prompt)} times; it is run once.', stacklevel=2)
    return once


def read_prompts(file: Path) -> list[str]:
    """Read the prompts of a file; see :func:`gather`."""
    if is_manifest(file):
        raise ValueError(
            f"The prompts file {file} is a manifest, which is not accepted here; give one prompt per line."
        )
    if not file.is_file():
        why = "is a folder" if file.is_dir() else "does not exist"
        raise FileNotFoundError(f"The prompts file {file} {why}; give a text file, one prompt per line.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"The prompts file {file} is not UTF-8 in line {line}; save it as UTF-8 text.") from error
    except OSError as error:
        raise ValueError(f"The prompts file {file} cannot be read ({error.strerror}); check it.") from error
    if "\0" in text:
        raise ValueError(f"The prompts file {file} is not text; give a text file, one prompt per line.")
    lines = [_tidy(line) for line in text.splitlines()]
    prompts = ["" if line == EMPTY else line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"The prompts file {file} contains no prompt; write one per line ({EMPTY} is the empty one).")
    return prompts


def prompt_notes(prompt: str, prior: str) -> list[str]:
    """Return notes about a prompt for a prior over heads, which knows few words; none for other priors."""
    if not over_heads(prior):
        return []
    twice = sorted(read(prompt).contradicted)
    words = f'The prompt "{prompt}" contradicts itself about {", ".join(twice)}; scores ignore that.'
    return [*word_notes(prompt, prior), *([words] if twice else [])]


def word_notes(text: str, prior: str) -> list[str]:
    """Return notes about the words of a text that a prior over heads does not know."""
    if not over_heads(prior):
        return []
    found = []
    unknown = unknown_words(text)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        words = ", ".join(f'"{word}"' for word in unknown[:5]) + more
        found.append(f"The prior {prior} was not trained on {words}; `rsd heads --help` lists its words.")
    unread = unread_words(text)
    if unread:
        words = ", ".join(f'"{word}"' for word in unread)
        found.append(f'The prior {prior} knows {words}, but not in the way "{text}" uses it; see `rsd heads --help`.')
    return found


def shorten(prompt: str, limit: int = 60) -> str:
    """Format a prompt for messages."""
    if not prompt:
        return EMPTY
    return prompt if len(prompt) <= limit else prompt[: limit - 3] + "..."


def folder_name(prompt: str) -> str:
    """Return a safe folder name for a prompt, at most 60 characters; different prompts have different names.

    It is ``slug``'s, which ends in a hash unless it is the prompt itself. A word with a dot (a file of the run) or a
    device name of Windows also gets a hash.
    """
    name = slug(prompt)
    if name != prompt or not ("." in name or name in RESERVED):
        return name
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return f"{name[:51].replace('.', '-')}-{mark}"


def default_name(prompts: Sequence[str], file: Path | None) -> str:
    """Return the default name of the output folder: of the prompts' file, or the first prompt and how many follow."""
    more = f"-and-{len(prompts) - 1}-more" if len(prompts) > 1 else ""
    return slug(file.name) if file else folder_name(prompts[0]) + more


def folder_names(prompts: Sequence[str]) -> dict[str, str]:
    """Return a folder name for each prompt. Raise ValueError if two are equal (one case in billions)."""
    names: dict[str, str] = {}
    for prompt in prompts:
        name = folder_name(prompt)
        other = next((p for p, n in names.items() if n == name and p != prompt), None)
        if other is not None:
            raise ValueError(f'The prompts "{other}" and "{prompt}" have the same folder name {name}; reword one.')
        names[prompt] = name
    return names


def _tidy(prompt: str) -> str:
    """Replace white space by single spaces, and strip it at the ends."""
    return " ".join(prompt.split())
