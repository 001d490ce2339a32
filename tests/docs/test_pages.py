"""README and docs: command lines that parse, flags that exist, README's Python block, lengths and links."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch

import rsd
from rsd.cli import COMMANDS
from rsd.cli import main as command_line
from rsd.runs import flags
from rsd.tasks.calibrate.options import Calibrate
from rsd.tasks.config import Config
from rsd.tasks.inverse.command import Measure
from rsd.tasks.inverse.compare.options import Compare
from rsd.tasks.inverse.options import Restore
from rsd.tasks.text_to_3d.options import TextTo3D
from rsd.tasks.text_to_image.options import TextToImage
from rsd.tasks.text_to_image.sweep import Sweep
from rsd.tasks.toy.command import Toy
from rsd.tasks.ui.options import Ui

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
KINDS = {
    "restore": Restore, "measure": Measure, "config": Config,
    "compare": Compare, "text-to-image": TextToImage, "text-to-3d": TextTo3D,
    "sweep": Sweep, "toy": Toy, "calibrate": Calibrate, "ui": Ui,
    "reproduce": import_module("rsd.tasks.reproduce.options").Reproduce,
    "heads": import_module("rsd.heads.command").Heads, "doctor": import_module("rsd.doctor").Doctor,
}  # fmt: skip
PLAIN = ("methods", "tasks")
"""Commands without flags."""
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
LINE = re.compile(r"^(?: {4}|.*-m )rsd ([a-z].*)$", re.M)
PATHS = r"\S+\.(?:png|jsonl|safetensors|txt|yaml)|\S+/"


def lines() -> list[tuple[str, str]]:
    """Return the command lines in code blocks, without comments, each with its page."""
    found = []
    for page, text in TEXT.items():
        for line in LINE.findall(re.sub(r" \\\n +", " ", text)):
            line = re.split(r" +# ", line)[0].strip()
            if "..." not in line and "--shard $" not in line and 3 * " " not in line:
                found.append((page.name, line))
    return found


LINES = lines()


def test_every_command_has_an_example():
    assert {line.split()[0] for _, line in LINES} >= KINDS.keys() - {"doctor"}
    assert len(LINES) > 40


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_every_command_line_parses(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *argv = shlex.split(line)
    if command in PLAIN:
        assert not argv
        return
    for path in re.findall(PATHS, " ".join(argv)):
        if not Path(path).is_absolute() and "=" not in path and ":" not in path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(exist_ok=True) if path.endswith("/") else Path(path).touch()
    found = flags.values(KINDS[command], argv, prog=f"rsd {command}")
    if command == "restore":
        output = found.keys() & {"task", "mask", "box", "operator", "kernel"}
        assert output or str(found["images"][0]).endswith(".jsonl"), "rsd restore needs a task"
        assert found["images"]
    if command == "text-to-image" and "prompt" in found:
        assert all(" " in prompt for prompt in found["prompt"]), "prompts are quoted"


def flags_of(command: str) -> set[str]:
    """Return the flags of a command."""
    fields = flags.fields_of(KINDS[command]).values() if command in KINDS else ()
    own = {field.dashed: field for field in fields if not field.flag.positional}
    return {"--help", *own, *(flag.replace("--", "--no-") for flag, field in own.items() if field.each is bool)}


def code_of(text: str) -> list[str]:
    """Return the lines of code blocks, and what is code in lines of text."""
    return re.findall(r"^ {4}.*$|`[^`\n]+`", re.sub(r" \\\n +", " ", text), re.M)


def test_every_flag_after_a_command_is_one_of_that_command():
    found = 0
    for page, text in TEXT.items():
        for code in code_of(text):
            _, *parts = re.split(r"\brsd ([a-z][a-z0-9-]*)", code)
            for command, rest in zip(parts[::2], parts[1::2], strict=True):
                output = set(FLAG.findall(re.split(r" # |[;&|\")]", rest)[0]))
                assert output <= flags_of(command), (page.name, code, output - flags_of(command))
                found += len(output)
    assert found > 150


def test_every_flag_in_the_text_exists():
    known = {"--nproc-per-node", "--multi_gpu", "--num_processes", "--cpu", "--index-url"}  # of other programs
    known |= {"--array", "--gres", "--signal", "--requeue", "--dependency", "--wrap"}
    known |= set().union(*map(flags_of, KINDS))
    for script in (ROOT / "scripts").rglob("*.py"):
        known |= {flag.replace("_", "-") for flag in re.findall(r"--[a-z][\w-]+", script.read_text(encoding="utf-8"))}
        names = re.findall(r"^    (\w+): .*=", script.read_text(encoding="utf-8"), re.M)
        known |= {f"--{name.replace('_', '-')}" for name in names}
    for page, text in TEXT.items():
        output = set(FLAG.findall(" ".join(code_of(text))))
        assert output <= known, (page.name, output - known)


def test_readme_is_short_and_lists_its_parts():
    text = TEXT[README]
    assert len(text.split()) <= 900
    assert "https://arxiv.org/abs/2406.16683" in text[:400]
    pictures = re.findall(r"!\[[^]]+\]\((docs/[\w-]+\.png)\)", text)
    names = ("demo-grid", "photo-demo", "text-to-image-grid", "text-to-3d-contact")
    assert pictures == [f"docs/{name}.png" for name in names]
    assert text.count("```python") == 1
    for limit in ("cartoon heads only", "never been run", "29.3 dB", "undecided"):
        assert limit in text[text.index("## Limits") :]


def test_table_lines_fit_a_screen():
    for page, text in TEXT.items():
        long = [line for line in text.splitlines() if line.startswith("|") and len(line) >= 160]
        assert not long, (page.name, long)


def test_the_changelog_is_short():
    text = TEXT[ROOT / "CHANGELOG.md"]
    first = text[text.index("## 0.1.0") :]
    assert text.index("## Unreleased") < text.index("## 0.1.0") and len(first.split()) <= 600


def test_every_link_has_a_target():
    def anchors(page: Path) -> set[str]:
        heads = re.findall(r"^#+ (.*)$", TEXT[page], re.M)
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}

    for page, text in TEXT.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith("http"):
                file, _, anchor = target.partition("#")
                there = (page.parent / file).resolve() if file else page
                assert there.exists(), (page.name, target)
                assert not anchor or anchor in anchors(there), (page.name, target)


def test_readmes_python_runs(tmp_path, monkeypatch):
    """Run the block as written, except with two steps."""
    monkeypatch.chdir(tmp_path)
    assert command_line(["heads", "--out", "heads", "--number", "1"]) == 0
    restore, asked = rsd.restore, {}

    def quick(*args, **settings):
        asked.update(settings)
        return restore(*args, **settings, steps=2)

    monkeypatch.setattr(rsd, "restore", quick, raising=False)
    names: dict[str, object] = {}
    [block] = re.findall(r"```python\n(.*?)```", TEXT[README], re.S)
    exec(compile(block, str(README), "exec"), names)
    assert asked == {"gamma": 4, "particles": 4}
    x, result = names["x"], names["result"]
    assert isinstance(x, torch.Tensor) and x.shape == (1, 3, 64, 64) and x.abs().max() <= 1
    assert result.images.shape == (4, 3, 64, 64) and len(result.records) == 2


def test_every_command_is_on_some_page():
    output = set(re.findall(r"rsd ([a-z][a-z0-9-]*)", " ".join(TEXT.values())))
    assert set(COMMANDS) <= output
