"""What the operating system says of this machine."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


def cpu_name() -> str:
    """The processor as it calls itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on; all of them where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine(packages: Sequence[str], device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, GPU, instruction set of the kernels, versions of what is installed."""
    import torch

    from outdim import __version__
    from outdim.ops._binding import core

    kernels = core()
    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "isa": kernels.isa() if kernels is not None else "none: plain torch",
        "openmp": Path(kernels.threading()).name if kernels is not None else "",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "outdim": __version__,
    }
    if device == "cuda":
        facts["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
        facts["cuda"] = torch.version.cuda
    for package in packages:
        if version := _version(package):
            facts[package] = version
    return facts


@cache  # looking one up among all that is installed takes milliseconds
def _version(package: str) -> str | None:
    """Of what is installed; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
