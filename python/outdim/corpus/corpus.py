"""Corpora: where documents come from, cut into work units that are read in any order."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from outdim.corpus.formats.jsonl import check_jsonl_column, jsonl_documents
from outdim.corpus.lines import compression, line_number, read_lines, txt_documents
from outdim.corpus.texts import Accounting, Texts, admit
from outdim.corpus.unit import Unit, ranges
from outdim.errors import ArgumentError, DataError
from outdim.machine import usable_cores

PYTHON_DOCS = "python-docs"
_KINDS = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_STAMP = ("path", "size_bytes", "mtime_ns", "ctime_ns")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
    >>> next(corpus.read(corpus.units[0]))[:19]
    'The "assert" statem'
    """
    if on_error not in ("fail", "skip"):
        raise ArgumentError(f"on_error: expected 'fail' or 'skip', got {on_error!r}")
    if unit_bytes < 1:
        raise ArgumentError(f"unit_bytes: expected at least 1, got {unit_bytes}")
    return Corpus(source, column, name, split, min_chars, on_error, unit_bytes)


class Corpus:
    """Documents in work units; made by :func:`open_corpus`.

    ``units`` are in a fixed order; :meth:`read` gives the documents of one of them, the same
    whenever and wherever it is called on the same files.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        column: str,
        name: str | None,
        split: str,
        min_chars: int,
        on_error: str,
        unit_bytes: int,
    ):
        sources = [source] if isinstance(source, str | os.PathLike) else list(source)
        self.source = " ".join(os.fspath(part) for part in sources)
        self.column = column
        self.min_chars = min_chars
        self.on_error = on_error
        self._stream: Any = None
        self._opening = Accounting()
        if self.source == PYTHON_DOCS:
            units = self._units_of_python_docs(unit_bytes)
        elif paths := _find_files(sources):
            units = [unit for path in paths for unit in self._units_of_file(path, unit_bytes)]
        else:
            units = self._units_of_stream(name, split)
        if not units:
            raise DataError(
                f"source: {self.source}: there is nothing to read (all files are empty)"
            )
        self.units: tuple[Unit, ...] = tuple(
            Unit(i, kind, path, start, stop, size)
            for i, (kind, path, start, stop, size) in enumerate(units)
        )

    def files(self, known: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
        """path, size_bytes, mtime_ns, ctime_ns and sha256 of every file.

        Hashing reads a file (1 s a gigabyte, one file a core), unless one of the same path, size
        and times of modification and change is ``known`` from an earlier call.
        """
        hashes = {tuple(file[key] for key in _STAMP): file["sha256"] for file in known}
        paths = dict.fromkeys(unit.path for unit in self.units)
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(lambda path: _describe(path, hashes), paths))

    @property
    def unreadable(self) -> Accounting:
        """Files left out when the corpus was opened (``on_error="skip"``): to be accounted once."""
        return self._opening

    def read(self, unit: Unit, account: Accounting) -> Iterator[str]:
        """The documents of a unit; what was read and what left out is entered in ``account``."""
        for block in self.blocks(unit, account):
            yield from block.strings()

    def blocks(self, unit: Unit, account: Accounting) -> Iterator[Texts]:
        """The documents of a unit as blocks of bytes, entered in ``account``: the fast way."""
        for block in self._raw_blocks(unit, account):
            yield admit(block, self.min_chars, account)

    def _raw_blocks(self, unit: Unit, account: Accounting) -> Iterator[Texts]:
        def problem(reason: str, index: int, details: str) -> None:
            where = f"row {index + 1}"
            if unit.kind in ("lines", "file"):
                where = f"line {line_number(unit.path, unit.start, index)}"
            place = f"{unit.path}: {where}: {reason}: {details}"
            if self.on_error == "fail":
                raise DataError(
                    f"{place}. Mend the file, or leave such rows out with on_error='skip'"
                )
            account.skip(reason, place)

        if unit.kind == "documents":
            from outdim.corpus.formats.python_docs import python_documents

            yield Texts.of(python_documents()[unit.start : unit.stop])
        elif unit.kind == "shard":
            from outdim.corpus.formats.hub_dataset import read_shards

            yield from read_shards(
                self._stream, unit.start, unit.stop, self.column, account, problem
            )
        elif unit.kind == "row_groups":
            from outdim.corpus.formats.parquet import read_parquet

            yield from read_parquet(unit.path, unit.start, unit.stop, self.column, account, problem)
        else:
            try:
                os.stat(unit.path)
            except OSError as error:
                _missing(unit.path, error)
            blocks = read_lines(unit.path, unit.start, unit.stop, account, self.on_error == "skip")
            for lines, first in blocks:
                if _kind(unit.path) == "txt":
                    yield txt_documents(lines, first, problem)
                else:
                    yield jsonl_documents(lines, first, self.column, account, problem)

    def _units_of_python_docs(self, unit_bytes: int) -> list[tuple[str, str, int, int, int]]:
        from outdim.corpus.formats.python_docs import python_documents

        sizes = [len(text.encode()) for text in python_documents()]
        return [("documents", PYTHON_DOCS, *bounds) for bounds in ranges(sizes, unit_bytes)]

    def _units_of_file(self, path: str, unit_bytes: int) -> list[tuple[str, str, int, int, int]]:
        size = os.path.getsize(path)
        if _kind(path) == "parquet":
            from outdim.corpus.formats.parquet import UnreadableFileError, row_group_sizes

            try:
                sizes = row_group_sizes(path, self.column)
            except UnreadableFileError as error:
                if self.on_error == "fail":
                    raise
                self._opening.skip("unreadable file", str(error))
                return []
            whole = unit_bytes if not compression(path) else sum(sizes) + 1
            return [("row_groups", path, *bounds) for bounds in ranges(sizes, whole)]
        if not size:
            return []
        if _kind(path) == "jsonl":
            check_jsonl_column(path, self.column)
        if compression(path):
            return [("file", path, 0, -1, size)]
        starts = range(0, size, unit_bytes)
        return [
            ("lines", path, start, min(start + unit_bytes, size), min(unit_bytes, size - start))
            for start in starts
        ]

    def _units_of_stream(
        self, name: str | None, split: str
    ) -> list[tuple[str, str, int, int, int]]:
        from outdim.corpus.formats.hub_dataset import (
            check_stream_column,
            open_stream,
            resolve_revision,
        )

        revision = resolve_revision(self.source)
        self._stream = open_stream(self.source, name, split, revision)
        check_stream_column(self._stream, self.source, self.column)
        path = f"hf://datasets/{self.source}@{revision}"
        return [("shard", path, i, i + 1, 0) for i in range(self._stream.num_shards)]


def _kind(path: str) -> str | None:
    if compression(path):
        path = path.rsplit(".", 1)[0]
    return _KINDS.get(os.path.splitext(path)[1].lower())


def _missing(path: str, error: OSError | None = None) -> NoReturn:
    raise DataError(f"source: {path}: no such file") from error


def _find_files(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """All files meant by paths, globs and directories, each once; none for a dataset id."""
    found: dict[str, None] = {}
    for source in sources:
        text = os.path.expanduser(os.fspath(source))
        if os.path.isdir(text):
            inside = (
                os.path.join(folder, file) for folder, _, files in os.walk(text) for file in files
            )
            matches = sorted(path for path in inside if _kind(path))
        elif os.path.exists(text):
            matches = [text]
        else:
            matches = sorted(
                path for path in glob.glob(text, recursive=True) if os.path.isfile(path)
            )
        if not matches:
            looks_local = _kind(text) or glob.has_magic(text) or os.path.isdir(text)
            if len(sources) == 1 and not looks_local and _HUB_ID.fullmatch(text):
                return []
            _missing(text)
        for path in matches:
            if _kind(path) is None:
                raise DataError(
                    f"source: {path}: expected .txt, .jsonl or .parquet, each also with .gz or .zst"
                )
        found.update(dict.fromkeys(matches))
    return list(found)


def _describe(path: str, hashes: Mapping[Any, str]) -> dict[str, Any]:
    stamp: tuple[str | int | None, ...]
    digest: str | None
    if path.startswith("hf://"):  # the path holds the revision
        stamp, digest = (path, None, None, None), None
    elif path == PYTHON_DOCS:
        from outdim.corpus.formats.python_docs import python_documents

        data = "\n".join(python_documents()).encode()
        stamp, digest = (path, len(data), None, None), hashlib.sha256(data).hexdigest()
    else:
        about = os.stat(path)
        stamp = (path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        digest = hashes.get(stamp)
        if digest is None:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**dict(zip(_STAMP, stamp, strict=True)), "sha256": digest}
