"""Tables as text, .csv and .tsv with a row of names: the documents in one column.

A file is one unit: a record may hold line ends in quotes, so that where the next one begins is not
known without reading all before it.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from outdim.corpus.lines import line_units, read_lines
from outdim.corpus.packed import without_packing
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, TooLongRowError, documents_of, no_column
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Span, Unit

_BLOCK_CHARACTERS = 4 << 20
_LONGEST_FIELD = (1 << 31) - 1

Record = tuple[int, list[str] | RowError]
"""The number of the line where a record begins, and its fields or why there are none."""


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """The whole file, if it has such a column."""
    found = line_units(path)
    try:
        for span in found:
            _table(Unit(0, "csv", path, *span), options, Problems(Accounting(), options))
    except RowError as error:
        problems.file(error.reason, path, str(error))
        return []
    return found


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """One field of each record; those with more or fewer fields than names are broken."""
    records, document = _table(unit, options, problems)
    for block in _blocks(records):
        yield documents_of(block, document, partial(_place, unit.path, block), problems)


def _table(
    unit: Unit, options: ReadOptions, problems: Problems
) -> tuple[Iterator[Record], Callable[[Record], str]]:
    """The records that follow the names, and what takes the document out of one."""
    records = _records(unit, problems)
    _, names = next(records, (1, []))
    if isinstance(names, RowError):
        raise names
    column = options.column
    if (found := names.count(column)) != 1:
        why = f"{found} are named {column!r}" if found else no_column(column, names)
        raise RowError("no column", f"column: {why}")
    return records, partial(_document, at=names.index(column), expected=len(names))


def _document(record: Record, at: int, expected: int) -> str:
    _, fields = record
    if isinstance(fields, RowError):
        raise fields
    if not fields:
        return ""  # a blank line
    if len(fields) != expected:
        raise RowError("broken line", f"expected {expected} fields, got {len(fields)}")
    try:
        fields[at].encode()
    except UnicodeEncodeError as error:
        raise RowError("invalid UTF-8", "the field is not UTF-8 text") from error
    return fields[at]


def _records(unit: Unit, problems: Problems) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_FIELD)  # of the process, 128 KiB by default: too few for texts
    tabs = without_packing(unit.path).lower().endswith(".tsv")
    lines = _Lines(unit, problems)
    reader = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
    while True:
        lines.begin()
        try:
            fields: list[str] | RowError = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = RowError("broken line", f"not valid CSV ({error})")
        except RowError as error:
            fields = error
        first = lines.first
        if isinstance(fields, RowError):
            lines.give_back()
        yield first, fields


class _Lines(Iterator[str]):
    """The lines of a file, each with its end, that remembers those of the record at hand.

    A quote that is never closed would take the rest of the file with it. So where a record is
    broken only its first line is given up.
    """

    def __init__(self, unit: Unit, problems: Problems):
        self._lines = _numbered(unit, problems)
        self._longest = problems.longest
        self._waiting: deque[tuple[int, str]] = deque()
        self.begin()

    def begin(self) -> None:
        """A record begins."""
        self._taken: list[tuple[int, str]] = []
        self._size = 0

    @property
    def first(self) -> int:
        """The number of the record's first line."""
        return self._taken[0][0]

    def give_back(self) -> None:
        """All but the first line of the record come again."""
        self._waiting.extendleft(reversed(self._taken[1:]))

    def __next__(self) -> str:
        number, line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._taken.append((number, line))
        self._size += len(line)
        if self._size > self._longest:
            raise TooLongRowError
        if number != self.first + len(self._taken) - 1:
            raise RowError("broken line", "a line of the record was too long")
        return line


def _numbered(unit: Unit, problems: Problems) -> Iterator[tuple[int, str]]:
    for lines in read_lines(unit, problems):
        block = str(lines.texts.data.data, "utf-8", "surrogateescape")
        for i, line in enumerate(block.split("\n")[: len(lines.texts)]):
            yield lines.first + i + 1, line + "\n"


def _blocks(records: Iterator[Record]) -> Iterator[list[Record]]:
    block: list[Record] = []
    size = 0
    for record in records:
        block.append(record)
        size += 0 if isinstance(record[1], RowError) else sum(map(len, record[1]))
        if size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _place(path: str, block: list[Record], i: int) -> str:
    return f"{path}: line {block[i][0]}"
