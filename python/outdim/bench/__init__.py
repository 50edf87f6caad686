"""``outdim bench``: the kernels against torch and against the bandwidth of this machine.

The cases, the clock and the roofline are also those of the benchmarks in the repository.
"""

from __future__ import annotations

import json as json_format
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from outdim.bench.correlate import correlate_case
from outdim.bench.inputs import make_inputs
from outdim.bench.layer_norm import layer_norm_case
from outdim.bench.moments import fused_case, moments_case
from outdim.bench.table import table
from outdim.bench.timing import Row, keep_freed_memory, measure
from outdim.errors import ArgumentError, BackendError
from outdim.machine import machine

FORMAT = "outdim.bench/1"
_PACKAGES = ("torch", "numpy", "scipy", "torchmetrics", "transformers", "triton", "liger-kernel")

_SIZE = {"cpu": (16384, 768), "cuda": (65536, 1024)}
_ROUNDS = 7


def main(device: str = "cpu", json: str | None = None) -> None:
    """Measure what a run does, then LayerNorm, moments and the two fused; print a table of each.

    Args:
        device: "cpu" or "cuda".
        json: Write the rows to this file as well.

    Raises:
        ArgumentError, BackendError: Another device, or none of that kind.
    """
    check_device(device)
    kept = keep_freed_memory()
    print(f"{measured_on(device)['gpu' if device == 'cuda' else 'cpu']}, torch {torch.__version__}")
    print("Median and minimum over interleaved rounds; GB/s of what must be moved; x outdim: how")
    print("many times as long as outdim; compiling torch's rivals takes a while ...")
    rows = short(device, *_SIZE[device], _ROUNDS)
    if json is not None:
        write(Path(json), "bench", rows, {**measured_on(device), "keeps_freed_memory": kept})


def short(device: str, N: int, D: int, rounds: int) -> list[Row]:
    """Measure and print the operations in float32 and bfloat16, with torch's threads."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = make_inputs(N, D, dtype, device)
        for build in (correlate_case, layer_norm_case, moments_case, fused_case):
            rows += measure_and_print(build(inputs, torch.get_num_threads()), rounds)
    return rows


def measured_on(device: str = "cpu") -> dict[str, Any]:
    """What is measured on, with which versions, and how busy it was before."""
    return {**machine(_PACKAGES, device), "load_before": round(os.getloadavg()[0], 2)}


def measure_and_print(case: Any, rounds: int) -> list[Row]:
    """`measure`, with a table on stdout."""
    rows = measure(case, rounds)
    print("\n" + table(rows), flush=True)
    return rows


def check_device(device: str) -> None:
    """Raise unless the device is "cpu", or "cuda" and there is one."""
    if device not in ("cpu", "cuda"):
        raise ArgumentError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("device: torch finds no CUDA device; `outdim doctor` says more")


def write(path: Path, name: str, rows: Iterable[Row], facts: dict[str, Any]) -> None:
    """Write rows as JSON: {"format", "name", "machine", "rows"}, NaN as null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    finite = [{key: _or_null(value) for key, value in row.items()} for row in rows]
    content = {"format": FORMAT, "name": name, "machine": facts, "rows": finite}
    path.write_text(json_format.dumps(content, indent=1) + "\n")


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
