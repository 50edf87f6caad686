"""Files packed as .gz or .zst."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import zstandard

_PACKED_BYTES = 64 << 10  # compressed bytes at a time: bounds what one step can unfold to


class DamagedError(Exception):
    """A packed file is cut off or damaged."""


def packing(path: str) -> str:
    """How a file is packed by the end of its name: "gz", "zst" or ""."""
    ending = path.rsplit(".", 1)[-1].lower()
    return ending if ending in ("gz", "zst") else ""


def without_packing(path: str) -> str:
    """The name of what is packed."""
    return path.rsplit(".", 1)[0] if packing(path) else path


def unpacked(path: str) -> Iterator[bytes]:
    """The content of a .gz or .zst file in pieces.

    Raises:
        DamagedError: The file ends too early, or is no such file.
    """
    try:
        yield from _unpacked(path)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DamagedError(str(error)) from error


def _unpacked(path: str) -> Iterator[bytes]:
    make: Callable[[], Any] = {
        "gz": lambda: zlib.decompressobj(wbits=31),
        "zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }[packing(path)]
    with open(path, "rb") as file:
        unpacker, begun = make(), False
        while packed := file.read(_PACKED_BYTES):
            while packed:
                if not begun and packing(path) == "gz":
                    packed = packed.lstrip(b"\0")  # padding between members, as gzip(1) ignores it
                    if not packed:
                        break
                begun = True
                if piece := unpacker.decompress(packed):
                    yield piece
                if not unpacker.eof:
                    break
                packed = unpacker.unused_data
                unpacker, begun = make(), False
    if begun:
        raise EOFError("the compressed stream ends before its end mark")
