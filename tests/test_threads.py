"""The command lets torch's waiting threads sleep, unless its user says otherwise."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_waiting_threads_sleep(given, found):
    code = "import os, sys, rsd.cli; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", found]  # libgomp reads it when torch is imported: it is not yet
