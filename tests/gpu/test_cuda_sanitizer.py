"""compute-sanitizer over small shapes of every kernel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

TOOL = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"


@pytest.mark.slow
@pytest.mark.skipif(not Path(TOOL).exists(), reason="needs compute-sanitizer, of the CUDA toolkit")
@pytest.mark.parametrize("check", ["memcheck", "racecheck", "synccheck"])
def test_sanitizer(check):
    script = Path(__file__).with_name("sanitized.py")
    run = subprocess.run(
        [TOOL, "--tool", check, "--error-exitcode", "9", "--kernel-name", "kns=outdim",
         sys.executable, str(script)],
        capture_output=True, text=True, check=False, timeout=240,
        # Every tensor its own allocation, so that a step outside of it is seen.
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )  # fmt: skip
    if run.returncode not in (0, 9):
        pytest.skip(f"compute-sanitizer cannot run here: {(run.stdout + run.stderr)[-400:]}")
    assert run.returncode == 0, run.stdout[-4000:]
