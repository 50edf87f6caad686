"""The manifest: what was run, on what, with which versions, and the hashes of the results."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from outdim import __version__
from outdim.errors import DataError
from outdim.files import create, json_bytes, read_json, sha256_of, write_json
from outdim.machine import machine

NAME = "manifest.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "pyarrow")


@cache
def versions() -> dict[str, str]:
    """Of the packages that may change a last bit."""
    found = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"outdim": __version__, **found}


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def begin(run: Path, command: str) -> bool:
    """Write the manifest of a study that begins; one that goes on keeps what was written.

    Returns:
        Whether this process wrote it.
    """
    content = {"outdim": __version__, "command": command, "created": now(), "finished": None}
    # Another process may have begun, and even finished, since we looked: its manifest stands.
    return create(run / NAME, json_bytes({**content, "machine": machine(_PACKAGES), "results": {}}))


def update(run: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Replace entries of the manifest; mappings are updated entry by entry."""
    content = read(run)
    for name, value in parts.items():
        old = content.get(name)
        content[name] = {**old, **value} if isinstance(old, dict) and value else value
    write_json(run / NAME, content)
    return content


def read(run: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        DataError: There is none, or it was altered.
    """
    try:
        return read_json(run / NAME)
    except FileNotFoundError as error:
        raise DataError(f"{run} holds no {NAME}: it is not a run of outdim.") from error


def result_path(run: Path, name: str) -> Path:
    """The path of a result of a run, once its bytes are those that the manifest speaks of.

    Raises:
        DataError: There is no such result, or it was altered since it was written.
    """
    path, expected = run / name, read(run)["results"].get(name)
    if expected is None or not path.is_file():
        raise DataError(f"{run} holds no {name}: give the command of the run again.")
    if sha256_of(path) != expected:
        raise DataError(
            f"{path}: it was altered since outdim wrote it; its checksum is another. Give the "
            "command of the run again: the states are kept, and the results are written anew."
        )
    return path
