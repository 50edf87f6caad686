"""Corpora: where documents come from, cut into work units that are read in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from outdim.corpus import formats
from outdim.corpus.files import STAMP_KEYS, Stamp, check_unchanged, describe, printable
from outdim.corpus.find import find_files
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Accounting, Texts, admit
from outdim.corpus.unit import Unit
from outdim.errors import ArgumentError, DataError
from outdim.machine import usable_cores

_PATHS = "a path, glob or dataset id, or a list of paths"


def open_corpus(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    column: str = "text",
    name: str | None = None,
    split: str = "train",
    min_chars: int = 0,
    max_document_bytes: int = 64 << 20,
    on_error: str = "fail",
    unit_bytes: int = 32 << 20,
) -> Corpus:
    """Open a corpus of documents and cut it into work units.

    Args:
        source: "python-docs" (the documentation inside Python), a path or glob of .txt, .jsonl,
            .parquet, .arrow or .csv files (also .gz and .zst), a folder of such, several of these,
            or the id of a Hugging Face dataset, which is streamed. In txt files every line is a
            document; files are read in sorted order, each once.
        column: The column or key that holds the text (all but txt). A path such as ``meta.text``
            leads into objects; lists on it, as the messages of a chat in ``messages.content``, are
            gone through, and what they hold is one document, joined by line ends.
        name: Configuration of a Hugging Face dataset.
        split: Split of a Hugging Face dataset.
        min_chars: Documents of fewer characters are left out (and accounted for as "short").
        max_document_bytes: A longer document, or row of a text file, is one that cannot be read:
            it would have to be in memory as a whole.
        on_error: "fail" raises at a row that cannot be read (not UTF-8, not JSON, no such column,
            half a surrogate pair, too long, a damaged file), naming file and line; "skip" leaves it
            out and accounts for it.
        unit_bytes: The size to which units are cut; a unit holds at least one row group, and
            compressed text files, which can only be read from their start, are one unit each.

    Documents that are empty or hold only ASCII blanks are no documents, in any format.

    Raises:
        ArgumentError: An argument has a value that is not allowed.
        DataError: A file is missing or of an unknown kind, a column does not exist, or there is
            nothing to read.

    Example:
        >>> corpus = open_corpus("python-docs")
        >>> next(corpus.read(corpus.units[0], Accounting()))[:19]
        'The "assert" statem'
    """
    options = ReadOptions(column, name, split, min_chars, max_document_bytes, on_error, unit_bytes)
    sources = (
        [source] if isinstance(source, str | os.PathLike) else listed("source", source, _PATHS)
    )
    if other := [part for part in sources if not isinstance(part, str | os.PathLike)]:
        raise ArgumentError(f"source: expected {_PATHS}, got {type(other[0]).__name__} among them.")
    return Corpus([os.fspath(part) for part in sources], options)


def listed(name: str, given: Any, expected: str) -> list[Any]:
    """What is in a list, a tuple, a column or what else gives its items in order.

    Raises:
        ArgumentError: It is another thing, in words that name what was ``expected``: of a mapping
            only the keys would be read, of a string or of bytes each letter, and a set has no
            order.
    """
    odd = (str, bytes, bytearray, Mapping, Set)
    if isinstance(given, odd) or not isinstance(given, Iterable):
        inside = "; pass the values that hold the text" if isinstance(given, Mapping) else ""
        raise ArgumentError(f"{name}: expected {expected}, got {type(given).__name__}{inside}.")
    return list(given)


class Corpus:
    """Documents in work units; made by `open_corpus`.

    `read` gives the documents of a unit, the same whenever and wherever it is called on the same
    files.

    Attributes:
        source: What was given, as one string.
        options: How it is read.
        units: In a fixed order.
        unreadable: Accounts for the files that were left out when the corpus was opened
            (``on_error="skip"``): to be added once.
    """

    def __init__(self, sources: Sequence[str], options: ReadOptions):
        self.source = " ".join(sources)
        self.options = options
        self.unreadable = Accounting()
        self._stamps: dict[str, Stamp | None] = {}  # None: not of files
        self.units: tuple[Unit, ...] = tuple(
            Unit(index, *place) for index, place in enumerate(self._places(sources))
        )
        if not self.units:
            left_out = dict(self.unreadable.skipped) or "all files are empty"
            raise DataError(
                printable(f"source: {self.source}: there is nothing to read ({left_out})")
            )

    def files(self, known: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """path, size_bytes, mtime_ns, ctime_ns and sha256 of every file.

        Hashing reads a file (1 s a gigabyte, one file a core), unless one of the same path, size
        and times of modification and change is ``known`` from an earlier call.

        Raises:
            DataError: A file was changed after the corpus was opened.
        """
        hashes = {tuple(file[key] for key in STAMP_KEYS): file["sha256"] for file in known}
        kinds = {unit.path: unit.kind for unit in self.units}

        def about(path: str) -> dict[str, Any]:
            stamp = self._stamps[path]
            if stamp is None:
                return formats.load_source(kinds[path]).describe(path)
            return describe(path, stamp, hashes)

        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(about, kinds))

    def read(self, unit: Unit, account: Accounting) -> Iterator[str]:
        """The documents of a unit; what was read and what left out is entered in ``account``."""
        for block in self.blocks(unit, account):
            yield from block.strings()

    def blocks(self, unit: Unit, account: Accounting) -> Iterator[Texts]:
        """The documents of a unit as blocks of bytes, entered in ``account``: the fast way.

        Raises:
            DataError: The file was changed after the corpus was opened, at the latest after the
                last block: only a unit that was read to its end counts. Or a row cannot be read,
                and ``on_error`` is "fail".
        """
        problems = Problems(account, self.options)
        self._check_unchanged(unit)
        try:
            for block in formats.load(unit.kind).read(unit, self.options, problems):
                yield admit(block, self.options.min_chars, account)
        except Exception:  # whatever came of a change, the change is what there is to say
            self._check_unchanged(unit)
            raise
        self._check_unchanged(unit)

    def _check_unchanged(self, unit: Unit) -> None:
        if unit.path not in self._stamps:
            raise DataError(
                printable(f"source: {unit.path}: it is not, or no longer, a file of this corpus")
            )
        stamp = self._stamps[unit.path]
        if stamp is not None:
            check_unchanged(unit.path, stamp)

    def _places(self, sources: Sequence[str]) -> Iterator[tuple[str, str, int, int, int]]:
        """Format, path, start, stop and size of every unit in order."""
        problems = Problems(self.unreadable, self.options)
        if len(sources) == 1 and (source := formats.of_source(sources[0])):
            self._stamps[formats.load_source(source).resolve(sources[0])] = None
        else:
            self._stamps.update(find_files(sources, problems))
            source = ""
        for path in self._stamps:
            kind = source or formats.of_file(path)
            for span in formats.load(kind).units(path, self.options, problems):
                yield kind, path, *span
