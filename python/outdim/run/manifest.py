"""The manifest: what was run, on what, with which versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from outdim import __version__
from outdim.errors import ResumeError
from outdim.machine import cpu_name
from outdim.run.files import create, readable_json, write_json
from outdim.run.plan import differences

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow")


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator and the versions that may change a last bit."""
    from outdim.ops._binding import core

    kernels = core()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "isa": kernels.isa() if kernels is not None else "none: plain torch",
        **versions(),
    }


@cache
def versions() -> dict[str, str]:
    """Of the packages that may change a last bit."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"outdim": __version__, **found}


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def begin(run: Path, command: str, **parts: Any) -> None:
    """Write the manifest of a run that begins; one that goes on keeps what was written."""
    if not (run / "manifest.json").exists():
        content = {"outdim": __version__, "command": command, "created": now(), "finished": None}
        # Another process may have begun, and even finished, since we looked: its manifest stands.
        create(run / "manifest.json", readable_json({**content, "machine": machine(), **parts}))


def check(run: Path, **parts: Any) -> None:
    """Check that the manifest's entries are these.

    Raises:
        ResumeError: They are not; the message shows the difference.
    """
    written = read(run)
    if found := differences({name: written.get(name) for name in parts}, parts):
        raise ResumeError(
            f"{run} holds a run of something else, and its results would be overwritten. "
            f"{'; '.join(found)}. Give the options and inputs of that run, or name a new directory."
        )


def update(run: Path, **parts: Any) -> dict[str, Any]:
    """Replace top-level entries of the manifest."""
    content = {**read(run), **parts}
    write_json(run / "manifest.json", content)
    return content


def read(run: Path) -> dict[str, Any]:
    """The manifest of a run."""
    content: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return content
