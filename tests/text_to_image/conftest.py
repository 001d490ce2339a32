"""The UNet that learns from scratch is small here, as the priors are."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def small(small_networks: None) -> None:
    """Use the small networks in every test."""
