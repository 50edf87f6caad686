"""The bandwidth of this machine, read and copy, measured among the variants it is the limit of."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

Bound = Literal["read", "copy"]

_CPU_BYTES, _CUDA_BYTES = 2**27, 2**30  # an array; far more than any last-level cache here


@dataclass(frozen=True)
class Probe:
    """A way to move `bytes`; of several with one bound the fastest is the roofline."""

    name: str
    bound: Bound
    run: Callable[[], Any]
    bytes: int


def probes(device: str, threads: int) -> list[Probe]:
    """Reading: torch's sum and, on the CPU, memchr. Copying: torch's copy and, there, memcpy.

    The C functions are given one part of the arrays per thread; glibc's memcpy writes large blocks
    past the cache, which saves reading them first.
    """
    source, target = _arrays(device)
    size = source.numel() * source.element_size()
    found = [
        Probe("roofline: torch sum", "read", source.sum, size),
        Probe("roofline: torch copy", "copy", lambda: target.copy_(source), 2 * size),
    ]
    if device == "cpu":
        found += [
            Probe("roofline: memchr", "read", lambda: _in_parts(_memchr, threads), size),
            Probe("roofline: memcpy", "copy", lambda: _in_parts(_memcpy, threads), 2 * size),
        ]
    return found


@cache
def _arrays(device: str) -> tuple[Tensor, Tensor]:
    size = _CUDA_BYTES if device == "cuda" else _CPU_BYTES
    return tuple(torch.zeros(size // 4, device=device) for _ in range(2))  # type: ignore[return-value]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor()


@cache
def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    library.memchr.restype = ctypes.c_void_p
    return library


def _in_parts(work: Callable[[int, int], object], threads: int) -> None:
    """Call work(offset, size) for each part, on as many threads; ctypes lets go of the GIL."""
    size = _CPU_BYTES // threads
    others = [_pool().submit(work, part * size, size) for part in range(1, threads)]
    work(0, size)
    for other in others:
        other.result()


def _memchr(offset: int, size: int) -> None:
    source, _ = _arrays("cpu")
    _c_library().memchr(source.data_ptr() + offset, 1, size)  # there is none: all is read


def _memcpy(offset: int, size: int) -> None:
    source, target = _arrays("cpu")
    ctypes.memmove(target.data_ptr() + offset, source.data_ptr() + offset, size)
