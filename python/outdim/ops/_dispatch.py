"""Which kernel serves a call."""

import os
from importlib import import_module
from typing import Any, Literal

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from outdim.errors import ArgumentError, BackendError, DtypeError
from outdim.ops import _cpu, _reference
from outdim.ops._binding import DTYPE_CODES, core, has_cuda, import_error
from outdim.ops._check import dtype_name, not_dense

Backend = Literal["auto", "cpu", "cuda", "reference"]

_BACKENDS = ("auto", "cpu", "cuda", "reference")
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def kernels(backend: str) -> Any:
    """Return the module of the launchers of a backend that `choose` named."""
    if backend == "cpu":
        return _cpu
    if backend == "reference":
        return _reference
    return import_module("outdim.ops._cuda")


def via_op(tensor: Any) -> bool:
    """Whether a call must go through the registered op: somebody looks on, or x is special.

    Those who look on are torch.compile, torch.jit.trace, modes (make_fx, fake tensors, profilers of
    operators) and transforms. Other calls go to the kernel directly, which saves about half of the
    cost of a small call.
    """
    special = type(tensor) not in _PLAIN and isinstance(tensor, torch.Tensor)
    if special and tensor.is_nested:  # of which the dispatcher would say less
        raise not_dense("x or hidden", tensor)
    return (
        is_compiling()
        or special
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    )


_LOADED_BY = os.getpid()


def keep_to_one_thread_after_fork() -> None:
    """In a child of fork(), tell torch to use one thread.

    The others of OpenMP are gone, and the first large op of torch would wait for them for ever.
    """
    if os.getpid() != _LOADED_BY and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp) or forward-mode differentiation is under way."""
    return not is_compiling() and (torch._C._are_functorch_transforms_active() or forward_mode())


def forward_mode() -> bool:
    """Whether forward-mode differentiation is under way, which `via_op` does not look for."""
    return forward_ad._current_level >= 0


def choose(backend: str, tensor: torch.Tensor) -> str:
    """Resolve `backend` for a tensor to "cpu", "cuda" or "reference".

    "auto" takes the kernel of the tensor's device, and the reference for float64, for devices
    without a kernel and where the compiled module is absent. The others are taken at their word
    or fail.
    """
    if backend == "reference":
        return "reference"
    if backend == "auto":
        if tensor.dtype in DTYPE_CODES:
            if tensor.is_cpu and core() is not None:
                return "cpu"
            if tensor.is_cuda and has_cuda():
                return "cuda"
        return "reference"
    if backend not in _BACKENDS:
        raise ArgumentError(f"backend: expected one of {', '.join(_BACKENDS)}, got {backend!r}")
    if tensor.device.type != backend:
        raise DtypeError(
            f'backend: "{backend}" works on {backend} tensors, got one on {tensor.device}; '
            'move the tensor or pass backend="auto"'
        )
    if tensor.dtype not in DTYPE_CODES:
        raise DtypeError(
            f'backend: "{backend}" has kernels for float32, float16 and bfloat16, got '
            f'{dtype_name(tensor.dtype)}; pass backend="reference" or cast'
        )
    if core() is None:
        raise BackendError(
            f'backend: "{backend}" needs the compiled module outdim._core, which cannot be '
            f"imported ({import_error()}); build it with `pip install .` from the sources (a C++17 "
            'compiler is enough) or pass backend="reference"'
        )
    if backend == "cuda" and not has_cuda():
        raise BackendError(
            'backend: "cuda" needs CUDA kernels, and outdim was built without them; build it where '
            "nvcc is on PATH (`pip install . -C cmake.define.OUTDIM_CUDA=ON`) or pass "
            'backend="reference"'
        )
    return backend
