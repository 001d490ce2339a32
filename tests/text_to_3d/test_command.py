"""`rsd text-to-3d` as a user types it, on a tiny random prior at 16 px."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import re
import warnings
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from rsd.cli import main
from rsd.heads.attributes import ATTRIBUTES, sample_head
from rsd.heads.reading import read
from rsd.randomness import Stream
from rsd.tasks.text_to_3d import outputs
from rsd.tasks.text_to_3d.head import SceneHead
from rsd.tasks.text_to_3d.options import Settings, TextTo3D
from rsd.tasks.text_to_3d.packaged import ADDED, COMMAND, packaged, parse
from rsd.tasks.text_to_3d.prompts import with_scene_words
from rsd.tasks.text_to_3d.scene.cameras import draw_cameras
from rsd.tasks.text_to_3d.scene.lights import draw_light
from rsd.tasks.text_to_3d.scene.regularisers import regularisers
from rsd.tasks.text_to_3d.scene.render import Rendering
from rsd.tasks.text_to_3d.scene.settings import FieldSettings, FieldSizes
from rsd.tasks.text_to_3d.view_words import without_view
from tests.drawing import outputs as outputs_of

IF = "DeepFloyd/IF-I-XL-v1.0"


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_line_of_a_manifest_has_settings_of_its_own(tmp_path):
    lines = [
        {"prompt": "a man, back view", "seed": 3, "azimuth": [0, 90], "view_prompts": ["back=long hair"]},
        {"prompt": "a man", "name": "hashed", "method": "vsd", "encoding": "hash", "levels": 4, "lora_rank": 2},
        {"prompt": "a woman", "negative_prompt": "a beard", "guidance": 3, "particles": 1, "steps": 7, "gamma": 2},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(UserWarning, match='"back view" is left out of the prompt'):
        head = SceneHead(
            *COMMAND.read(["--prompts", str(tmp_path / "prompts.jsonl"), "--views", "2", "--prior", "heads-pixels"])
        )
    man, hashed, woman = head.items
    assert [item.source for item in head.items] == ["a man", "a man", "a woman"] and hashed.folder == "hashed"
    assert (man.options.seed, man.options.azimuth, man.options.own_prompts) == (3, (0.0, 90.0), {"back": "long hair"})
    assert (hashed.options.method, hashed.options.encoding, hashed.options.levels) == ("vsd", "hash", 4)
    assert (woman.options.guidance, woman.options.particles, woman.options.steps) == (3, 1, 7)
    assert all(item.options.views == 2 for item in head.items)
    assert head.other_texts(man.options) == ("long hair", "") and head.other_texts(woman.options) == ("a beard",)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"prompt": "a man", "mesh": "obj"}, 'line 1: unknown key "mesh"'),
        ({"prompt": "a man", "levels": 4}, "line 1: --levels goes with --encoding hash"),
        ({"prompt": "a man", "fov": [30]}, "line 1: fov is [30]; give 2 numbers."),
        ({"prompt": "back view"}, 'line 1: The prompt "back view" '),
    ],
)
def test_a_mistake_in_a_manifest_names_its_line(tmp_path, line, expected, capsys):
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    assert main(["text-to-3d", "--prompts", str(tmp_path / "prompts.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_line_that_does_not_fit_the_prior_fails_alone(make, tmp_path):
    lines = [{"prompt": "red dog", "seed": 1}, {"prompt": "red cat", "resolution": 7}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out = make("--prompts", tmp_path / "prompts.jsonl", steps=2)
    summary = json.loads((out / "summary.json").read_text())
    assert code == 1 and [row["prompt"] for row in summary["prompts"]] == ["red dog"]
    assert "cannot be rendered at 7" in summary["failed"]["red cat"]


def test_a_run_leaves_what_the_contract_says(make, capsys):
    code, out = make("red dog")
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        "scenes", "contact.png", "grid.png", "evolution.gif", "config.yaml", "provenance.json", "citations.bib",
        "steps.jsonl", "metrics.json", "scenes.safetensors",
    }  # fmt: skip
    for scene in ("00", "01"):
        folder = out / "scenes" / scene
        assert {p.name for p in folder.iterdir()} == {"views", "turntable.gif", "mesh.glb", "viewer.html"}
        assert [p.stem for p in sorted((folder / "views").iterdir())] == [f"{k:03d}" for k in range(0, 360, 30)]
        assert Image.open(folder / "turntable.gif").n_frames == 3
    picture = Image.open(out / "scenes" / "01" / "views" / "150.png")
    assert picture.size == (16, 16)
    assert (picture.text["prompt"], picture.text["scene"], picture.text["azimuth"]) == ("red dog", "1", "150")
    found = metrics(out)
    assert found["div"] > 0 and found["agreement"] is None and found["janus"] is None
    assert set(found["reasons"]) == {"agreement", "janus"} and found["encoding_backend"] == "torch"
    assert found["renderer_backend"] == "torch"
    assert found["outputs"] == {
        "size": 16, "turntable": 3, "mp4": False, "mesh": "glb", "mesh_resolution": 12, "mesh_threshold": None,
        "mesh_faces": None, "texture": None
    }  # fmt: skip
    told = re.findall(r"mesh of scene (\d): surface where 10% of the light is lost, (\S+) tri", capsys.readouterr().out)
    assert told == [(str(k), f"{mesh['faces']:,}") for k, mesh in enumerate(found["meshes"])]
    assert all(mesh["threshold"] is None for mesh in found["meshes"])
    # each step: two pictures, guidance takes two passes each; a decode for the force
    assert found["network_calls"]["unet_forward"] == 3 * 2 * 2
    assert found["network_calls"]["decoder_backward"] == 3 * 2
    rows = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2] and all(row["repulsion"] > 0 for row in rows)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["gamma"], config["prompt"], config["grid"]) == (2.0, "red dog", [3, 6])
    again, _ = parse(["--config", str(out / "config.yaml"), "red dog"])  # what a run leaves says how to run it again
    assert (again.gamma, again.grid, again.fov, again.prompt) == (2.0, (3, 6), (22, 23), ("red dog",))


def test_a_prior_of_pixels_without_text(make, tmp_path, capsys):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1)
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    assert make("red dog", "--prior", tmp_path / "ddpm", out="told", steps=1)[0] == 2
    assert 'knows no text, so it cannot show "red dog"; give another --prior.' in capsys.readouterr().err
    assert not (tmp_path / "told").exists()
    code, out = make("", "--allow-empty", "--prior", tmp_path / "ddpm", "-n", "1", steps=1)
    error = capsys.readouterr().err
    assert code == 0 and error.count("has no text") == 1 and '"front view" has no effect' in error
    assert "rombach2022" not in (out / "citations.bib").read_text()
    assert "encoder_forward" not in metrics(out)["network_calls"]
    assert make("", "--allow-empty", "--prior", tmp_path / "ddpm", "--method", "vsd", out="vsd", steps=1)[0] == 2
    assert (
        "has no UNet for adapters, nor a transformer that reads text; use another method than vsd"
        in capsys.readouterr().err
    )


def test_vsd_on_a_hash_grid_whose_views_repel(make):
    code, out = make(
        "red dog", "--method", "vsd", "--encoding", "hash", "--interaction", "views", "--views", "2", "-n", "1",
        "--views-at-once", "1", "--background", "random", steps=1,
    )  # fmt: skip
    (row,) = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert code == 0 and row["repulsion"] > 0 and row["reference"] > 0
    assert metrics(out)["div"] is None and "one scene" in metrics(out)["reasons"]["div"]
    bib = (out / "citations.bib").read_text()
    assert all(
        key in bib
        for key in ("poole2023", "lin2023magic3d", "wang2023prolific", "mueller2022", "zilberstein2025", "rombach2022")
    )


def test_the_mesh_s_format_and_surface_and_no_repulsion(make):
    code, out = make("red dog", "--mesh", "obj", "--mesh-threshold", "0.5", "--gamma", "0", steps=1)
    assert code == 0 and (out / "scenes" / "00" / "mesh.obj").read_text().count("\nf ") > 50
    assert metrics(out)["meshes"][0]["threshold"] == 0.5
    assert json.loads((out / "steps.jsonl").read_text())["repulsion"] == 0
    assert "zilberstein2025" not in (out / "citations.bib").read_text()


def test_the_packaged_scene_words_are_words_that_heads_knows(capsys):
    assert main(["text-to-3d", "a man with a beard", "--prior", "heads", "--dry-run", "--out", "none"]) == 0
    assert "knows" not in "".join(capsys.readouterr())
    words = ["--scene-words", "{tan|purple} skin", "--dry-run", "--out", "none"]
    assert main(["text-to-3d", "a man", "--prior", "heads", *words]) == 0
    assert '"purple"' in "".join(capsys.readouterr())


def test_a_seed_makes_other_scenes_and_one_scene_is_the_same_alone(make):
    few = ("--gamma", "0")
    two, other, one = (
        outputs_of(make("red dog", *few, *flags, out=name, steps=2)[1])
        for name, flags in (("two", ()), ("other", ("--seed", "1")), ("one", ("-n", "1")))
    )
    view = "scenes/00/views/030.png"
    assert two[view] != other[view] and two[view] != two["scenes/01/views/030.png"]
    pixels = [Image.open(io.BytesIO(x[view])).tobytes() for x in (two, one)]
    assert max(abs(a - b) for a, b in zip(*pixels, strict=True)) <= 1


def test_a_prompt_that_fails_leaves_the_others(make, monkeypatch, capsys):
    write = outputs.write_scenes

    def fails(folder, *rest, prompt, **size):
        if prompt == "red cat":
            raise OSError("the disk is full")
        return write(folder, *rest, prompt=prompt, **size)

    monkeypatch.setattr(outputs, "write_scenes", fails)
    code, out = make("red cat", "red dog", "-n", "1", steps=1)
    assert code == 1 and "failed: red cat: the disk is full" in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert [row["prompt"] for row in summary["prompts"]] == ["red dog"] and list(summary["failed"]) == ["red cat"]


def test_a_prompt_may_hold_braces(make, capsys):
    code, _ = make("a {red} dog {", "-n", "1", steps=1)
    assert code == 0 and "a {red} dog {: grid encoding by torch, dense renderer by torch" in capsys.readouterr().out


def test_an_empty_scene_has_no_mesh_and_keeps_the_rest(make, monkeypatch, capsys):
    monkeypatch.setattr(FieldSettings, "sizes", FieldSizes(blob_radius=0.001))
    code, out = make("red dog", steps=1)
    error = capsys.readouterr().err
    assert code == 0 and error.count("rsd: no mesh of scene") == 2 and "The scene is empty" in error
    found = metrics(out)
    assert found["meshes"] == [None, None] and "scene 1: The scene is empty" in found["reasons"]["meshes"]
    assert {p.name for p in (out / "scenes" / "00").iterdir()} == {"views", "turntable.gif"}


def test_an_mp4_where_the_extra_is_installed(make):
    pytest.importorskip("imageio_ffmpeg")
    _, out = make("red dog", "--mp4", "-n", "1", steps=1)
    film = (out / "scenes" / "00" / "turntable.mp4").read_bytes()
    assert film[4:8] == b"ftyp" and {p.name for p in (out / "scenes" / "00").iterdir()} == {
        "views", "turntable.gif", "turntable.mp4", "mesh.glb", "viewer.html",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "module", "said"),
    [
        (["--mp4"], "imageio_ffmpeg", "--mp4 needs imageio-ffmpeg: pip install '.[video]'."),
        (["--texture", "64"], "xatlas", "--texture needs xatlas: pip install '.[mesh]'."),
        (
            ["--mesh-faces", "99"], "fast_simplification",
            "--mesh-faces needs fast-simplification: pip install '.[mesh]'.",
        ),
    ],
)  # fmt: skip
def test_an_output_without_its_extra_is_refused_at_once(monkeypatch, capsys, flags, module, said):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name))
    assert main(["text-to-3d", "a man", *flags]) == 2
    assert capsys.readouterr().err == f"rsd: {said}\n"


def test_a_texture_goes_with_a_glb(capsys):
    assert main(["text-to-3d", "a man", "--texture", "64", "--mesh", "obj"]) == 2
    assert "--texture goes with --mesh glb, but the mesh is obj" in capsys.readouterr().err


def test_a_run_writes_a_textured_mesh_of_fewer_triangles_and_later_a_finer_one(make):
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("xatlas")
    pytest.importorskip("fast_simplification")
    for flags, size in ((("--texture", "32"), 32), (("--texture", "64", "--resume"), 64)):
        _, out = make("red dog", "--mesh-faces", "200", *flags, "-n", "1", steps=1)
        (mesh,) = trimesh.load(out / "scenes" / "00" / "mesh.glb").geometry.values()
        assert mesh.visual.material.baseColorTexture.size == (size, size) and len(mesh.faces) <= 210
    held = json.loads((out / "metrics.json").read_text())
    assert held["outputs"]["texture"] == 64 and held["meshes"][0]["faces"] == len(mesh.faces)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["side view"], 'The prompt "side view" is only a view'),
        (
            ["dog", ", front view"],
            'The prompt ", front view" is only a view, but a scene is seen from all sides; give a',
        ),
        (["dog", "--views", "0"], "views is 0; give 1 or more."),
        (["dog", "--encoding", "hsah"], 'Unknown encoding "hsah". Did you mean "hash"?'),
        (["dog", "--renderer", "pakced"], 'Unknown renderer "pakced". Did you mean "packed"?'),
        (["dog", "--interaction", "view"], 'Did you mean "views"'),
        (["dog", "--background", "wihte"], 'Did you mean "white"'),
        (["dog", "--guidance-convention", "diffuser"], 'Unknown guidance convention "diffuser". Did you mean'),
        (["dog", "--sparsity", "-1"], "sparsity is -1.0; give a finite number, 0 or more."),
        (["dog", "--shaded", "1.5"], "shaded is 1.5; give a number from 0 to 1."),
        (["dog", "--bound", "0"], "bound is 0.0; give a finite number above 0."),
        (["dog", "--grid", "1", "8"], "each 2 or more"),
        (["dog", "--encoding", "hash", "--levels", "0"], "levels is 0; give 1 or more."),
        (["dog", "--encoding", "hash", "--log2-hashmap-size", "0"], "log2_hashmap_size is 0; give 1 or more."),
        (["dog", "--encoding", "hash", "--per-level-scale", "0.5"], "per_level_scale is 0.5; give a finite number, 1"),
        (["dog", "--encoding", "hash", "--per-level-scale", "4"], "whose finest grid has 2^34 corners a side"),
        (["dog", "--encoding", "frequency", "--octaves", "-1"], "octaves is -1; give 1 or more."),
        (["dog", "--levels", "4"], "--levels goes with --encoding hash, but the encoding is grid; change one"),
        (
            ["dog", "--octaves=4", "--encoding", "hash"],
            "--octaves goes with --encoding frequency, but the encoding is hash; change one",
        ),
        (
            ["dog", "--encoding", "frequency", "--grid", "4"],
            "--grid goes with --encoding grid, but the encoding is frequency",
        ),
        (
            ["dog", "--prior", IF, "--grid", "4"],
            "--grid goes with --encoding grid, but the encoding is hash; change one",
        ),
        (["dog", "--threshold", "1.5"], "threshold is 1.5; give a share above 0, at most 1, or None."),
        (["dog", "--t-range", "0.9", "0.1"], "t_range is (0.9, 0.1); give LO HI with 0 <= LO < HI <= 1."),
        (["dog", "--elevation", "0", "90"], "elevation is (0.0, 90.0); give LO HI with -89 <= LO <= HI <= 89."),
        (["dog", "--distance", "0", "1"], "distance is (0.0, 1.0); give LO HI with 0.001 <= LO <= HI."),
        (["dog", "--overhead", "nan"], "overhead is nan; give degrees from -90 to 90."),
        (["dog", "--interaction", "views"], "a scene's views repel, but it has one; give --views 2 or more."),
        (["dog", "--front", "100", "--back", "90"], "together they must not exceed 180 degrees"),
        (["dog", "--view-prompts", "a dog's back"], "is not VIEW=TEXT"),
        (["dog", "--view-prompts", "bakc=a tail"], 'Unknown view "bakc". Did you mean "back"?'),
        (["dog", "--view-prompts", "back=a tail", "back=tails"], "has two prompts for back"),
        (["dog", "--guidance", "1", "--negative-prompt", "cat"], "has no effect without guidance (guidance is 1)"),
        (["dog", "--mesh-threshold", "0"], "mesh_threshold is 0.0"),
        (["dog", "--perp-neg", "1"], "perp-neg goes with --negative-prompt, but there is no negative prompt"),
        (["dog", "--resolution", "0"], "resolution is 0; give 1 or more."),
        (["dog", "--resolution", "-16"], "resolution is -16; give 1 or more."),
        (["dog", "--size", "4"], "size is 4; give 16 or more."),
        (["dog", "--size", "100000"], "size is 100000; give 4096 or less."),
        (["dog", "--interacting", "9"], "interacting is 9 of 4 scenes; give 2 to 4."),
        (["dog", "--lr", "0"], "lr is 0.0; give a finite number above 0."),
        (
            ["dog", "--prior", "photos"],
            'The prior photos knows no text, so it cannot show "dog"; give another --prior.',
        ),
        (["dog", "-n", "100000000"], "100000000 samples of 64 px take 4,578 GiB, and"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_before_any_model_is_loaded(refused, flags, expected):
    refused("text-to-3d", flags, expected)


def test_a_resolution_that_does_not_fit_is_reported_before_any_network_is_loaded(
    tmp_path, tiny_folder, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("load_prior", "load_scorers", "load_features"):
        monkeypatch.setattr(f"rsd.runs.head.{name}", lambda *a, **k: pytest.fail("a network was loaded"))
    priors = {"heads": 64, str(tiny_folder("epsilon")): 16}
    capsys.readouterr()  # what transformers says when it is first imported
    for prior, own in priors.items():
        assert main(["text-to-3d", "a man", "--resolution", "48", "--prior", prior]) == 2
        expected = (
            f'rsd: The prior "{prior}" sees pictures of {own} px, which cannot be rendered at 48; give a --resolution '
        )
        error = capsys.readouterr().err
        assert error.startswith(expected) and error.count("\n") == 1 and not (tmp_path / "runs").exists()


def test_gated_weights_are_reported_with_the_way_to_them(tmp_path, monkeypatch, capsys):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        raise GatedRepoError("no", response=SimpleNamespace(status_code=403, headers={}, request=None))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    assert main(["text-to-3d", "a man", "--prior", IF]) == 2
    error = capsys.readouterr().err
    assert f'"{IF}" is gated: accept its licence at https://huggingface.co/{IF}, then run "hf auth login"' in error
    assert error.count("\n") == 1


def test_flags_win_over_config_and_config_over_the_packaged_one(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("gamma: 7\nt_range: [0.1, 0.9]\nview_prompts: [back=hair]\nprompt: of another run\n")
    options, name = parse(["--config", str(own), "a man", "--gamma", "9", "--prior", IF])
    assert name == "if.yaml: sds" and options.prompt == ("a man",)
    assert (options.gamma, options.t_range, options.own_prompts) == (9, (0.1, 0.9), {"back": "hair"})
    assert options.ambient == 0.1  # the dataclass says 0.52, the light of heads


def test_the_defaults_that_help_shows_are_those_of_sds_on_heads_pixels():
    folder = files("rsd.configs") / "text_to_3d"
    packaged_ones = yaml.safe_load((folder / "heads_pixels.yaml").read_text())["methods"]["sds"]
    own = TextTo3D()
    assert {name: getattr(own, "features_name" if name == "features" else name) for name in packaged_ones} == (
        packaged_ones
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimiser": "fit", "background": "random"}, "needs one that stays; give --background learned"),
        ({"fit_lead": 1.5}, "fit_lead is 1.5; give a share of the run from 0 to 1"),
        ({"cameras": "round"}, 'Unknown cameras "round". There are: drawn, fixed'),
        ({"fit_rays": 0}, "fit_rays is 0"),
    ],
)
def test_mistakes_of_fitted_scenes(change, says):
    with pytest.raises(ValueError, match=says):
        Settings(**change)


def test_latents_are_not_thresholded(tmp_path, capsys):
    flags = ["--prior", "heads", "--threshold", "0.9", "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(["text-to-3d", "dog", *flags]) == 2
    assert '--threshold goes with priors of pixels, and "heads" has latents' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_an_encoding_is_made_of_can_be_set(make, tmp_path):
    """Flags change the sizes of the parameters; by default they are the field's own."""
    sizes = {"levels", "log2_hashmap_size", "per_level_scale", "octaves"}
    own = {field.name: field.default for field in dataclasses.fields(FieldSettings) if field.name in ADDED}
    assert own.keys() >= sizes and own == {name: ADDED[name] for name in own}
    hashed = ("--encoding", "hash", "--levels", "3", "--log2-hashmap-size", "7", "--per-level-scale", "2")
    _, out = make("red dog", *hashed, "-n", "1", out="hash", steps=1)
    weights = load_file(out / "scenes.safetensors")
    assert weights["scenes/[0]/field.encoding.params"].shape == (3 * 2**7 * 2,)
    _, out = make("red dog", "--encoding", "frequency", "--octaves", "2", "-n", "1", out="waves", steps=1)
    weights = load_file(out / "scenes.safetensors")
    assert weights["scenes/[0]/field.network.0.weight"].shape == (64, 3 + 6 * 2)
    own_file = tmp_path / "own.yaml"
    own_file.write_text("octaves: 3\nlevels: 4\n")  # a file may say more than its run needs
    assert parse(["a man", "--config", str(own_file)])[0].levels == 4


def test_a_run_from_before_some_options_resumes(make, capsys):
    """Its config.yaml does not contain them. It resumes with the values that it was made with; other values are
    refused."""
    hashed = ("red dog", "--encoding", "hash", "-n", "1", "--light-up", "0")
    _, out = make(*hashed, steps=1)
    config = yaml.safe_load((out / "config.yaml").read_text())
    (out / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k not in ADDED}))
    assert make(*hashed, "--resume", steps=1)[0] == 0 and "already done" in capsys.readouterr().out
    assert make(*hashed, "--resume", "--levels", "4", steps=1)[0] == 2
    assert "with other settings: levels 16 is now 4" in capsys.readouterr().err


def seen_lamps(settings, steps=500):
    """Return where a camera sees its lamps: the components to the right and above its own direction, per step."""
    seen = []
    for step in range(steps):
        camera = draw_cameras(settings, 1, Stream(0), step)
        lit = draw_light(
            dataclasses.replace(settings, ambient_until=0, shaded=1), camera, Stream(0), steps=1, step=step
        )
        right, up, back = camera.axes[0] @ lit.position[0]
        seen.append((right / back, up / back))
    return torch.tensor(seen, dtype=torch.float64).T


@pytest.mark.parametrize(("flags", "file"), [([], "heads_views.yaml"), (["--prior", "heads"], "heads.yaml")])
def test_sds_on_latent_priors_of_heads_fits_scenes_to_all_views_of_fixed_cameras(flags, file):
    chosen, name = parse(["a man", *flags])
    assert name == f"{file}: sds"
    assert (chosen.noise, chosen.optimiser, chosen.cameras, chosen.timesteps) == ("carried", "fit", "fixed", "annealed")
    assert chosen.unread["shaded"][0] == "--optimiser adam" and "fit_rays" not in chosen.unread
    assert "fit_rays" in parse(["a man", "--prior", "heads-pixels"])[0].unread


def test_scenes_of_the_default_prior_are_told_all_that_the_prompt_leaves_open():
    options, _ = parse(["a bald man", "-n", "20"])
    settings = Settings.of(options)
    for number in range(20):
        told = read(with_scene_words("a bald man", settings, seed=0, number=number)).values
        assert set(ATTRIBUTES) - set(told) == {"hair_color"} and (told["hair"], told["beard"]) == ("bald", "none")
    words = [
        with_scene_words("a woman with a blue mohawk and sunglasses, an open mouth", settings, seed=0, number=number)
        for number in range(4)
    ]
    assert len(set(words)) == 4 and all("glasses, no" not in text and "hair" not in text for text in words)
    assert all(set(read(text).values) == set(ATTRIBUTES) for text in words)


@pytest.mark.parametrize(("method", "prior"), [("sds", "heads-pixels"), ("vsd", "heads-pixels"), ("vsd", "heads")])
def test_the_settings_for_heads_are_the_light_and_cameras_of_the_training_pictures(method, prior):
    assert packaged(method, prior).name == f"{prior.replace('-', '_')}.yaml: {method}"
    options, _ = parse(["a man", "--method", method, "--prior", prior])
    chosen = Settings.of(options)
    assert (chosen.ambient, chosen.diffuse, chosen.textureless) == (0.52, 0.5, 0)
    x, y = seen_lamps(chosen)
    rng = np.random.default_rng(0)
    trained = np.array([sample_head(rng).light for _ in range(1000)])
    (left, low), (right, high) = trained.min(0), trained.max(0)
    inside = (left < x) & (x < right) & (low < y) & (y < high)
    assert float(inside.double().mean()) > 0.85
    assert y.mean() == pytest.approx(trained[:, 1].mean(), abs=0.05)
    assert (chosen.elevation, chosen.distance) == ((-10, 30), (8, 8))
    assert chosen.gamma > 0 and chosen.method == method


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_the_paper_s_settings(method):
    options, name = parse(["dog", "--prior", IF, "--method", method])
    chosen = Settings.of(options)
    assert name == "if.yaml: sds" and options.features_name == "facebook/dino-vits16"
    assert (chosen.method, chosen.steps, chosen.gamma, chosen.t_range) == (method, 10000, 200, (0.02, 0.98))
    assert (chosen.guidance, chosen.guidance_convention) == (20, "dreamfusion")
    assert (chosen.lr, chosen.lr_background) == (0.01, 0.001)
    assert chosen.particles * chosen.views == 20


def test_the_light_and_weights_of_dreamfusion_s_successors():
    """For IF the lamp is around cameras at 1.5 to 2 with a deviation of 1. Seen from the camera it is behind the scene
    as often as a normal number is below -1.75. Normals that face away weigh 10, and 1000 at the end."""
    chosen = Settings.of(parse(["dog", "--prior", IF])[0])
    lit = dataclasses.replace(chosen, ambient_until=0, shaded=1)
    draws = [draw_cameras(chosen, 20, Stream(0), step) for step in range(100)]
    lamps = [draw_light(lit, cameras, Stream(0), steps=100, step=step).position for step, cameras in enumerate(draws)]
    behind = [(lamp * cameras.back).sum(-1) < 0 for lamp, cameras in zip(lamps, draws, strict=True)]
    assert float(torch.cat(behind).double().mean()) == pytest.approx(0.04, abs=0.012)
    one = torch.ones(1, 1)
    away = Rendering(one[..., None], one, one, 0 * one, orientation=one)
    weights = [regularisers(away, chosen, progress=progress)["orientation"] for progress in (0, 1)]
    assert [float(weight) for weight in weights] == pytest.approx([10, 1000])


@pytest.mark.parametrize(
    ("prompt", "cut"),
    [
        ("a man, front view", "a man"),
        ("a man with a beard, pale skin,back view", "a man with a beard, pale skin"),
        ("side view", ""),
        ("a man with a beard, Front view", "a man with a beard"),
        ("a man with a beard, front view.", "a man with a beard"),
        ("a man with a beard front view", "a man with a beard"),
        ("A man with a beard. OVERHEAD VIEW.", "A man with a beard"),
        ("a man , side-view", "a man"),
        ("Back view.", ""),
        ("front view of a man", "front view of a man"),
        ("a man, front view, with a beard", "a man, front view, with a beard"),
        ("a house with a side view", "a house with a side view"),
        ("a house seen in side view", "a house seen in side view"),
        ("a man with a big backview", "a man with a big backview"),
        ("a man", "a man"),
        ("a man with a view", "a man with a view"),
    ],
)
@pytest.mark.filterwarnings("ignore:A scene is seen from all sides")
def test_a_view_at_the_end_is_no_part_of_the_prompt(prompt, cut):
    assert without_view(prompt, TextTo3D(allow_empty=True)) == cut


def test_what_is_said_of_a_view_is_so():
    with pytest.warns(UserWarning, match='"back view" is left out of the prompt; each camera adds its own.$'):
        without_view("a man, back view", TextTo3D())
    with pytest.warns(UserWarning, match='"back view" is left out of the prompt.$'):
        without_view("a man, back view", TextTo3D(view_words=False))
    with pytest.warns(UserWarning) as expected:
        assert without_view("Side view of a man, Back view.", TextTo3D()) == "Side view of a man"
    left_out, stays = (str(warning.message) for warning in expected)
    assert '"Back view" is left out of the prompt; each camera' in left_out
    assert '"Side view" stays in the prompt "Side view of a man"; leave it out if it says where' in stays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert without_view("a viewfinder at the back", TextTo3D()) == "a viewfinder at the back"


@pytest.mark.parametrize(
    ("options", "latent", "keys"),
    [
        ({}, True, ["sds", "magic3d", "rlsd", "latent-diffusion", "dino"]),
        ({"gamma": 0.0, "method": "vsd"}, False, ["sds", "magic3d", "vsd", "lora"]),
        ({"features": "pixels", "encoding": "hash"}, False, ["sds", "magic3d", "rlsd", "instant-ngp"]),
        (
            {"features": "pixels", "renderer": "packed"},
            False,
            ["sds", "magic3d", "rlsd", "instant-ngp"],
        ),
        ({"particles": 1, "prior": IF}, False, ["sds", "magic3d"]),
        ({"particles": 1, "prior": "heads-views"}, False, ["sds", "magic3d", "mvdream"]),
        ({"particles": 1, "negative_prompt": "fog", "perp_neg": 1.0}, False, ["sds", "magic3d", "perp-neg"]),
        ({"particles": 1, "threshold": 0.9}, False, ["sds", "magic3d", "imagen"]),
        (
            {"particles": 1, "interaction": "views", "views": 2, "prior": IF},
            False,
            ["sds", "magic3d", "rlsd", "dino"],
        ),
    ],
)
def test_a_run_cites_what_it_uses(options, latent, keys):
    assert SceneHead.cited(TextTo3D(**{"prior": "heads-pixels", **options}), latent=latent) == keys


def test_a_prior_distilled_to_few_noise_levels_is_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for prior, warned in (("heads-flow-few", True), ("heads-flow", False)):
        assert main(["text-to-3d", "a bald man", "-n", "1", "--steps", "2", "--prior", prior, "--dry-run"]) == 0
        assert ("is distilled to four noise levels" in capsys.readouterr().err) == warned
