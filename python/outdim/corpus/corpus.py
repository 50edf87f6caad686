"""Corpora: where documents come from, cut into work units that are read in any order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from outdim.corpus import formats
from outdim.corpus.find import find_files
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Accounting, Texts, admit
from outdim.corpus.unit import Unit
from outdim.errors import DataError
from outdim.machine import usable_cores

_STAMP = ("path", "size_bytes", "mtime_ns", "ctime_ns")


def open_corpus(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str = "text",
    name: str | None = None,
    split: str = "train",
    min_chars: int = 0,
    on_error: str = "fail",
    unit_bytes: int = 32 << 20,
) -> Corpus:
    """Open a corpus of documents and cut it into work units.

    Args:
        source: "python-docs" (the documentation inside Python), a path or glob of .txt, .jsonl or
            .parquet files (also .gz and .zst), a directory of such, several of these, or the id of
            a Hugging Face dataset, which is streamed. In txt files every line is a document; files
            are read in sorted order, each once.
        column: the column or key that holds the text (parquet, jsonl, Hugging Face).
        name: configuration of a Hugging Face dataset.
        split: split of a Hugging Face dataset.
        min_chars: documents of fewer characters are left out (and accounted for as "short").
        on_error: "fail" raises at a row that cannot be read (not UTF-8, not JSON, no such column,
            half a surrogate pair, a damaged file), naming file and line; "skip" leaves it out and
            accounts for it.
        unit_bytes: the size to which units are cut; a unit holds at least one row group, and
            compressed text files, which can only be read from their start, are one unit each.

    Documents that are empty or hold only ASCII blanks are no documents, in any format.

    Raises:
        ArgumentError: an argument has a value that is not allowed.
        DataError: a file is missing or of an unknown kind, a column does not exist, or there is
            nothing to read.

    >>> corpus = open_corpus("python-docs")
    >>> next(corpus.read(corpus.units[0], Accounting()))[:19]
    'The "assert" statem'
    """
    options = ReadOptions(column, name, split, min_chars, on_error, unit_bytes)
    sources = [source] if isinstance(source, str | os.PathLike) else source
    return Corpus([os.fspath(part) for part in sources], options)


class Corpus:
    """Documents in work units; made by :func:`open_corpus`.

    ``units`` are in a fixed order; :meth:`read` gives the documents of one of them, the same
    whenever and wherever it is called on the same files. ``unreadable`` accounts for the files that
    were left out when the corpus was opened (``on_error="skip"``): to be added once.
    """

    def __init__(self, sources: Sequence[str], options: ReadOptions):
        self.source = " ".join(sources)
        self.options = options
        self.unreadable = Accounting()
        self.units: tuple[Unit, ...] = tuple(
            Unit(index, *place) for index, place in enumerate(self._places(sources))
        )
        if not self.units:
            raise DataError(
                f"source: {self.source}: there is nothing to read (all files are empty)"
            )

    def files(self, known: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """path, size_bytes, mtime_ns, ctime_ns and sha256 of every file.

        Hashing reads a file (1 s a gigabyte, one file a core), unless one of the same path, size
        and times of modification and change is ``known`` from an earlier call.
        """
        hashes = {tuple(file[key] for key in _STAMP): file["sha256"] for file in known}
        paths = {unit.path: unit.kind for unit in self.units}
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(lambda path: _describe(path, paths[path], hashes), paths))

    def read(self, unit: Unit, account: Accounting) -> Iterator[str]:
        """The documents of a unit; what was read and what left out is entered in ``account``."""
        for block in self.blocks(unit, account):
            yield from block.strings()

    def blocks(self, unit: Unit, account: Accounting) -> Iterator[Texts]:
        """The documents of a unit as blocks of bytes, entered in ``account``: the fast way."""
        problems = Problems(account, self.options.on_error)
        for block in formats.load(unit.kind).read(unit, self.options, problems):
            yield admit(block, self.options.min_chars, account)

    def _places(self, sources: Sequence[str]) -> Iterator[tuple[str, str, int, int, int]]:
        """Format, path, start, stop and size of every unit in order."""
        problems = Problems(self.unreadable, self.options.on_error)
        if len(sources) == 1 and (kind := formats.of_source(sources[0])):
            found = [(kind, formats.load_source(kind).resolve(sources[0]))]
        else:
            found = [(formats.of_file(path) or "", path) for path in find_files(sources)]
        for kind, path in found:
            for span in formats.load(kind).units(path, self.options, problems):
                yield kind, path, *span


def _describe(path: str, kind: str, hashes: Mapping[Any, str]) -> dict[str, Any]:
    if not formats.of_file(path):
        return {
            "path": path,
            "mtime_ns": None,
            "ctime_ns": None,
            **formats.load_source(kind).describe(path),
        }
    about = os.stat(path)
    stamp = (path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    digest = hashes.get(stamp)
    if digest is None:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**dict(zip(_STAMP, stamp, strict=True)), "sha256": digest}
