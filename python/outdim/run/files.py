"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outdim.errors import ArgumentError, BackendError, DataError, ResumeError

_STALE_S = 3600.0  # no write takes as long: the process that began it is dead
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends well.

    Raises:
        BackendError: The disk is full; what was at ``path`` is untouched.
    """
    temporary = _temporary(path)
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
                "and give the same command again to go on."
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def create(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` unless there is a file: of processes that race, one wins."""
    if path.exists():
        return
    staged = _temporary(path)
    write_bytes(staged, content)
    try:
        with suppress(FileExistsError):
            os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not path.exists():  # the best there is on a file system without hard links
            staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    _fsync_directory(path.parent)


def remove_stale(directory: Path) -> None:
    """Remove temporary files of processes that were killed."""
    for path in directory.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all."""
    write_bytes(path, readable_json(value))


def readable_json(value: Any) -> bytes:
    """JSON for people, the same bytes for the same value."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def canonical_json(value: Any) -> str:
    """The same text for the same value, in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_run_directory(path: Path, command: str) -> None:
    """Accept a path that is new, empty, holds states only, or a run of ``command``.

    Nothing is created.

    Raises:
        ArgumentError: ``path`` holds something that is not a run of outdim.
        ResumeError: It holds a run of another command, whose results would be overwritten.
    """
    if path.exists() and not path.is_dir():
        raise ArgumentError(
            f"output: {path} is a file; name a directory that is new, empty or a run."
        )
    if is_empty(path) or _holds_states_only(path):
        return
    found = _command_of(path)
    if found is None:
        raise ArgumentError(
            f"output: the directory {path} is not empty and is not a run of outdim. Name a new "
            "directory; nothing was written."
        )
    if found != command:
        raise ResumeError(
            f"output: {path} holds a run of `outdim {found}`. Name another directory; nothing was "
            "written."
        )


def is_empty(path: Path) -> bool:
    """Whether nothing is at ``path`` but perhaps what a process leaves that was killed at once."""
    return not path.exists() or all(
        inside.name.startswith(".") and inside.name.endswith(".tmp") for inside in path.iterdir()
    )


def _holds_states_only(path: Path) -> bool:
    """Whether there is nothing but the states that were taken over from another run."""
    names = {inside.name for inside in path.iterdir() if not inside.name.startswith(".")}
    return names == {"state"} and any(path.glob("state/*.safetensors"))


def _command_of(path: Path) -> str | None:
    """Which command made the run at ``path``; None where there is none."""
    for name in ("plan.json", "manifest.json"):
        if (path / name).is_file():
            try:
                return str(json.loads((path / name).read_text())["command"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path / name} is broken ({error}).") from error
    return None


def _temporary(path: Path) -> Path:
    """A path beside ``path`` that no other process has, on any machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _fsync_directory(path: Path) -> None:
    """Make a rename durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
