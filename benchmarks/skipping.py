"""Seconds to read text in which one line in ten is broken, with --on-error skip, by size.

python benchmarks/skipping.py

The table of docs/counting.md. What is read and done a megabyte is tested without a clock
(tests/corpus/test_skipping.py).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from outdim.corpus import Accounting, open_corpus

MEGABYTES = (2, 4, 8, 16, 32, 64)
_TEXT = b"the of and in to was he is " * 4
#: Format -> what comes first, a line that can be read, one that cannot.
FORMATS = {
    "txt": (b"", _TEXT + b"\n", b"the of \xff and\n"),
    "jsonl": (b"", b'{"text": "' + _TEXT + b'"}\n', b'{"text": "the of and\n'),
    "csv": (b"text,n\n", _TEXT + b",1\n", b'the of and,"1\n'),
}


def write(path: Path, megabytes: float, *, broken: bool = True) -> int:
    """Write a file of a format, by the ending of its name; how many lines are broken."""
    first, good, bad = FORMATS[path.suffix[1:]]
    ten = good * 9 + (bad if broken else good)
    times = int(megabytes * (1 << 20)) // len(ten)
    path.write_bytes(first + ten * times)
    return times if broken else 0


def read(path: Path) -> Accounting:
    """Read all of it."""
    account = Accounting()
    corpus = open_corpus(path, on_error="skip")
    for unit in corpus.units:
        for _ in corpus.blocks(unit, account):
            pass
    return account


def _rows(folder: Path) -> Iterator[list[str]]:
    for kind in FORMATS:
        for broken in (False, True):
            row = [f"{kind}, one in ten broken" if broken else f"{kind}, clean"]
            for megabytes in MEGABYTES:
                path = folder / f"text.{kind}"
                expected = write(path, megabytes, broken=broken)
                start = time.perf_counter()
                found = read(path)
                row.append(f"{time.perf_counter() - start:.2f}")
                assert found.skipped.total() == expected
            yield row


def main() -> None:
    print("|", " | ".join(["seconds", *(f"{size} MB" for size in MEGABYTES)]), "|")
    print("|", " | ".join(["---"] * (len(MEGABYTES) + 1)), "|")
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(Path(folder)):
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
