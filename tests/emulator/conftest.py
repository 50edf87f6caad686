"""The compiled module with emulated CUDA kernels, in the place of outdim._core.

Built by `cmake -DOUTDIM_CUDA=EMULATED` (see docs/facts.md); OUTDIM_EMULATOR names the file, and
OUTDIM_EMULATOR_LIMITS, if set, what `benchmarks/ptxas.py --limits` wrote: the registers and the
static shared memory of each kernel, which decide whether a device would launch it.
"""

import ctypes
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch

PATH = os.environ.get("OUTDIM_EMULATOR")
LIMITS = os.environ.get("OUTDIM_EMULATOR_LIMITS")


@pytest.fixture(scope="session")
def emulated():
    """Make the ops take the CUDA path for tensors on the CPU; returns the emulator's library."""
    if not PATH:
        pytest.skip("OUTDIM_EMULATOR does not name a module built with OUTDIM_CUDA=EMULATED")
    if "outdim._core" in sys.modules:
        pytest.skip("another compiled module is loaded: run tests/emulator alone")
    spec = importlib.util.spec_from_file_location("outdim._core", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["outdim._core"] = module

    import outdim

    outdim._core = module
    library = ctypes.CDLL(PATH)
    given = json.loads(Path(LIMITS).read_text()) if LIMITS else {}
    if given:  # a kernel without limits ends the program; these are the tests' own
        given |= {
            f"multiply_once<{of}>": {"registers": 0, "shared_bytes": 0}
            for of in ("__half", "__nv_bfloat16")
        }
    for kernel, limits in given.items():
        library.emulator_limits(kernel.encode(), *limits.values())
    from outdim.ops import _cuda, _dispatch

    def workspace(module, hidden, args):
        """A workspace of NaN, and checked for writes behind its end."""
        d = hidden.shape[-1]
        size = module.cuda_workspace_bytes(hidden.numel() // d, d, args, 0)
        whole = torch.full((size + 512,), 255, dtype=torch.uint8)
        offset = -whole.data_ptr() % 256
        workspaces.append(whole[offset + size :])
        return whole[offset : offset + size]

    def context(module, device, workspace=None):
        return module.CudaContext(0, 0, 0 if workspace is None else workspace.data_ptr())

    workspaces = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cuda, "_workspace", workspace)
        patch.setattr(_cuda, "_context", context)
        patch.setattr(_dispatch, "_cpu", _cuda)
        yield library
    assert all(bool((end == 255).all()) for end in workspaces), "written behind the workspace"


@pytest.fixture(params=[0, 1, 7], ids=["ascending", "descending", "random"])
def order(request, emulated):
    """Orders in which the threads of a block take turns; a device of 3 multiprocessors."""
    emulated.emulator_configure(3, request.param)
    return request.param
