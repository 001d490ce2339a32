"""The doctor's report on the families of priors."""

from __future__ import annotations

import json

import pytest
import torch

from rsd.doctor import families
from rsd.priors.families import FAMILIES


def test_every_family_has_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(families, "free_gib", lambda device: 20)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("rsd.priors.precision.multiplies_in", lambda dtype, device: True)
    for name, kind in (("me--flux", "FluxPipeline"), ("me--sd", "StableDiffusionPipeline"), ("me--odd", None)):
        folder = tmp_path / f"models--{name}" / "snapshots" / "0"
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text("[" if kind is None else json.dumps({"_class_name": kind}))
    monkeypatch.setattr(families, "on_disk", lambda found=families.on_disk(tmp_path): found)
    first, *rest = families.lines()
    assert "in bfloat16, on cpu with 20 GiB free" in first and len(rest) == 2 + len(FAMILIES)
    of = dict(zip((family.title for family in families.ALL), rest, strict=True))
    assert all(line.startswith(f"  {title} (") for title, line in of.items())
    assert of["Stable Diffusion 1.5 and 2.1"].endswith("1.9 + 0.6 GiB, fits; me/sd")
    assert "8.0 + 8.9 GiB, fits without text encoders: " in of["DeepFloyd IF"]
    assert of["FLUX.1"].endswith("22.4 + 9.1 GiB, too large; me/flux")
    assert of["SANA"].endswith("fits; none on disk")


@pytest.mark.parametrize(
    ("network", "texts", "apart", "expected"),
    [
        (8, 8, False, "fits"),
        (8, 9, False, "fits without text encoders: embed the prompts on a larger machine"),
        (8, 9, True, "fits, with text encoders on the CPU"),
        (17, 1, True, "too large"),
    ],
)
def test_what_fits_into_20_gib(network, texts, apart, expected):
    assert families.fits(network, texts, free=20, host=64, apart=apart) == expected


def test_free_memory_is_measured():
    assert 0 < families.free_gib("cpu") < 1e5
