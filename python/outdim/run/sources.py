"""The files of a text while a run reads them: what is read is what was planned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outdim.errors import DataError
from outdim.files import read_json, sha256_of

FILES = "files.json"  # size, times and hash of every file, so that hashes are not taken again
_STAMP = ("size_bytes", "mtime_ns", "ctime_ns")

Stamp = tuple[int, int, int]


class Sources:
    """Compares files with the plan by size and times, and where these differ by their hash.

    A state counts for a hash in the plan. Without this, a text that was replaced for an hour would
    leave states of other words under the same name.

    Args:
        run: The run directory, where `FILES` says at which times the hashes were taken.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._stamps: dict[tuple[str, str], Stamp | None] | None = None  # by path and hash

    @contextmanager
    def unchanged(self, unit: Mapping[str, Any], planned: Mapping[str, str]) -> Iterator[None]:
        """The file of a unit is the planned one before, during and after the block.

        Args:
            unit: One that has no ``path``, or one without a hash, is not looked at.
            planned: Hashes by path.

        Raises:
            DataError: It is another one, or was touched while the block ran.
        """
        path = unit.get("path")
        if path is None or path not in planned:
            yield
            return
        before = self._checked(path, planned[path])
        yield
        if before is not None and before != _stamp(path):
            raise DataError(
                f"{path} was changed while it was read, and what was read of it counts for "
                "nothing. Give the command again once nothing writes to it."
            )

    def _checked(self, path: str, planned: str) -> Stamp | None:
        """The stamp under which the file has the planned hash; None where it has no stamp."""
        if self._stamps is None:
            self._stamps = {
                (file["path"], file["sha256"]): None
                if file["mtime_ns"] is None
                else tuple(file[name] for name in _STAMP)
                for file in read_json(self._run / FILES)["files"]
            }
        if (known := self._stamps.get((path, planned), ())) is None:
            return None  # it is no file of its own, as the documentation inside Python
        now = _stamp(path)
        if now != known:
            if now is None or sha256_of(Path(path)) != planned or _stamp(path) != now:
                raise DataError(
                    f"{path} is not what it was when the run was planned. Put the planned one back "
                    "and give the command again (what is committed is kept), or name a new "
                    "directory."
                )
            self._stamps[path, planned] = now
        return now


def _stamp(path: str) -> Stamp | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns
