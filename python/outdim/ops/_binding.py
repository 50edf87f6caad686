"""The compiled module: found once, never required."""

from functools import cache
from typing import Any

import torch

# The codes are those of csrc/core/types.h.
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


@cache
def core() -> Any:
    """Return the compiled module, or None where the package was installed without it."""
    try:
        from outdim import _core
    except ImportError:
        return None
    return _core


@cache
def import_error() -> str:
    """Return why the compiled module cannot be imported, "" when it can."""
    try:
        from outdim import _core  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


@cache
def has_cuda() -> bool:
    """Whether the compiled module holds CUDA kernels."""
    return hasattr(core(), "cuda_moments")
