"""A finished run with other output flags: the outputs are made from the scenes that it kept."""

from __future__ import annotations

import json

import pytest

from rsd.metrics import scoring
from rsd.runs.folder import RunFolder
from rsd.runs.head import Item
from rsd.runs.summary import summarise
from rsd.tasks.text_to_3d.head import SceneHead
from rsd.tasks.text_to_3d.options import TextTo3D
from rsd.tasks.text_to_3d.outputs import outdated_parts

LATER = (
    "--mesh", "obj", "--mesh-resolution", "14", "--mesh-threshold", "0.5", "--size", "20", "--turntable", "4",
    "--div-features", "heads",
)  # fmt: skip
OTHER = ("--encoding", "frequency", "--renderer", "packed", "--background", "random", "--dtype", "float64")
KINDS = [(), pytest.param(OTHER, marks=pytest.mark.slow)]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def files(folder):
    """Return the bytes of the outputs by name."""
    made = [*folder.glob("scenes/**/*.*"), folder / "contact.png", folder / "grid.png"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in made}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_later_is_what_would_have_been_made_at_once(make, kind, monkeypatch, capsys):
    _, out = make("red dog", *kind, steps=1)
    first = metrics(out)
    _, at_once = make("red dog", *kind, *LATER, out="at-once", steps=1)
    monkeypatch.setattr("rsd.runs.head.load_prior", lambda *a, **k: pytest.fail("the prior was loaded"))
    monkeypatch.setattr("rsd.runs.head.image_size", lambda *a, **k: pytest.fail("the prior was looked for"))
    capsys.readouterr()
    assert make("red dog", *kind, *LATER, "--resume", steps=1)[0] == 0
    assert "already done in" in (message := capsys.readouterr().out) and "added: pictures, meshes, figures" in message
    wanted, got = files(at_once), files(out)
    assert wanted == {name: got[name] for name in wanted} and len(wanted) == 2 * 14 + 2
    assert set(got) - set(wanted) == {
        f"scenes/{k:02d}/{name}" for k in range(2) for name in ("mesh.glb", "viewer.html")
    }  # nobody asked to delete these
    now, then = metrics(out), metrics(at_once)
    for name in ("div", "div_features", "meshes", "outputs", "reasons"):
        assert now[name] == then[name]
    assert now["div"] != first["div"] and now["meshes"][0]["threshold"] == 0.5
    assert (now["seconds"], now["network_calls"]) == (first["seconds"], first["network_calls"])


def test_asked_for_the_same_nothing_is_done(make, monkeypatch, capsys):
    _, out = make("red dog", steps=1)
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.*")}
    monkeypatch.setattr("rsd.runs.head.load_scorers", lambda *a, **k: pytest.fail("a network was loaded"))
    assert make("red dog", "--resume", steps=1)[0] == 0
    assert capsys.readouterr().out.endswith(f"already done in {out}\n")
    assert {f: f.stat().st_mtime_ns for f in out.rglob("*.*")} == before


def test_only_what_differs_is_made(make, monkeypatch):
    _, out = make("red dog", steps=1)
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.*")}
    monkeypatch.setattr("rsd.runs.head.load_scorers", lambda *a, **k: pytest.fail("a network was loaded"))
    assert make("red dog", "--resume", "--mesh-threshold", "1e9", steps=1)[0] == 0
    found = metrics(out)
    assert found["meshes"] == [None, None] and "no surface at density 1e+09" in found["reasons"]["meshes"]
    assert set(found["reasons"]) == {"meshes", "agreement", "janus"} and found["outputs"]["turntable"] == 3
    later = {f: f.stat().st_mtime_ns for f in out.rglob("*.*")}
    assert {f.name for f in before if before[f] != later.get(f)} == {"metrics.json", "mesh.glb", "viewer.html"}
    assert make("red dog", "--resume", "--mesh-threshold", "0.5", steps=1)[0] == 0
    assert set(metrics(out)["reasons"]) == {"agreement", "janus"} and None not in metrics(out)["meshes"]


def test_lost_pictures_and_meshes_are_made_again(make, capsys):
    _, out = make("red dog", steps=1)
    before = files(out)
    for name in ("scenes/00/views/030.png", "scenes/01/mesh.glb"):
        (out / name).unlink()
    capsys.readouterr()
    assert make("red dog", "--resume", steps=1)[0] == 0
    assert "added: pictures, meshes" in capsys.readouterr().out and files(out) == before


def test_a_run_without_its_scenes_is_an_error(make, capsys):
    """Older versions of rsd wrote no scenes.safetensors, and no flags in metrics.json."""
    _, out = make("red dog", "-n", "1", "--turntable", "36", "--mesh-resolution", "96", "--size", "16", steps=1)
    (out / "scenes.safetensors").unlink()
    old = {k: v for k, v in metrics(out).items() if k != "outputs"}
    (out / "metrics.json").write_text(json.dumps(old))
    capsys.readouterr()
    again = ("-n", "1", "--resume", "--turntable", "36", "--mesh", "obj", "--mesh-resolution", "96")
    assert make("red dog", *again, steps=1)[0] == 0
    message = capsys.readouterr()
    assert f"{out} has no scenes.safetensors (older versions of rsd kept none), so its pictures, meshes" in message.err
    assert "already done" in message.out and metrics(out) == old and not (out / "scenes" / "00" / "mesh.obj").exists()


def test_janus_as_an_older_version_counted_it_is_measured_again(make, monkeypatch, capsys):
    """It is measured again on the kept scenes. Older versions counted all scenes for Janus, whatever their fronts."""
    monkeypatch.setattr(scoring, "over_heads", lambda name: True)
    _, out = make("red dog", "--div-features", "auto", steps=1)
    whole = metrics(out)
    (out / "metrics.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "face_front"} | {"janus": 0}))
    assert make("red dog", "--div-features", "auto", "--resume", steps=1)[0] == 0
    assert "added: figures" in capsys.readouterr().out
    assert metrics(out) == whole and whole["face_front"] is not None


def test_damaged_scenes_are_reported(make, capsys):
    _, out = make("red dog", steps=1)
    (out / "scenes.safetensors").write_bytes(b"broken")
    assert make("red dog", "--resume", "--mesh", "ply", steps=1)[0] == 2
    assert "scenes.safetensors is damaged; run this again with another --out." in capsys.readouterr().err


def test_several_prompts_are_made_again(make, tmp_path, capsys):
    _, out = make("red dog", "red cat", steps=1)
    before = json.loads((out / "summary.json").read_text())
    assert make("red dog", "red cat", "red cow", "--resume", "--div-features", "heads", steps=1)[0] == 0
    message = capsys.readouterr().out
    assert message.count("added: figures") == 2
    rows = json.loads((out / "summary.json").read_text())["prompts"]
    assert [row["prompt"] for row in rows] == ["red dog", "red cat", "red cow"]
    assert all(row["div"] != old["div"] for row, old in zip(rows, before["prompts"], strict=False))
    assert {metrics(out / row["folder"])["div_features"] for row in rows} == {"heads"}


def test_div_of_different_networks_has_no_mean(tmp_path):
    head, rows = SceneHead(TextTo3D(), []), {}
    for name, features in (("a", "heads"), ("b", "heads"), ("c", "pixels")):
        figures = {"div": 0.5, "div_features": features, "agreement": 1.0, "janus": None, "seconds": 2.0}
        faces = {} if name == "b" else {"face_front": 0.25}  # an older version's
        rows[name] = head.row(Item(name, name, name, head.options, name), figures | faces, RunFolder(tmp_path / name))
    assert summarise(tmp_path, "prompts", [rows["a"], rows["b"]], head.figures, {})["div"] == 0.5
    assert summarise(tmp_path, "prompts", list(rows.values()), head.figures, {})["div"] is None
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "heads, pixels" in summary["reasons"]["div"] and summary["prompts"][2]["div_features"] == "pixels"
    assert summary["mean"]["agreement"] == 1.0
    assert [row["face_front"] for row in summary["prompts"]] == [0.25, None, 0.25]


def test_outdated_parts():
    held = {"outputs": {**vars(TextTo3D(turntable=12, mp4=True))}, "div_features": "pixels"}
    assert outdated_parts(held, TextTo3D(turntable=12)) == []  # a film that is there and not asked for
    assert outdated_parts(held, TextTo3D(turntable=12, mp4=True, div_features="pixels")) == []
    assert outdated_parts(held, TextTo3D()) == ["pictures"]
    assert outdated_parts({**held, "outputs": {**held["outputs"], "mp4": False}}, TextTo3D(turntable=12, mp4=True)) == [
        "pictures"
    ]
    assert outdated_parts(held, TextTo3D(turntable=12, mesh="ply", div_features="heads")) == ["meshes", "figures"]
    assert outdated_parts({"div_features": None}, TextTo3D()) == []  # an older version's
    old = {"div_features": "heads classifier", "faces": {"0": 1.0}, "janus": 0.0}
    assert (
        outdated_parts(old, TextTo3D()) == ["figures"] and outdated_parts(old | {"face_front": 1.0}, TextTo3D()) == []
    )


def test_an_agreement_from_before_it_was_read_is_measured_again():
    """Older versions did not record which attributes could be read. A run without agreement needs no correction."""
    held = {"div_features": "heads classifier", "face_front": 1.0, "faces": {}, "agreement": 0.9}
    assert outdated_parts(held, TextTo3D()) == ["figures"]
    assert (
        outdated_parts({**held, "agreement_read": {}}, TextTo3D())
        == []
        == outdated_parts({**held, "agreement": None}, TextTo3D())
    )
