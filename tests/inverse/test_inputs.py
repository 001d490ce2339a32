"""Many images: folders and manifests, the fields of a line, shards, and one summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsd.cli import main
from rsd.tasks.inverse.inputs import list_jobs
from rsd.tasks.inverse.packaged import parse
from tests.tasks import tasked


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Change to a folder with three photos and a mask."""
    for k, name in enumerate("abc"):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(np.tile(np.array([255, 0], dtype=np.uint8), (16, 8))).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest(folder, *lines):
    file = folder / "jobs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def jobs(*argv):
    argv = tasked(argv)
    options, _ = parse(argv)
    from rsd.runs.settings import tokens

    return list_jobs(options, lambda choice: parse([*argv, *tokens(choice)])[0])


def test_a_line_has_its_tasks_packaged_settings_then_the_flags_then_its_own(photos):
    file = manifest(
        photos,
        {"image": "a.png"},
        "",
        {"image": "b.png", "task": "sr4", "seed": 3, "prompt": "a man", "window": [0.2, 1]},
        {
            "image": "b.png",
            "name": "b again",
            "task": "inpaint_mask",
            "mask": "mask.png",
            "gamma": 2,
            "keep_known": True,
        },
        {"image": "c.png", "task": "phase_retrieval", "clean": True, "lambda": 0.5},
        {"image": "c.png", "name": "d", "task": "sr4", "preset": 50, "repel_every": 2},
    )
    rlsd = ("--method", "rlsd")
    a, b, again, c, d = jobs(file, "--particles", 2, "--gamma", 9, *rlsd)
    assert (d.options.steps, d.options.x_step, d.options.repel_every, a.options.steps) == (50, "exact", 2, 100)
    assert [job.name for job in (a, b, again, c)] == ["a", "b", "b again", "c"]
    assert [job.title for job in (a, b, again, c)] == ["a.png", "b.png", "b again", "c.png"]
    assert all(job.options.particles == 2 for job in (a, b, again, c))
    assert [job.options.gamma for job in (a, b, again, c)] == [9, 9, 2, 9]
    rates = [(o.rho, o.lr_x, o.lr_z) for o in (b.options, parse(["b.png", "--task", "sr4", *rlsd])[0], a.options)]
    assert rates[0] == rates[1] != rates[2]
    assert (b.options.seed, b.options.prompt, b.options.window) == (3, "a man", (0.2, 1.0))
    assert again.options.mask == photos / "mask.png" and again.options.keep_known is True
    assert (c.options.method, c.options.clean, c.options.lambda_) == ("rlsd", True, 0.5)
    assert again.label == f"{photos / 'b.png'} (b again)" and a.label == str(photos / "a.png")


def test_each_line_has_the_method_of_its_task(photos):
    lines = ({"image": "a.png", "task": task} for task in ("deblur_motion", "phase_retrieval", "hdr"))
    found = jobs(manifest(photos, *({**line, "name": line["task"]} for line in lines)), "--clean")
    assert [job.options.method for job in found] == ["proximal-guidance", "rlsd", "nonaug"]


def test_a_line_may_tune_its_sampler(photos):
    (job,) = jobs(manifest(photos, {"image": "c.png", "method": "psld", "hyper": ["gamma=0.2", "eta=0"]}))
    assert (job.options.method, job.options.hyper) == ("psld", ("omega=0.5", "gamma=0.2", "eta=0"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "a.png", "gama": 1}, 'jobs.jsonl, line 2: unknown key "gama". Did you mean "gamma"?'),
        ({"image": "a.png", "device": "cpu"}, 'unknown key "device"'),
        ({"image": "a.png", "gamma": "much"}, 'line 2: gamma is "much"; give a number.'),
        ({"image": "a.png", "seed": 1.5}, "seed is 1.5; give a whole number."),
        ({"image": "a.png", "clean": 1}, "clean is 1; give true or false."),
        ({"image": "a.png", "seed": True}, "seed is true; give a whole number."),
        ({"image": "a.png", "window": [1]}, "window is [1]; give 2 numbers."),
        ({"image": "a.png", "fit": "crush"}, 'fit is "crush"; give one of auto, whole, crop, resize, refuse.'),
        ({"image": "a.png", "particles": 0}, "line 2: particles is 0"),
        ({"image": "a.png", "task": "sr44"}, 'line 2: There is no task "sr44"'),
        ({"image": "a.png", "task": "inpaint_mask"}, "line 2: Task inpaint_mask needs --mask."),
        (
            {"image": "a.png", "mask": "mask.png"},
            "--mask goes with the task inpaint_mask, but the task is inpaint_half_face",
        ),
        ({"image": "z.png"}, "Two inputs have the same name"),
        ({"prompt": "x"}, 'line 2: give an object with "image"'),
        ({"image": "a.png", "name": 3}, "name is 3; give text."),
        ({"image": "a.png", "method": "nonrepuls", "repel_every": 2}, "line 2: --repel-every goes with the methods"),
        ({"image": "a.png", "method": "rlsd", "preset": 50, "lr_x": 0.3}, "line 2: --lr-x goes with --x-step adam"),
        ({"image": "a.png", "preset": 50, "steps": 20}, "line 2: preset 50 is for 50 steps, but steps is 20"),
        ({"image": "a.png", "method": "psld", "hyper": ["zeta=1"]}, "line 2: Method psld has no hyper-parameter"),
        ({"image": "a.png", "hyper": "zeta=1"}, 'hyper is "zeta=1"; give a list of texts.'),
        ('{"image": "a.png", "seed": 1, "seed": 2}', 'line 2: the key "seed" is given twice; leave one of them out.'),
        ('{"image": ', "line 2: this is not JSON (Expecting value at column 11)"),
    ],
)
def test_a_mistake_in_a_manifest_names_its_line_and_stops_all(photos, line, message, capsys):
    file = manifest(photos, {"image": "z.png"}, line)
    assert main(["restore", *tasked([file, "--out", "out"])]) == 2
    assert message in capsys.readouterr().err and not (photos / "out").exists()


def test_a_table_is_a_manifest_too(photos):
    """Empty cells set nothing, list items are separated by spaces or commas, and cells with commas are quoted."""
    (photos / "jobs.csv").write_text(
        "image,name,task,mask,window,lambda,clean,hyper,prompt\n"
        'a.png,,sr4,,0.2 1,0.5,true,,"a man, smiling"\n'
        "\n"
        'b.png,again,inpaint_mask,mask.png,"0.5,1",,,,\n'
        "c.png,,inpaint_mask,alpha,,,,,\n"
    )
    a, b, c = jobs(photos / "jobs.csv", "--gamma", 3, "--method", "rlsd")
    assert (a.options.task, a.options.window, a.options.lambda_) == ("sr4", (0.2, 1.0), 0.5)
    assert (a.options.clean, a.options.prompt, a.options.gamma) == (True, "a man, smiling", 3)
    assert (b.title, b.options.mask, b.options.window) == ("again", photos / "mask.png", (0.5, 1.0))
    assert c.options.mask == Path("alpha")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,gama\na.png,1\n", 'jobs.csv, line 1: unknown column "gama". Did you mean "gamma"? There are: image'),
        ("image,seed,seed\na.png,1,2\n", 'line 1: the column "seed" is there twice'),
        ("task,seed\nsr4,1\n", 'line 1: the column "image" is missing'),
        ("image,seed\na.png,1\nb.png,few\n", 'jobs.csv, line 3: seed is "few"; give a whole number.'),
        ("image,seed\n,1\n", 'line 2: fill in the column "image".'),
        ("image,window\na.png,0.5\n", 'line 2: window is "0.5"; give 2 numbers.'),
        ("image,prompt\na.png,a man, smiling\n", "line 2: it has more cells than the first line; quote cells"),
        ("image,clean\na.png,maybe\n", 'line 2: --clean is "maybe"'),
    ],
)
def test_a_mistake_in_a_table_names_its_line_and_column(photos, text, message, capsys):
    (photos / "jobs.csv").write_text(text)
    assert main(["restore", *tasked([photos / "jobs.csv", "--out", "out"])]) == 2
    assert message in capsys.readouterr().err and not (photos / "out").exists()


@pytest.fixture
def restore(tiny_folder):
    fixed = ["--prior", str(tiny_folder("epsilon")), "--features", "pixels", "--steps", "2", "-n", "2", "--out", "out"]
    return lambda *arguments: main(["restore", *tasked(arguments), *fixed])


def test_a_manifest_is_restored_and_continues_after_a_failure(photos, restore, capsys):
    lines = [
        {"image": "a.png", "clean": True, "gamma": 5},
        {"image": "absent.png"},
        {"image": "a.png", "name": "other", "task": "inpaint_mask", "mask": "mask.png"},
        {"image": "b.png", "task": "inpaint_mask", "mask": "nowhere.png"},
    ]
    assert restore(manifest(photos, *lines)) == 1
    message = capsys.readouterr()
    assert "absent.png" in message.err and "nowhere.png" in message.err and "2 done, 2 failed" in message.out
    summary = json.loads((photos / "out" / "summary.json").read_text())
    assert [row["image"] for row in summary["images"]] == ["a.png", "other"] and len(summary["failed"]) == 2
    assert all((photos / "out" / row["folder"] / "metrics.json").exists() for row in summary["images"])
    assert summary["images"][0]["psnr_mean"] is not None and summary["images"][1]["psnr_mean"] is None
    for name in ("absent.png", "nowhere.png"):
        (photos / name).write_bytes((photos / "mask.png").read_bytes())
    before = (photos / "out" / "a.png" / "metrics.json").stat().st_mtime_ns
    assert restore(photos / "jobs.jsonl", "--resume") == 0
    assert "4 done, 0 failed" in capsys.readouterr().out
    assert (photos / "out" / "a.png" / "metrics.json").stat().st_mtime_ns == before


def test_shards_write_what_one_command_writes(photos, restore, capsys):
    (photos / "mask.png").unlink()
    for shard in ("1/2", "0/2"):  # at any time, in any order, twice
        assert restore(photos, "--shard", shard) == 0
    assert "shard 1/2: 1 of 1 images done, 0 failed" in capsys.readouterr().out
    assert restore(photos, "--shard", "4/5") == 0 and "0 of 0 images done" in capsys.readouterr().out
    assert sorted(p.name for p in (photos / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    assert restore(photos, "--shard", "0/2") == 0
    assert capsys.readouterr().out.count("already done") == 2
    assert restore(photos, "--resume") == 0 and "3 done, 0 failed" in capsys.readouterr().out
    assert len(json.loads((photos / "out" / "summary.json").read_text())["images"]) == 3
    (photos / "out").rename(photos / "sharded")
    assert restore(photos) == 0
    for name in ("a.png", "b.png", "c.png"):
        both = [(photos / out / name / "particles" / "01.png").read_bytes() for out in ("out", "sharded")]
        assert both[0] == both[1]


@pytest.mark.parametrize("shard", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_an_invalid_shard(photos, shard, capsys):
    assert main(["restore", *tasked([".", f"--shard={shard}"])]) == 2
    assert f'shard is "{shard}"; give K/N with K from 0 to N-1' in capsys.readouterr().err
    assert main(["restore", *tasked(["a.png", "--shard", "0/2", "--out", "out"])]) == 2
    assert "--shard 0/2 requires several images" in capsys.readouterr().err


def test_many_images_share_one_memory_plan_and_release_the_text_encoder(photos, tiny_folder, monkeypatch):
    from rsd import memory
    from rsd.runs import batch, head

    planned, priors, chunks = [], [], []
    plan, load, drive = memory.plan, head.load_prior, batch.Session.drive

    def driven(session, **how):
        chunks.append(session.run.memory.chunk)
        session.run.memory.chunk = 1  # as where memory was full
        return drive(session, **how)

    monkeypatch.setattr(memory, "plan", lambda *a, **k: planned.append(k) or plan(*a, **k))
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: priors.append(load(*a, **k)) or priors[0])
    monkeypatch.setattr(batch.Session, "drive", driven)
    file = manifest(photos, {"image": "a.png", "prompt": "red"}, {"image": "b.png"}, {"image": "c.png", "guidance": 3})
    flags = [
        "--prior",
        str(tiny_folder()),
        "--features",
        "pixels",
        "--div-features",
        "pixels",
        "-n",
        "2",
        "--steps",
        "2",
    ]
    assert main(["restore", *tasked([file, "--clean", *flags, "--out", "out"])]) == 0
    assert chunks == [None, 1, None] and len(planned) == 2  # guidance needs twice as much
    (prior,) = priors
    assert prior.text_encoder is None and len(prior._embeddings) == 2
