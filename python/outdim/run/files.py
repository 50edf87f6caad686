"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outdim.errors import ArgumentError, BackendError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends well.

    Raises:
        BackendError: The disk is full; what was at ``path`` is untouched.
    """
    temporary = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.tmp"
    )  # also unique between machines
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _fsync_directory(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackendError(
                f"{path}: the disk is full. What was committed before is intact; free some space "
                f"and give "
                "the same command again to go on."
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def canonical_json(value: Any) -> str:
    """The same text for the same value, in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def check_run_directory(path: Path) -> None:
    """Accept a path that is new, an empty directory, or a run; nothing is created.

    Raises:
        ArgumentError: ``path`` holds something that is not a run of outdim.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(
            f"output: {path} is a file; name a directory that is new, empty or a run."
        )
    if path.is_dir() and not is_run(path) and any(path.iterdir()):
        raise ArgumentError(
            f"output: the directory {path} is not empty and is not a run of outdim. Name a new "
            f"directory; "
            "nothing was written."
        )


def is_run(path: Path) -> bool:
    """Whether ``path`` holds a run: a plan or a manifest."""
    return (path / "plan.json").is_file() or (path / "manifest.json").is_file()


def _fsync_directory(path: Path) -> None:
    """Make a rename durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
