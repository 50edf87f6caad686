"""Files that appear whole or not at all, and that say when they were altered."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outdim.errors import BackendError, DataError

_STALE_S = 3600.0  # no write takes as long: the process that began it is dead
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_CHECKSUM = "sha256"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends well.

    Raises:
        BackendError: The disk is full; what was at ``path`` is untouched.
    """
    temporary = _temporary(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            _fsync_directory(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` where the disk is full; writers of other packages do not.

    Raises:
        BackendError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackendError(
                f"{path}: the disk is full. What was committed before is intact; free some space "
                "and give the same command again to go on."
            ) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def create(path: Path, content: bytes) -> bool:
    """Write ``content`` to ``path`` unless there is a file: of processes that race, one wins.

    Returns:
        Whether this process did.
    """
    if path.exists():
        return False
    staged = _temporary(path)
    write_bytes(staged, content)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        staged.replace(path)  # the best there is on a file system without hard links
    finally:
        with suppress(OSError):  # it must not hide what went wrong before
            staged.unlink()
    _fsync_directory(path.parent)
    return True


def remove_stale(directory: Path) -> None:
    """Remove temporary files and directories of processes that were killed."""
    for path in directory.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON for people with a checksum of its own; the same bytes for the same value."""
    content = {**value, _CHECKSUM: digest(value)}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `json_bytes`, whole or not at all."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        FileNotFoundError: There is none.
        DataError: It cannot be read, or was altered since it was written.
    """
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop(_CHECKSUM)
        altered = checksum != digest(content)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: it cannot be read ({error}).") from error
    if altered:
        raise DataError(f"{path}: it was altered since outdim wrote it; its checksum is another.")
    found: dict[str, Any] = content
    return found


def canonical_json(value: Any) -> str:
    """The same text for the same value, in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
