"""What was measured on, and with which versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from outdim import __version__
from outdim.machine import cpu_name
from outdim.ops._binding import core

_PACKAGES = ("torch", "numpy", "scipy", "torchmetrics", "transformers", "triton", "liger-kernel")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, GPU, instruction set of the kernels, versions of what is installed."""
    kernels = core()
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "isa": kernels.isa() if kernels is not None else "none: plain torch",
        "openmp": Path(kernels.threading()).name if kernels is not None else "",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "outdim": __version__,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts
