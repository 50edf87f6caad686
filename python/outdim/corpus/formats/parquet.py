"""Parquet: the text column, read without the others. Units are ranges of row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from outdim.corpus.arrow_column import TextColumn
from outdim.corpus.packed import DamagedError, open_whole, packing
from outdim.corpus.parquet_pages import Page, pages
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, row_place
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit, ranges

_BLOCK_BYTES = 8 << 20
# Pages are read by so much, not all of a row group at once: no slower, and it may be very much.
_BUFFER_BYTES = 1 << 20
# Rows decoded at a time, fewer where so many of the longest in the dictionary would be too much:
# the sizes in the metadata say little where few values make most of the text.
_STEP_ROWS, _STEP_BYTES = 256, 64 << 20
# A dictionary up to this stays one, which takes five times as much; then values decoded at a time.
_KEPT_BYTES, _STEP_NUMBERS = 64 << 20, 1 << 16
# The largest page that is unpacked, or as many of the longest document, where that is more.
_PAGE_BYTES, _PAGE_DOCUMENTS = 384 << 20, 6


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of row groups; a file that is packed from outside is unpacked for each unit: one."""
    rows = 0
    try:
        with open_whole(path) as file:
            parquet = _open(file)
            rows = parquet.metadata.num_rows
            leaf = TextColumn(parquet.schema_arrow, options.column).leaf
            groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
            sizes = [int(group.column(leaf).total_uncompressed_size) for group in groups]
    except RowError as error:
        problems.file(error.reason, path, str(error), rows=rows)
        return []
    except (OSError, DamagedError, pa.ArrowException) as error:
        problems.file("unreadable file", path, f"not a readable parquet file ({error})")
        return []
    return ranges(sizes, options.unit_bytes if not packing(path) else sum(sizes) + 1)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """The rows of some row groups."""
    with open_whole(unit.path) as file:
        parquet = _open(file)
        column = TextColumn(parquet.schema_arrow, options.column)
        first = sum(parquet.metadata.row_group(group).num_rows for group in range(unit.start))
        for number in range(unit.start, unit.stop):
            yield from _row_group(file, parquet, number, column, (unit.path, first), problems)
            first += parquet.metadata.row_group(number).num_rows


def _open(file: BinaryIO, **options: Any) -> Any:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES, **options)


def _row_group(
    file: BinaryIO,
    parquet: Any,
    number: int,
    column: TextColumn,
    begin: tuple[str, int],
    problems: Problems,
) -> Iterator[Texts]:
    """The rows of a row group, which begins at a row of a file; those before damage come first."""
    path, first = begin
    place = partial(row_place, path, first)
    group = parquet.metadata.row_group(number)
    chunk, rows, done = group.column(column.leaf), group.num_rows, 0
    if chunk.total_uncompressed_size > problems.longest * rows:
        problems.too_long(partial(place, 0), rows=rows)
        return
    try:
        found = list(pages(file, chunk))
        largest = max((page.arrow_bytes for page in found), default=0)
        if largest > max(_PAGE_BYTES, _PAGE_DOCUMENTS * problems.longest):
            problems.row(
                "large page",
                partial(place, 0),
                f"row group {number} has a page that is unpacked whole, to {largest} bytes",
                rows=rows,
                advice="Write the file with smaller pages, raise max_document_bytes to "
                f"{-(-largest // _PAGE_DOCUMENTS)} and see to the memory, or leave such rows out",
            )
            return
        for array in _arrays(file, parquet, number, column, found):
            yield from column.documents(array, partial(row_place, path, first + done), problems)
            done += len(array)
    except (OSError, pa.ArrowException) as error:
        details = f"row group {number} is damaged ({error})"
        problems.row("unreadable row group", partial(place, done), details, rows=rows - done)


def _arrays(
    file: BinaryIO, parquet: Any, number: int, column: TextColumn, found: Sequence[Page]
) -> Iterator[Any]:
    """The column of a row group in pieces of some megabytes; those before damage come first."""
    path = parquet.schema.column(column.leaf).path
    group = parquet.metadata.row_group(number)
    rows, values = max(group.num_rows, 1), group.column(column.leaf).num_values
    longest = max((page.unpacked_bytes for page in found if page.is_dictionary), default=1)
    # Unfolded, what little is in a dictionary may be very much.
    kept = longest <= _KEPT_BYTES and all(page.by_dictionary for page in found)
    if kept:
        parquet, step = _open(file, read_dictionary=[path]), _STEP_NUMBERS * rows // max(values, 1)
    elif any(page.by_prefix for page in found):
        step = 1
    else:
        mean = group.column(column.leaf).total_uncompressed_size // rows
        unfolded = longest * -(-values // rows)
        step = min(_STEP_ROWS, _BLOCK_BYTES // (mean + 1), _STEP_BYTES // max(unfolded, 1))
    batches = parquet.iter_batches(max(step, 1), [number], [path], use_threads=False)
    held: list[Any] = []
    size = 0
    try:
        for batch in batches:
            held.append(batch.column(column.outermost))
            size += held[-1].nbytes
            if kept or size >= _BLOCK_BYTES:
                yield pa.concat_arrays(held)
                held, size = [], 0
    except (OSError, pa.ArrowException):
        if held:
            yield pa.concat_arrays(held)
        raise
    if held:
        yield pa.concat_arrays(held)
