"""Every family in the commands, by dry runs: what is printed, and errors in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from rsd.cli import main
from rsd.media import read_image
from rsd.priors.families import FAMILIES
from tests.priors.families.tiny import BUILD, build

ABOUT = {
    "sdxl": (
        "UNet2DConditionModel in float32, AutoencoderKL in float32",
        2,
        "epsilon by DDIMScheduler, sigma/alpha 0.029",
    ),
    "sd3": ("SD3Transformer2DModel", 2, "flow by FlowMatchEulerDiscreteScheduler, sigma/alpha 0.003"),
    "flux": ("FluxTransformer2DModel", 2, "flow by FlowMatchEulerDiscreteScheduler, sigma/alpha 0.001 to 999"),
    "flux2": ("Flux2Transformer2DModel in float32, AutoencoderKLFlux2 in float32", 4, "flow by Flow"),
    "z_image": ("ZImageTransformer2DModel", 2, "flow by FlowMatchEulerDiscreteScheduler, sigma/alpha 0.003"),
    "qwen_image": ("QwenImageTransformer2DModel in float32, AutoencoderKLQwenImage in float32", 2, "flow by Flow"),
    "sana": ("SanaTransformer2DModel in float32, AutoencoderDC in float32", 2, "flow by DPMSolverMultistepScheduler"),
    "pixart": ("PixArtTransformer2DModel", 2, "epsilon by DDIMScheduler, sigma/alpha 0.01"),
}
"""Of each tiny pipeline: its classes, pixels of an entry of its latents, its schedule."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((16, 16), 60).convert("RGB").save("x.png")


def printed(capsys, *arguments: object) -> str:
    """Return what a command prints if it succeeds."""
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments: object) -> str:
    """Return the message of a command that is refused."""
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main([str(a) for a in arguments]))
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in message
    return message


@pytest.mark.parametrize("family", BUILD)
def test_a_dry_run_says_what_would_run(family, saved, capsys):
    classes, factor, schedule = ABOUT[family]
    title = next(f.title for f in FAMILIES if f.module.startswith(f"{family}:"))
    common = ["--prior", saved(family), "--dry-run", "--features", "pixels"]
    drawn = printed(
        capsys, "text-to-image", "a red dog", "--method", "euler", "--steps", "4", "--size", "32x16", "--draw", "4",
        "--keep", "2", *common,
    )  # fmt: skip
    assert f"({title}); {classes}" in drawn and schedule in drawn
    assert f"pictures 32 x 16 px (width x height), latents {32 // factor} x {16 // factor}" in drawn
    network = "unet" if family == "sdxl" else "transformer"
    assert f"weights: {network} " in drawn and ", vae " in drawn and ", text_encoder " in drawn
    assert "euler, 4 steps, 4 samples of which 2 are kept, compared in pixels, on cpu" in drawn
    restored = printed(
        capsys,
        "restore",
        "x.png",
        "--clean",
        "--task",
        "inpaint_half_face",
        "--method",
        "rlsd",
        "--gamma",
        "1",
        "--steps",
        "3",
        "-n",
        "2",
        *common,
    )
    assert classes in restored and schedule in restored
    assert "rlsd, 3 steps, 2 samples, compared in pixels, on cpu" in restored
    assert not Path("runs").exists()


def test_sizes_that_a_prior_does_not_make(saved, tiny_folder, capsys):
    wide = ["text-to-image", "a red dog", "--dry-run", "--prior"]
    assert "multiples of 4 px; --size is 34x16" in refusal(capsys, *wide, saved("flux"), "--size", "34x16")
    assert "makes pictures of one size, 16 px; leave --size out" in refusal(
        capsys, *wide, tiny_folder("epsilon"), "--size", "32x16"
    )
    assert 'size is "wide"; give width x height' in refusal(capsys, *wide, saved("flux"), "--size", "wide")


def test_a_missing_part_is_named(saved, tmp_path, capsys):
    def without(part: str, family: str = "flux") -> str:
        folder = tmp_path / f"no-{part}"
        shutil.copytree(saved(family), folder)
        shutil.rmtree(folder / part)
        return refusal(capsys, "text-to-image", "a dog", "--dry-run", "--features", "pixels", "--prior", folder)

    assert "text_encoder_2 contains no model.safetensors" in without("text_encoder_2")
    assert "is incomplete" in (message := without("vae")) and "config.json is missing" in message
    assert "is incomplete" in without("scheduler")
    assert "tokenizer is missing" in without("tokenizer")
    assert "tokenizer_2 is missing" in without("tokenizer_2")


def test_a_folder_of_variants_is_taken_with_a_warning(saved, tmp_path, capsys):
    build("flux", tmp_path / "words").save_pretrained(tmp_path / "model", variant="fp16")
    arguments = ["text-to-image", "a dog", "--dry-run", "--features", "pixels", "--prior", tmp_path / "model"]
    assert main([str(a) for a in arguments]) == 0
    said = capsys.readouterr()
    assert 'has only variants of its weights; using "fp16"' in said.err and "GiB (fp16)" in said.out
    assert main([*map(str, arguments), "--dtype", "float16"]) == 0
    said = capsys.readouterr()
    assert "only variants" not in said.err and "in float16, AutoencoderKL in float32" in said.out


def test_hub_models_that_are_gated_or_have_no_such_revision(monkeypatch, capsys):
    from types import SimpleNamespace

    import huggingface_hub
    from huggingface_hub import errors

    def answer(error, status):
        def ask(*given, **options):
            raise error("no", response=SimpleNamespace(status_code=status, headers={}, request=None))

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)

    ask = ["text-to-image", "a dog", "--dry-run", "--features", "pixels", "--prior", "owner/FLUX"]
    answer(errors.GatedRepoError, 403)
    assert "is gated: accept its licence at https://huggingface.co/owner/FLUX" in refusal(capsys, *ask)
    answer(errors.RevisionNotFoundError, 404)
    assert 'has no revision "none"' in refusal(capsys, *ask, "--revision", "none")


def test_a_hub_model_in_the_cache(saved, hub_cache, capsys):
    commit = hub_cache("owner/tiny-flux", saved("flux"))
    said = printed(capsys, "text-to-image", "a dog", "--dry-run", "--features", "pixels", "--prior", "owner/tiny-flux")
    assert f"weights: from the hub, commit {commit}" in said


def test_two_wide_pictures_by_every_kind_of_method(saved, small_networks, capsys):
    """Pictures, grid and metrics have the width and height of --size."""
    for method in ("euler", "vsd", "sds", "nfsd"):
        printed(
            capsys, "text-to-image", "a red dog", "--prior", saved("sd3"), "--size", "32x16", "-n", "2", "--steps", "2",
            "--method", method, "--features", "pixels", "--div-features", "pixels", "--gamma", "1", "--out", method,
        )  # fmt: skip
        assert Image.open(f"{method}/particles/01.png").size == (32, 16)
        width, height = Image.open(f"{method}/grid.png").size  # small pictures are enlarged, with labels below
        assert width > 2.5 * height
        figures = json.loads(Path(method, "metrics.json").read_text())
        pictures = [read_image(path) for path in sorted(Path(method, "particles").iterdir())]
        similar = torch.nn.functional.cosine_similarity(*(picture.flatten(1) for picture in pictures))
        assert figures["div"] == pytest.approx(1 - similar.item(), abs=0.05) and figures["div"] > 0.1
