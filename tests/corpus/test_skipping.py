"""Leaving broken lines out costs as much for the thousandth megabyte as for the first: no clock."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from outdim.corpus import lines


@pytest.fixture(scope="module")
def skipping(programs):
    return programs("skipping")


class Counted(io.FileIO):
    """A file that counts the bytes that are read."""

    read_bytes = 0

    def readinto(self, buffer: Any) -> int | None:
        size = super().readinto(buffer)
        Counted.read_bytes += size or 0
        return size


def work(skipping: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Bytes that are read from the file, and calls of functions, to read all of it."""
    calls = 0

    def count(*given: Any) -> None:
        nonlocal calls
        calls += 1

    Counted.read_bytes = 0
    with monkeypatch.context() as patch:
        patch.setattr(lines, "open_file", lambda path: io.BufferedReader(Counted(path)))
        sys.setprofile(count)
        try:
            skipping.read(path)
        finally:
            sys.setprofile(None)
    return Counted.read_bytes, calls


def check(skipping: Any, path: Path, sizes: list[float], patch: pytest.MonkeyPatch) -> None:
    by_size = []
    for size in sizes:
        broken = skipping.write(path, size)
        assert skipping.read(path).skipped.total() == broken > 100
        read_bytes, calls = work(skipping, path, patch)
        by_size.append((read_bytes / path.stat().st_size, calls / path.stat().st_size))
    read_twice, calls = zip(*by_size, strict=True)
    # Of csv and jsonl a first row is looked for once more.
    assert max(read_twice) < 2.2
    assert max(calls) < 1.1 * calls[0]
    print([f"{times:.2f} times read, {per_byte:.4f} calls a byte" for times, per_byte in by_size])


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_work_grows_as_the_text_does(skipping, tmp_path, monkeypatch, kind) -> None:
    check(skipping, tmp_path / f"text.{kind}", [0.25, 2], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_work_grows_as_the_text_does_up_to_64_megabytes(
    skipping, tmp_path, monkeypatch, kind
) -> None:
    check(skipping, tmp_path / f"text.{kind}", [2, 16, 64], monkeypatch)
