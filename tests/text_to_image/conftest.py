"""The UNet that learns from scratch is small here, as the priors are."""

from __future__ import annotations

import pytest

from rsd.reference import UNetScore


@pytest.fixture(autouse=True)
def small_unet_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UNetScore.__init__.__kwdefaults__, "channels", (32, 64))
