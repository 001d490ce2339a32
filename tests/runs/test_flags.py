"""Command lines: values of flags and lists, error messages, and --help in groups."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from rsd.cli import main
from rsd.runs import flags
from rsd.runs.flags import Flag, docs_of, fields_of, groups, help_text, parse, positional_of, values
from rsd.tasks.inverse.compare.options import Compare
from rsd.tasks.inverse.options import Restore
from rsd.tasks.text_to_3d.options import TextTo3D
from rsd.tasks.text_to_image.options import TextToImage
from rsd.tasks.text_to_image.sweep import Sweep
from rsd.tasks.toy.command import Toy

KINDS = {
    "restore": Restore, "compare": Compare, "text-to-image": TextToImage, "text-to-3d": TextTo3D, "sweep": Sweep,
    "toy": Toy, "reproduce": import_module("rsd.tasks.reproduce.options").Reproduce,
    "heads": import_module("rsd.heads.command").Heads,
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("photo.png", "my mask.png"):
        (tmp_path / name).touch()


def read(kind, line):
    return values(kind, line.split(), prog="rsd x")


@pytest.mark.parametrize(
    ("kind", "line", "found"),
    [
        (Toy, "--gammas 0,10", {"gammas": (0, 10)}),
        (Toy, "--gammas 0, 10 , 20", {"gammas": (0, 10, 20)}),
        (Toy, "--gammas=-1,1e3 5", {"gammas": (-1, 1000, 5)}),
        (Toy, "--gammas 1 --lr 0.2 --gammas 2", {"gammas": (1, 2), "lr": 0.2}),
        (Restore, "--metrics lpips,clip photo.png", {"metrics": ("lpips", "clip"), "images": (Path("photo.png"),)}),
        (Restore, "--metrics LPIPS photo.png", {"metrics": ("lpips",), "images": (Path("photo.png"),)}),
        (Restore, "--metrics lpips clip no.png", {"metrics": ("lpips", "clip"), "images": (Path("no.png"),)}),
        (Restore, "--metrics fid --metrics clip", {"metrics": ("fid", "clip")}),
        (Restore, "--hyper a=1,b=2 c=3 photo.png", {"hyper": ("a=1", "b=2", "c=3"), "images": (Path("photo.png"),)}),
        (Restore, "--window 0,0.5 photo.png", {"window": (0, 0.5), "images": (Path("photo.png"),)}),
        (Restore, "--box 1,2 3,4", {"box": (1, 2, 3, 4)}),
        (Restore, "-n4 --gamma -5 --lr_x 1", {"particles": 4, "gamma": -5, "lr_x": 1}),
        (Restore, "--clean photo.png", {"clean": True, "images": (Path("photo.png"),)}),
        (Restore, "--no-clean --clean=true", {"clean": True}),
        (Restore, "--keep-known --seed 1", {"keep_known": True, "seed": 1}),
        (Restore, "--keep-known=False", {"keep_known": False}),
        (Restore, "--keep-known=None --chunk None", {"keep_known": None, "chunk": None}),
        (Restore, "--dtype Float16 --x-step EXACT", {"dtype": "float16", "x_step": "exact"}),
        (Restore, "--clean -- --photo.png", {"clean": True, "images": (Path("--photo.png"),)}),
        (Compare, "--methods a,b c --tasks sr4:8", {"methods": ("a", "b", "c"), "tasks": ("sr4:8",)}),
        (Sweep, "--features pixels a/b m:f cat.d", {"features": ("pixels", "a/b", "m:f", "cat.d")}),
    ],
)
def test_what_a_line_says(kind, line, found):
    assert read(kind, line) == found


def test_lists_end_where_prompts_begin():
    words = ["--methods", "SDS", "vsd", "red dog", "--gammas", "0", "5", "a cat"]
    assert values(Sweep, words, prog="rsd sweep") == {
        "methods": ("SDS", "vsd"), "gammas": (0, 5), "prompt": ("red dog", "a cat"),
    }  # fmt: skip
    words = ["--view-prompts", "back=a tail, long, side=ears", "front=a nose", "a dog"]
    assert values(TextTo3D, words, prog="rsd text-to-3d") == {
        "view_prompts": ("back=a tail, long", "side=ears", "front=a nose"), "prompt": ("a dog",),
    }  # fmt: skip
    assert values(TextTo3D, ["--grid", "4", "8", ""], prog="rsd text-to-3d") == {"grid": (4, 8), "prompt": ("",)}


@pytest.mark.parametrize(
    ("kind", "line", "told"),
    [
        (Restore, "-n four", 'particles is "four"; give a whole number.'),
        (Restore, "-n 4.5", 'particles is "4.5"; give a whole number.'),
        (Restore, "--steps 1,000", 'steps is "1,000"; give a whole number, without commas.'),
        (Restore, "--gamma 0,5", 'gamma is "0,5"; give a number, with a decimal point.'),
        (Restore, "--lambda x", 'lambda is "x"; give a number.'),
        (Restore, "--window 0.5 photo.png", 'window is "0.5"; give 2 numbers.'),
        (Restore, "--box 1 2 3 4 5", 'box is "1 2 3 4 5"; give 4 whole numbers.'),
        (Restore, "--mask= --clean", 'mask is ""; give a path.'),
        (Restore, "--dtype fp16", "give one of float32, float16, bfloat16, float64. Did you mean \"float16\"?"),
        (Restore, "--metrics photo.png", 'metrics is "photo.png"; give some of lpips, dists, clip, fid.'),
        (Restore, "--metrics lpips clp photo.png", 'metrics is "clp"; give some of lpips, dists, clip, fid. Did'),
        (Restore, "--metrics lpips,zap", 'metrics is "zap"; give some of lpips, dists, clip, fid.'),
        (Restore, "--gamma --clean", "--gamma has no value; give a number."),
        (Restore, "--prompt -a", 'is written --prompt="-a ...".'),
        (Restore, "--partcles 3", "There is no flag --partcles. Did you mean --particles? rsd x --help lists them."),
        (Restore, "-steps 3", "There is no flag -steps. Did you mean --steps?"),
        (Restore, "--Steps 3", "There is no flag --Steps. Did you mean --steps?"),
        (Restore, "—task sr4", '"—task" starts with a long dash; flags start with two short ones: --.'),
        (Restore, "--clean=maybe", '--clean is "maybe"; write --clean, or --no-clean for no.'),
        (Restore, "photo.png --mask my mask.png", 'my and mask.png are one path; put it in quotes: "my mask.png"'),
        (Restore, "my mask.png photo.png", 'my and mask.png are one path; put it in quotes: "my mask.png"'),
        (Sweep, "--methods sds vds", 'methods is "vds"; give some of sds, vsd, nfsd, svgd, ancestral'),
        (Sweep, "--gammas 0 ten", 'gammas is "ten"; give a list of numbers; a prompt of one word comes before the'),
        (Compare, "heads", '"heads" stands without a flag. Did you mean --images heads? rsd x --help lists them.'),
        (Toy, "5", '"5" stands without a flag. rsd x --help lists them.'),
        (KINDS["reproduce"], "table2 table3", "Give one name, not 2 (table2, table3)."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_reported_in_our_words(kind, line, told):
    with pytest.raises(ValueError) as error:
        read(kind, line)
    assert told in str(error.value) and "invalid literal" not in str(error.value)


def test_a_needed_flag_is_reported_with_an_example():
    with pytest.raises(ValueError) as error:
        parse(KINDS["heads"], [], prog="rsd heads")
    assert str(error.value) == "--out is missing; give a path, for example rsd heads --out heads."


@pytest.mark.parametrize("command", ["text-to-image", "text-to-3d", "sweep"])
@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("a man with a beard", '"a man with a beard"'),
        ("a man -n 2 with a beard --seed 3", '"a man with a beard" -n 2 --seed 3'),
        ("--seed 3 red dog", '--seed 3 "red dog"'),
    ],
)
def test_an_unquoted_prompt_is_an_error_with_the_quoted_command(command, words, typed, capsys):
    assert main([command, *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "prompts of one word each (" in error
    assert f"put it in quotes: rsd {command} {typed} (otherwise write them to a file" in error


@pytest.mark.parametrize(
    ("kind", "words", "count"),
    [
        (TextToImage, ["a red dog", "cat"], 2),
        (TextToImage, ["cat"], 1),
        (TextToImage, ["--negative-prompt", "ugly", "cat"], 1),
        (TextToImage, ["--prompts", "file.txt"], 0),
        (Restore, ["photo.png", "other.png", "--prompt", "man"], 2),
        (Restore, ["--prompt", "man", "photo.png"], 1),
    ],
)
def test_what_needs_no_quotes_is_taken(kind, words, count):
    assert len(values(kind, words, prog="rsd x").get(positional_of(kind).name, ())) == count


def test_an_unquoted_text_of_a_flag_is_an_error():
    with pytest.raises(ValueError) as error:
        read(Restore, "photo.png --prompt a man with a beard")
    assert str(error.value) == (
        '--prompt is "a", and "man with a beard" would be an image; if they belong together, put them in quotes: '
        '--prompt "a man with a beard"'
    )
    with pytest.raises(ValueError, match='and "ugly" would be a prompt; .* --negative-prompt "blurry ugly"'):
        values(TextToImage, ["a man", "--negative-prompt", "blurry", "ugly"], prog="rsd x")


@pytest.mark.parametrize("command", KINDS)
def test_every_flag_is_in_one_group_and_says_what_happens_without_it(command):
    kind = KINDS[command]
    listed = [name for names in groups(kind).values() for name in names]
    assert sorted(listed) == sorted(fields_of(kind)) and "more" not in groups(kind)
    for name, field in fields_of(kind).items():
        doc = docs_of(kind)[name]
        assert field.default is not None or re.search(flags.DESCRIBES_DEFAULT, doc), (
            f"{name}: say in its docstring what happens by default"
        )
    text = help_text(kind, prog=f"rsd {command}")
    for wrong in ("None", "(default: )", "False", "True", "STR", "FLOAT"):
        assert wrong not in text, wrong
    assert all(field.flag.positional or f"{field.dashed}" in text for field in fields_of(kind).values())
    assert max(map(len, text.splitlines())) <= 92  # examples are whole


@pytest.mark.parametrize("command", KINDS)
def test_the_first_screen_has_usage_and_examples_that_can_be_typed(command):
    kind = KINDS[command]
    top = help_text(kind, prog=f"rsd {command}").splitlines()[:24]
    assert top[0].startswith(f"usage: rsd {command} ")
    shown = [line.strip() for line in top if line.startswith("  rsd ")]
    assert shown == list(kind.EXAMPLES) and 2 <= len(shown) <= 3
    for line in shown:
        _, name, *words = shlex.split(line, comments=True)
        assert isinstance(values(KINDS[name], words, prog="rsd x"), dict), line


def test_restore_s_help_is_in_groups():
    assert [*groups(Restore)] == [
        "input",
        "task",
        "method and prior",
        "quality",
        "speed and memory",
        "output",
        "expert",
    ]
    text = help_text(Restore, prog="rsd restore")
    assert "  -n, --particles INT   N, the number of samples (default: 4).\n" in text
    assert "  --revision TEXT       Revision of a hub model (default: the newest).\n" in text
    assert "  --clean               The images are clean:" in text and "--no-clean" not in text
    assert "  --keep-known, --no-keep-known\n" in text and "  --metrics {lpips,dists,clip,fid},...\n" in text
    assert "yes without --clean, for" in text


def test_bases_have_fields_and_groups_of_their_own():
    @dataclass(kw_only=True)
    class Base:
        GROUPS: ClassVar[Mapping[str, str]] = {"input": "seed", "speed": "chunk"}
        seed: int = 0
        """The start."""
        chunk: int | None = None
        """So many at once (default: all)."""

    @dataclass(kw_only=True)
    class Child(Base):
        """A child.

        Says more."""

        GROUPS: ClassVar[Mapping[str, str]] = {"task": "kind", "input": "words seed"}
        words: Annotated[tuple[str, ...], Flag(positional=True)] = ()
        """What it says."""
        kind: Literal["a", "b"] = "a"
        """Which."""
        late: bool = True
        """Nobody placed it."""

    assert groups(Child) == {"task": ["kind"], "input": ["words", "seed"], "speed": ["chunk"], "more": ["late"]}
    assert help_text(Child, prog="rsd child") == (
        "usage: rsd child [WORD ...] [flags]\n\nA child.\n\nSays more.\n\n"
        "task:\n  --kind {a,b}          Which (default: a).\n\n"
        "input:\n  [WORD ...]            What it says.\n  --seed INT            The start (default: 0).\n\n"
        "speed:\n  --chunk INT           So many at once (default: all).\n\n"
        "more:\n  --late, --no-late     Nobody placed it (default: yes).\n\n  -h, --help  This text."
    )
    child = parse(Child, ["two words", "--no-late", "--chunk=3"], prog="rsd child")
    assert dataclasses.asdict(child) == {"seed": 0, "chunk": 3, "words": ("two words",), "kind": "a", "late": False}


def test_help_of_every_command_loads_no_torch():
    code = (
        "import contextlib, sys; from rsd.cli import main\n"
        f"for command in {[*KINDS]}:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main([command, '--help'])\n"
        "    assert 'torch' not in sys.modules, command"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_pager_that_closes_is_no_error(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    script = f"{shlex.quote(sys.executable)} -m rsd text-to-3d --help | true"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stderr == ""


def test_quoted_is_what_a_shell_reads_back():
    for word in ("plain", "a man", "it's", 'say "hi"', "$HOME", "a;b", "", "x=1", "50%"):
        assert shlex.split(flags.quoted(word)) == [word]
