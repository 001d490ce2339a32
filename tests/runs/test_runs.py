"""Run folders: names, errors, atomic files, resuming; and the summary of several runs."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from pathlib import Path

import pytest
import torch
import yaml

from rsd.runs import folder as runs
from rsd.runs.folder import RunFolder, check_folder_of_runs, check_own, slug, write_bytes, write_json
from rsd.runs.summary import format_means, mean, mixed_networks, write_csv

SETTINGS = {"seed": 0, "gamma": 50.0, "prompt": "", "box": [1, 2], "steps": 100}


def opened(path: Path, **changes) -> RunFolder:
    folder = RunFolder(path)
    folder.open({**SETTINGS, **changes})
    return folder


def test_what_was_none_may_be_given_later(tmp_path):
    settings = {"data": None, "steps": 2}
    RunFolder(tmp_path / "run").open(settings)
    RunFolder(tmp_path / "run", resume=True).open({"data": "here", "steps": 2}, later=("data",))
    for other in ({"data": "there", "steps": 2}, {"data": None, "steps": 2}, {"data": "here", "steps": 3}):
        with pytest.raises(ValueError, match="Cannot resume"):
            RunFolder(tmp_path / "run", resume=True).open(other, later=("data",))


def test_slug_keeps_safe_names():
    for name in ("photo", "photo.png", "a-b.c", "7"):
        assert slug(name) == name


@pytest.mark.parametrize(
    ("name", "kept"),
    [("Été à Zürich.PNG", "ete-a-zurich.png"), ("e\u0301te\u0301", "ete"), ("Straße", "strasse"), ("Ａ １", "a-1")],
)
def test_slug_keeps_letters_with_accents_and_capitals(name, kept):
    assert re.fullmatch(rf"{kept}-[0-9a-f]{{8}}", slug(name))


ODD = [
    "Photo.PNG",
    "photo .png",
    "../photo",
    "a/b",
    "a\\b",
    "",
    ".",
    "..",
    "-x",
    "été",
    "日本",
    "日木",
    "x" * 61,
    "y" * 400,
]


@pytest.mark.parametrize("name", ODD)
def test_slug_is_safe(name):
    found = slug(name)
    assert 0 < len(found) <= 60
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    assert found[0] not in ".-" and found[-1] not in ".-"


def test_slugs_differ_also_where_case_does_not_count():
    names = [*ODD, "photo.png", "PHOTO.png", "x" * 62, "x" * 60, "a-b", "ete"]
    assert len({slug(n).lower() for n in names}) == len(names)


def test_slugs_of_many_names_without_latin_letters_differ():
    names = [chr(0x4E00 + a) + chr(0x4E00 + b) for a in range(100) for b in range(200)]
    assert len({slug(n) for n in names}) == len(names)  # 20 000 names: 24 bits of hash would collide


def test_nothing_is_created_before_open(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == [] and not folder.done
    folder.open(SETTINGS)
    assert yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text()) == SETTINGS


def test_config_keeps_unicode_and_the_order(tmp_path):
    opened(tmp_path, prompt="Porträt 日本")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "prompt: Porträt 日本" in text and text.index("seed") < text.index("gamma")


def test_empty_folder_is_taken(tmp_path):
    RunFolder(tmp_path)
    (tmp_path / ".config.yaml.0123abcd.part").touch()  # a run that was killed while it wrote its first file
    RunFolder(tmp_path)


def test_processes_that_write_the_same_file_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Shards start in the same second, with the same config.yaml."""
    replace, other = os.replace, []

    def slowly(part, path):
        if not other:
            other.append(part)
            write_bytes(path, b"theirs")  # a second process, between our writing and our renaming
        replace(part, path)

    monkeypatch.setattr(os, "replace", slowly)
    write_bytes(tmp_path / "config.yaml", b"ours")
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_bytes() == b"ours"


def test_somebody_s_own_frames_are_foreign(tmp_path):
    """A run empties its folder "frames" at the end, so a folder of that name must belong to the run."""
    (tmp_path / "frames").mkdir()
    with pytest.raises(ValueError, match=r"contains other files \(frames, "):
        RunFolder(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_files_are_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"contains other files \(thesis\.tex, \.\.\.\); choose another --out"):
        RunFolder(tmp_path, resume=resume)
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", resume=resume)


def test_another_run_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(ValueError, match="contains another run; choose another --out, or continue with --resume"):
        RunFolder(tmp_path)
    RunFolder(tmp_path, resume=True)


def test_a_folder_of_runs_is_new_or_contains_runs(tmp_path):
    for resume in (False, True):
        check_folder_of_runs(tmp_path / "new", resume=resume)
        check_folder_of_runs(tmp_path, resume=resume)
    (tmp_path / "photo").mkdir()
    (tmp_path / "photo" / ".config.yaml.0123abcd.part").touch()  # a run that was killed while it wrote its first file
    check_folder_of_runs(tmp_path, resume=False)
    opened(tmp_path / "photo")
    with pytest.raises(ValueError, match="contains other runs; choose another --out, or add to it with --resume"):
        check_folder_of_runs(tmp_path, resume=False)
    check_folder_of_runs(tmp_path, resume=True)
    (tmp_path / ".summary.json.0123abcd.part").touch()
    check_folder_of_runs(tmp_path, resume=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"contains other files \(notes.txt, ...\)"):
        check_folder_of_runs(tmp_path, resume=True)
    check_own(tmp_path, ["summary.json", "photo", "notes.txt"])
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "photo" / "config.yaml").unlink()
    (tmp_path / "photo" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"contains other files \(photo, ...\)"):
        check_folder_of_runs(tmp_path, resume=True)


def test_a_run_that_another_process_begins_meanwhile_is_no_foreign_file(tmp_path, monkeypatch):
    opened(tmp_path / "one")
    whole = Path.glob

    def slow(self, pattern):
        found = list(whole(self, pattern))
        (tmp_path / "two").mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", slow)
    check_folder_of_runs(tmp_path, resume=True)
    assert (tmp_path / "two").is_dir()


def test_a_summary_alone_is_not_written_over(tmp_path):
    (tmp_path / "summary.csv").touch()
    with pytest.raises(ValueError, match="contains other runs"):
        check_folder_of_runs(tmp_path, resume=False)
    check_folder_of_runs(tmp_path, resume=True)
    (tmp_path / "summary.json").write_text(
        '{"images": [], "mean": {"div": null}, "failed": {"a.png": "is no picture"}}'
    )
    check_folder_of_runs(tmp_path, resume=False)  # nothing is lost
    (tmp_path / "summary.json").write_text('{"images": [{"image": "a.png"}], "mean": {"div": null}, "failed": {}}')
    with pytest.raises(ValueError, match="contains other runs"):
        check_folder_of_runs(tmp_path, resume=False)


def test_a_folder_of_runs_where_its_runs_lie_deeper(tmp_path):
    opened(tmp_path / "runs" / "a" / "photo")
    with pytest.raises(ValueError, match=r"contains other files \(runs, "):
        check_folder_of_runs(tmp_path, resume=True)
    own = ("sweep.json", "grids")
    (tmp_path / "grids").mkdir()
    check_folder_of_runs(tmp_path, resume=True, runs="runs/*/*", own=own)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"contains other files \(thesis.tex, "):
        check_folder_of_runs(tmp_path, resume=True, runs="runs/*/*", own=own)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_folder_of_runs(tmp_path, resume):
    opened(tmp_path / "one")
    with pytest.raises(ValueError, match="contains a single run; choose another --out"):
        check_folder_of_runs(tmp_path / "one", resume=resume)
    with pytest.raises(ValueError, match=r"config.yaml is a file; choose another --out"):
        check_folder_of_runs(tmp_path / "one" / "config.yaml", resume=resume)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"contains other files \(er, ...\); choose another --out"):
        check_folder_of_runs(tmp_path / "deep", resume=resume)


UNWRITABLE = ["/proc/nothing/here", "/dev/null/x", "/proc", "x" * 300, "a/" + "x" * 300, "a\0b"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
@pytest.mark.parametrize("path", UNWRITABLE)
def test_unwritable_folders_are_refused_also_for_root(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PermissionError, match=r"^The output folder .* is not writable \(.+\);") as info:
        RunFolder(Path(path)).open(SETTINGS)
    if path != "/proc":  # which is seen to be others' first where it can be read
        with pytest.raises(PermissionError, match=r"^The output folder .* is not writable \(.+\);"):
            check_folder_of_runs(Path(path), resume=False)
    assert str(info.value).endswith("choose another --out.") and "\n" not in str(info.value)


def test_folder_without_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="is not writable"):
        RunFolder(tmp_path / "run")
    tmp_path.chmod(0o700)


def test_resume_with_other_settings_names_them(tmp_path):
    opened(tmp_path)
    again = RunFolder(tmp_path, resume=True)
    again.open(SETTINGS)
    again.open({**SETTINGS, "box": (1, 2)})  # YAML has no tuples
    with pytest.raises(ValueError, match="Cannot resume") as info:
        again.open({**SETTINGS, "gamma": 0.0, "steps": 200, "new": 1})
    told = str(info.value)
    assert "gamma 50.0 is now 0.0" in told and "steps 100 is now 200" in told and "new None is now 1" in told
    assert "seed" not in told and told.endswith("choose another --out.")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == SETTINGS


@pytest.mark.parametrize("text", ["", "a: [", "[1]", "words", "\x00", "a: !!python/object:os.system x"])
def test_damaged_settings(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged or contains no settings"):
        RunFolder(tmp_path, resume=True).open(SETTINGS)


@pytest.mark.parametrize("method", ["replace", "write"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, method):
    path = tmp_path / "a.json"
    write_bytes(path, b"before")

    def full(*_args):
        raise OSError(28, "No space left on device")

    if method == "replace":
        monkeypatch.setattr(runs.os, "replace", full)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"a": [1, None]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "deep" / "a.json", {"a": math.nan})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"a": [1, None]}


def test_log(tmp_path):
    folder = opened(tmp_path)
    folder.truncate_log(3)  # no log yet
    for k in range(5):
        folder.log({"step": k, "note": "line\u2028separator"})
    folder.log({"step": 5, "losses": {"data": math.nan}, "more": (math.inf, 1)})
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().split("\n")[:-1]]
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[5] == {"step": 5, "losses": {"data": None}, "more": [None, 1]}
    folder.truncate_log(2)
    folder.log({"step": 2})
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().split("\n")[:-1]]
    assert [r["step"] for r in rows] == [0, 1, 2]
    folder.truncate_log(0)
    assert (tmp_path / "steps.jsonl").read_text() == ""


def test_checkpoint_round_trip(tmp_path):
    folder = opened(tmp_path)
    assert folder.load_checkpoint() is None
    base = torch.randn(2, 6)
    tensors = {
        "x": base.requires_grad_(), "turned": base.detach().T, "view": base.detach()[0], "step": torch.tensor(7),
        "half": torch.randn(3).bfloat16(), "complex": torch.randn(2, dtype=torch.complex64), "empty": torch.zeros(0),
    }  # fmt: skip
    folder.save_checkpoint(tensors, {"step": 7, "seconds": 1.5, "network_calls": {"unet": 3}})
    found = folder.load_checkpoint()
    assert found is not None
    back, meta = found
    assert meta == {"step": 7, "seconds": 1.5, "network_calls": {"unet": 3}}
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


@pytest.mark.parametrize("damage", [b"", b"hello", bytes(64), None])
def test_damaged_checkpoint(tmp_path, damage):
    folder = opened(tmp_path)
    folder.save_checkpoint({"x": torch.ones(100)}, {})
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-50] if damage is None else damage)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged; delete it"):
        folder.load_checkpoint()


def flipped(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "scenes.safetensors"])
@pytest.mark.parametrize("what", ["first", "last", "between", "step", "name"])
def test_a_flipped_bit_is_noticed(tmp_path, name, what):
    folder = opened(tmp_path)
    tensors = {"z": torch.randn(2, 3), "steps": torch.tensor(7), "half": torch.ones(5).bfloat16(), "no": torch.zeros(0)}
    folder.save_tensors(name, tensors, {"step": 7})
    load = {"remedy": "delete it"}
    assert folder.load_tensors(name, **load)[1] == {"step": 7}
    file = tmp_path / name
    data = file.read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    places = {
        "first": body, "last": len(data) - 1, "between": (body + len(data)) // 2,
        "step": data.index(b'step\\": ') + len(b'step\\": '), "name": data.index(b'"z"') + 1,
    }  # fmt: skip
    flipped(file, places[what])
    with pytest.raises(ValueError, match=rf"{name} is damaged \(its checksum does not match\); delete it\.$"):
        folder.load_tensors(name, **load)
    flipped(file, places[what])
    assert torch.equal(folder.load_tensors(name, **load)[0]["z"], tensors["z"])


def test_a_damaged_checkpoint_says_what_to_do_and_one_of_an_older_version_is_read(tmp_path):
    from safetensors.torch import save

    folder = opened(tmp_path)
    one = zlib.crc32(b"{}a torch.float32 [1]" + b"\0\0\x80?")  # 1.0 is 0x3f800000
    assert runs._checksum({"a": torch.tensor([1.0])}, "{}") == f"{one:08x}"
    folder.save_checkpoint({"x": torch.ones(100)}, {})
    flipped(tmp_path / "checkpoint.safetensors", -4)
    told = r"delete it, then the same command with --resume restarts this run\.$"
    with pytest.raises(ValueError, match=told):
        folder.load_checkpoint()
    write_bytes(tmp_path / "checkpoint.safetensors", save({"x": torch.ones(2)}, metadata={"meta": '{"step": 3}'}))
    tensors, meta = folder.load_checkpoint()
    assert torch.equal(tensors["x"], torch.ones(2)) and meta == {"step": 3}


def test_finish(tmp_path):
    folder = opened(tmp_path)
    folder.save_checkpoint({"x": torch.ones(1)}, {})
    folder.finish({"psnr": None, "div": 0.25})
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "metrics.json"}
    again = RunFolder(tmp_path, resume=True)
    assert again.done and again.metrics() == {"psnr": None, "div": 0.25}


def test_provenance_is_plain_json():
    made = runs.provenance(seed=3, model="heads", device="cpu")
    assert json.loads(json.dumps(made)) == made
    assert made["seed"] == 3 and made["model"] == "heads" and made["revision"] is None
    assert made["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert made["commit"] is None or len(made["commit"].rstrip("+")) == 40


def test_a_table_is_written_atomically(tmp_path, monkeypatch):
    file = tmp_path / "t.csv"
    write_csv(file, [{"a": "x, y", "b": None}, {"a": "z", "b": 0.5}], ["a", "b"])
    assert file.read_bytes() == b'a,b\r\n"x, y",\r\nz,0.5\r\n'

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_csv(file, [], ["c"])
    assert file.read_bytes().startswith(b"a,b") and [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_means_ignore_none():
    assert mean([1.0, None, 2.0]) == 1.5 and mean([None]) is None and mean([]) is None
    assert mixed_networks(["a", "a"]) is None and mixed_networks([]) is None
    assert "(None, a)" in mixed_networks(["a", None, "a"])


def test_a_mean_is_shown_with_its_number_of_rows():
    rows = [{"div": 0.1, "agreement": 1.0, "janus": None}, {"div": 0.3, "agreement": None, "janus": None}]
    means = {"div": 0.2, "agreement": 1.0, "janus": None}
    assert format_means(rows, means) == "div 0.2, agreement 1 (of 1 of 2)"
