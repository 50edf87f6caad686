"""Tables as text, .csv and .tsv with a row of names: the documents in one column.

A file is one unit: a record may hold line ends in quotes, so that where the next one begins is not
known without reading all before it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial

from outdim.corpus.lines import Lines, line_units, read_lines
from outdim.corpus.packed import without_packing
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, TooLongRowError, documents_of, no_column
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Span, Unit

# Bytes as characters: what is special in a table is ASCII, and other strings may be four times as
# large as their bytes.
_BYTES = "latin-1"
_BLOCK_BYTES, _BLOCK_RECORDS = 4 << 20, 1 << 16
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
) -> tuple[Iterator[Record], Callable[[Record], bytes]]:
    """The records that follow the names, and what takes the document out of one."""
    records = _records(unit, problems)
    _, fields = next(records, (1, []))
    if isinstance(fields, RowError):
        raise fields
    names = [field.encode(_BYTES).decode(errors="replace") for field in fields]
    column = options.column
    if (found := names.count(column)) != 1:
        why = f"{found} are named {column!r}" if found else no_column(column, names)
        raise RowError("no column", f"column: {why}")
    return records, partial(_document, at=names.index(column), expected=len(names))


def _document(record: Record, at: int, expected: int) -> bytes:
    _, fields = record
    if isinstance(fields, RowError):
        raise fields
    if not fields:
        return b""  # a blank line
    if len(fields) != expected:
        raise RowError("broken line", f"expected {expected} fields, got {len(fields)}")
    text = fields[at].encode(_BYTES)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise RowError("invalid UTF-8", "the field is not UTF-8 text") from error
    return text


def _records(unit: Unit, problems: Problems) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_FIELD)  # of the process, 128 KiB by default: too few for texts
    tabs = without_packing(unit.path).lower().endswith(".tsv")
    lines = _RecordLines(read_lines(unit, problems), problems.longest)
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
        yield lines.number, fields
        if isinstance(fields, RowError):
            lines.go_back()


class _RecordLines(Iterator[str]):
    """The lines of a file, each with its end, of which those of the record at hand can come again.

    A quote that is never closed would take the rest of the file with it. So where a record is
    broken only its first line is given up.
    """

    def __init__(self, blocks: Iterator[Lines], longest: int):
        self._blocks = blocks
        self._longest = longest
        self._text = ""  # what is held: the record at hand and what was read behind it
        self._start = self._next = 0  # where in it the record and the next line begin
        self._line = 0  # the next line's index in the file
        self.begin()

    def begin(self) -> None:
        """A record begins."""
        self._start = self._next
        self.number = self._line + 1

    def go_back(self) -> None:
        """All lines of the record but the first come again."""
        if self._next > self._start:
            self._next = self._text.find("\n", self._start) + 1 or len(self._text)
            self._line = self.number

    def __next__(self) -> str:
        if self._next == len(self._text):
            self._read_on()
        start = self._next
        self._next = self._text.find("\n", start) + 1 or len(self._text)
        self._line += 1
        if self._next - self._start > self._longest:
            raise TooLongRowError
        return self._text[start : self._next]

    def _read_on(self) -> None:
        lines = next(self._blocks)
        block = str(lines.texts.data.data, _BYTES)
        if lines.first == self._line:
            self._text = self._text[self._start :] + block
            self._start, self._next = 0, self._next - self._start
            return
        # A line between was too long, and is entered as such.
        within_record = self._next > self._start
        self._text, self._start, self._next, self._line = block, 0, 0, lines.first
        if within_record:
            raise RowError("broken line", "a line of the record is too long")


def _blocks(records: Iterator[Record]) -> Iterator[list[Record]]:
    block: list[Record] = []
    size = 0
    for record in records:
        block.append(record)
        size += 0 if isinstance(record[1], RowError) else sum(map(len, record[1]))
        if size >= _BLOCK_BYTES or len(block) >= _BLOCK_RECORDS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _place(path: str, block: list[Record], i: int) -> str:
    return f"{path}: line {block[i][0]}"
