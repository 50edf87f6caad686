"""The files of a corpus: that they can be read, and that they stay what they were."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from typing import Any, NamedTuple

from outdim.errors import DataError

STAMP_KEYS = ("path", "size_bytes", "mtime_ns", "ctime_ns")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def printable(text: str) -> str:
    r"""``text`` with what is no character as escapes: bytes of a file name that are not UTF-8.

    Python holds such a byte as half of a surrogate pair. JSON keeps it, written as here; a terminal
    or a page in UTF-8 cannot.

    Example:
        >>> printable(os.fsdecode(b"caf\xe9.txt"))
        'caf\\udce9.txt'
    """
    return text.encode("utf-8", "backslashreplace").decode()


class UnreadableError(DataError):
    """A file cannot be opened, or is none that can be read again; ``why`` says it without path."""

    def __init__(self, path: str, why: str):
        super().__init__(printable(f"source: {path}: {why}"))
        self.path, self.why = path, why

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        return type(self), (self.path, self.why)


class Stamp(NamedTuple):
    """What tells that a file is the one it was, without reading it."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int

    @classmethod
    def of(cls, path: str) -> Stamp:
        """The stamp of a regular file; links are followed.

        Raises:
            UnreadableError: There is none.
        """
        try:
            about = os.stat(path)
        except FileNotFoundError as error:
            why = "a link to nothing" if os.path.islink(path) else "no such file"
            raise UnreadableError(path, why) from error
        except OSError as error:
            raise UnreadableError(path, str(error.strerror)) from error
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
            raise UnreadableError(path, f"expected a file, got {kind}")
        return cls(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_dev, about.st_ino)

    @property
    def identity(self) -> tuple[int, int]:
        """The same for all paths and links to one file."""
        return self.device, self.inode


def open_file(path: str) -> BufferedReader:
    """Open a regular file for reading; never waits, as opening a pipe would.

    Raises:
        UnreadableError: There is none, or it may not be read.
    """
    Stamp.of(path)
    try:
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        raise UnreadableError(path, str(error.strerror)) from error


def check_unchanged(path: str, stamp: Stamp) -> None:
    """Compare a file with its stamp.

    Raises:
        DataError: It was changed or replaced, or is gone.
    """
    now = Stamp.of(path)
    if now != stamp:
        raise DataError(
            f"source: {printable(path)}: it was changed or replaced after the corpus was opened "
            f"({stamp.size_bytes} bytes then, {now.size_bytes} now), so that what was read of it "
            "may be of two texts. Keep files as they are while they are read, and start again"
        )


def describe(path: str, stamp: Stamp, hashes: Mapping[Any, str]) -> dict[str, Any]:
    """Path, size, times and sha256, which ``hashes`` may know by the other four.

    Raises:
        DataError: The file is not what its stamp says, or was changed while it was hashed.
    """
    about = dict(zip(STAMP_KEYS, (path, *stamp[:3]), strict=True))
    check_unchanged(path, stamp)
    digest = hashes.get(tuple(about.values()))
    if digest is None:
        with open_file(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        check_unchanged(path, stamp)
    return {**about, "sha256": digest}
