"""The peak of memory."""

import sys

import pytest
import torch

from rsd.peak import peak_bytes, reset_peak

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="resets the peak through /proc")
def test_a_peak_is_seen_and_forgotten():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    big = torch.ones(16 * 2**20)  # 64 MiB
    del big
    assert peak_bytes(CPU) - before > 60 * 2**20
    reset_peak(CPU)
    assert peak_bytes(CPU) - before < 40 * 2**20
