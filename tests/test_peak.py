"""The peak of memory."""

import subprocess
import sys

import pytest

# In a process of its own: one that ran other tests has freed memory to give, and its peak need not grow.
CODE = """
import torch
from rsd.memory.usage import peak_bytes, reset_peak
cpu = torch.device("cpu")
reset_peak(cpu)
before = peak_bytes(cpu)
big = torch.ones(32 * 2**20)
del big
print(peak_bytes(cpu) - before)
reset_peak(cpu)
print(peak_bytes(cpu) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resets the peak through /proc")
def test_a_peak_is_seen_and_forgotten():
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    grown, left = map(int, told.split())
    assert grown > 120 * 2**20 and left < 80 * 2**20  # of 128 MiB
