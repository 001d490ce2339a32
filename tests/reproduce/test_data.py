"""The data of experiments, and the commands in reports."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rsd.tasks.inverse.inputs import list_jobs
from rsd.tasks.inverse.packaged import parse
from rsd.tasks.reproduce.data import how_to_make, number, prepare
from rsd.tasks.reproduce.experiments import ENTRIES, find
from rsd.tasks.reproduce.options import SD, Reproduce
from rsd.tasks.reproduce.plan import plan

PAPER = Reproduce(name="all", scale="paper")


def test_the_first_pictures_below_a_folder(tmp_path):
    faces = tmp_path / "faces"
    for name in ("b/0001.png", "a/0001.png", "a/0002.jpg", "notes.txt"):
        (faces / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(faces / name, "PNG") if name != "notes.txt" else (faces / name).touch()
    manifest = prepare("faces", replace(PAPER, ffhq=faces, number=2), tmp_path)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a/0001", "a/0002"]
    jobs = list_jobs(parse([str(manifest), "--clean", "--task", "sr4"])[0])
    assert [job.path for job in jobs] == [(faces / "a" / name).resolve() for name in ("0001.png", "0002.jpg")]
    with pytest.raises(ValueError, match="has no images"):
        prepare("pictures", replace(PAPER, imagenet=tmp_path / "faces" / "nothing"), tmp_path)


def test_numbers():
    assert [number(kind, PAPER) for kind in ("faces", "captions", "kernels", "sundae", "")] == [100, 75, 2, 1, 1]
    small = Reproduce(name="all")
    assert [number(kind, small) for kind in ("faces", "captions", "kernels", "")] == [4, 4, 2, 1]
    assert number("faces", replace(small, number=9)) == 9


def test_prompts(tmp_path):
    found = prepare("captions", Reproduce(name="all", number=3), tmp_path).read_text().splitlines()
    assert len(found) == 3 and found[0] == "a woman with short red hair and round glasses, front view"
    assert prepare("sundae", PAPER, tmp_path).read_text() == "an ice cream sundae\n"


def test_the_commands_that_make_the_data(tmp_path):
    small = Reproduce(name="all", number=2)
    where = prepare("captions", small, tmp_path)
    output = how_to_make("captions", small, where)
    where.unlink()
    subprocess.run(["bash", "-c", output], check=True)
    assert where.read_text() == prepare("captions", small, tmp_path / "again").read_text()
    heads = tmp_path / "some faces"
    assert how_to_make("faces", small, heads) == f"rsd heads --out '{heads}' --number 2 --view frontal"
    given = replace(PAPER, ffhq=Path("/ffhq"))
    assert how_to_make("faces", given, Path("faces.jsonl")) == (
        "# faces.jsonl: the first 100 images below /ffhq, by their paths"
    )


def test_tables_and_figures_share_the_runs_of_their_packaged_steps():
    options = Reproduce(name="all")
    keys = {name: plans(name, options) for name in ("table5", "table6", "table7", "fig15", "fig16")}
    ours = [keys[name]["NonRepuls-RLSD"].key for name in ("table5", "table6", "table7")]
    ours += [keys[name]["RLSD, many steps"].key for name in ("fig15", "fig16")]
    assert len(set(ours)) == 1
    assert keys["table5"]["PSLD"].key == keys["fig15"]["PSLD, many steps"].key


def plans(name: str, options: Reproduce):
    entry = find(name)
    return {row.label: plan(entry, row, options, Path("data")) for row in entry.rows}


def test_a_row_at_both_scales():
    here = plans("table2", Reproduce(name="table2", seed=3, steps=7))["RLSD"]
    assert here.command_line() == (
        "rsd restore data --clean --prior heads --task inpaint_half_face --method rlsd --x-step adam --lambda 0.2 "
        "--lr-x 0.2 --lr-z 0.4 --gamma 6 --window 0 1 --steps 7 --seed 3 --device auto"
    )
    there = plans("table2", PAPER)
    assert there["RLSD"].prior == SD and "--dtype float16 --metrics lpips fid" in there["RLSD"].command_line()
    assert there["RLSD"].why_not == "needs --ffhq PATH"
    given = plans("table2", replace(PAPER, ffhq=Path("faces")))
    assert given["RLSD"].why_not is None
    assert given["DPS"].why_not == "needs --pixel-prior, a DDPMPipeline of faces at 256 px"
    asked = plans("fig31", replace(PAPER, coco=Path("c"), coco_images=Path("d")))["Ancestral"]
    assert asked.command_line().endswith("--metrics clip fid --fid-folder d")


def test_identical_rows_share_a_folder():
    options = Reproduce(name="all")
    folders = {}
    for entry in ENTRIES:
        for one in plans(entry.name, options).values():
            folders.setdefault(one.folder(Path("runs")), set()).add(one.command_line())
    assert all(len(commands) == 1 for commands in folders.values())
    rows = sum(len(entry.rows) for entry in ENTRIES)
    assert len(folders) < 0.75 * rows
    shared = plans("table14", options)["RLSD"].folder(Path("runs"))
    assert (
        shared
        == plans("table2", options)["RLSD"].folder(Path("runs"))
        == plans("fig17", options)["medium"].folder(Path("runs"))
    )
