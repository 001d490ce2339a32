"""Tests run on one thread, offline, with an empty model cache, and with tiny random models."""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="rsd-test-hub-")

gc.set_threshold(50_000, 20, 20)  # with the default, 700, a tenth of the suite goes into walking the libraries' objects

import torch  # noqa: E402

from tests.quick import built_once, networks_read_once, quick_films  # noqa: E402

torch.set_num_threads(1)


_frozen = 0


def pytest_runtest_logfinish() -> None:
    """Let no later collection of garbage walk the objects of libraries, whenever tests have imported more of them."""
    global _frozen
    if len(sys.modules) > _frozen + 300:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(autouse=True, scope="session")
def runs_are_quick() -> Iterator[None]:
    """See :mod:`tests.quick`."""
    with networks_read_once(), quick_films():
        yield


@pytest.fixture(autouse=True)
def photos_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let --prior auto take heads, whether or not the weights of the prior of photographs are in the package."""
    monkeypatch.setattr("rsd.tasks.inverse.choice.has_photos", lambda: False)


LENGTH = 16
"""Tokens in a tiny prompt."""


def build_tokenizer(folder: Path):
    """Return a CLIP tokenizer whose words are single letters, and "re" and "red"."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: k for k, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH)


@built_once
def build_pipeline(folder: Path, prediction_type: str = "epsilon", **scheduler):
    """Return a random StableDiffusionPipeline with 0.2 M parameters, from 16 px to latents 4x8x8."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, sample_size=16, scaling_factor=0.5,
    )  # fmt: skip
    settings = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": prediction_type, **scheduler,
    }  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(**settings),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture
def tiny_pipeline(tmp_path: Path) -> Callable:
    """``tiny_pipeline("v_prediction", **scheduler settings)``: a new random pipeline, always of the same weights."""
    return functools.partial(build_pipeline, tmp_path / "tokenizer")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_folder("epsilon")``: the folder where such a pipeline is saved. Read it only: it is shared."""

    @functools.cache
    def folder(prediction_type: str = "epsilon") -> Path:
        root = tmp_path_factory.mktemp(f"tiny-{prediction_type}")
        build_pipeline(root / "tokenizer-source", prediction_type).save_pretrained(root / "model")
        return root / "model"

    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random ViTModel for 16 px images, patches of 4, 8 features."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=4, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-vit")
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_heads_pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random pipeline of the built-in pixel prior's class and words, 32 px. Read it only."""
    from diffusers import IFPipeline

    from scripts.heads import pixel

    torch.manual_seed(0)
    tokenizer, unet = pixel.build_tokenizer(), pixel.build_unet((16, 16, 32))
    parts = tokenizer, pixel.build_text_encoder(tokenizer), unet, pixel.build_scheduler()
    folder = tmp_path_factory.mktemp("heads") / "pixel"
    IFPipeline(*parts, None, None, None, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture
def heads_pixels(tiny_heads_pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the built-in heads-pixels by that pipeline; return the folder of the built-in models."""
    from rsd import hub

    folder = tmp_path / "weights"
    folder.mkdir()
    for part in hub.BUILT_IN.iterdir():
        if part.name != "pixel":
            (folder / part.name).symlink_to(part)
    (folder / "pixel").symlink_to(tiny_heads_pixels)
    monkeypatch.setattr(hub, "BUILT_IN", folder)
    return folder


@pytest.fixture
def hub_cache() -> Callable[[str, Path], str]:
    """``hub_cache("owner/name", folder)`` copies the folder into the (offline) hub cache; returns its commit."""
    import shutil

    def put(name: str, folder: Path) -> str:
        commit = "0123456789abcdef0123456789abcdef01234567"
        root = Path(os.environ["HF_HOME"]) / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, root / "snapshots" / commit, dirs_exist_ok=True)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        return commit

    return put


@pytest.fixture
def small_networks() -> Iterator[None]:
    """Let VSD's UNet have few channels, the packed renderer's occupancy grid 16^3 cells, and scored pictures 24 px."""
    from rsd.reference import UNetScore
    from rsd.tasks.text_to_3d import outputs
    from rsd.tasks.text_to_3d.scene.occupancy import Occupancy

    with pytest.MonkeyPatch.context() as patch:  # a test may undo its own
        patch.setitem(UNetScore.__init__.__kwdefaults__, "channels", (32, 64))
        patch.setitem(Occupancy.__init__.__kwdefaults__, "cells", 16)
        patch.setattr(outputs, "SIZE", 24)
        yield


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """``refused(command, flags, message)``: assert that a command is refused with that message, before any model is
    loaded."""

    def check(command: str, flags: list[str], message: str) -> None:
        from rsd.cli import main

        monkeypatch.chdir(tmp_path)
        (tmp_path / "bad.yaml").write_text("gama: 3\n")
        (tmp_path / "prompts.txt").write_text("a man\n")
        (tmp_path / "empty.txt").write_text("# nothing\n")
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("x")
        monkeypatch.setattr("rsd.runs.batch.load_networks", lambda *a, **k: pytest.fail("a model was loaded"))
        with pytest.raises(SystemExit) as stopped:
            raise SystemExit(main([command, *flags]))
        captured = capsys.readouterr()
        assert stopped.value.code == 2
        assert message in captured.err + captured.out and "Traceback" not in captured.err

    return check
