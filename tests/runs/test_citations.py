import re

import pytest

from rsd.runs.citations import BIBTEX, bibtex
from rsd.tasks.inverse.head import RestoreHead
from rsd.tasks.inverse.options import Restore


def test_entries_are_whole_and_their_keys_differ():
    keys = [re.match(r"@\w+\{(\w+),\n", entry)[1] for entry in BIBTEX.values()]
    assert len(set(keys)) == len(keys)
    for entry in BIBTEX.values():
        assert entry.count("{") == entry.count("}")
        assert all(f"  {field} " in entry for field in ("title", "author", "year", "url"))


def test_each_is_listed_once():
    text = bibtex(["dino", "rlsd", "dino"])
    assert text.count("@inproceedings") == 2
    assert text.index("caron2021") < text.index("zilberstein2025")


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"gamma": 10, "method": "rlsd", "prior": "heads-pixels"}, ["rlsd", "dino"]),
        ({"gamma": 10, "method": "rlsd"}, ["rlsd", "latent-diffusion", "dino"]),
        ({"gamma": 10, "method": "rlsd", "features": "pixels"}, ["rlsd", "latent-diffusion"]),
        ({"gamma": 10, "method": "nonrepuls"}, ["rlsd", "latent-diffusion"]),
        ({"gamma": 10, "method": "rlsd", "prior": "some/stable-diffusion"}, ["rlsd", "latent-diffusion", "dino"]),
        ({}, ["psld", "diffpir", "pigdm", "latent-diffusion"]),  # by default, proximal guidance
        ({"method": "latent-red-diff"}, ["red-diff", "latent-diffusion"]),
    ],
)
def test_a_run_cites_what_it_uses(options, keys):
    latent = "latent-diffusion" in keys
    assert RestoreHead.cited(Restore(images=(), **options), latent=latent) == keys
