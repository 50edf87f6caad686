"""Parquet: the text column, read without the others. Units are ranges of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from outdim.corpus.arrow_column import TextColumn
from outdim.corpus.packed import DamagedError, open_whole, packing
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


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of row groups; a file that is packed from outside is unpacked for each unit: one."""
    rows = 0
    try:
        with open_whole(path) as file:
            parquet = _open(file)
            rows = parquet.metadata.num_rows
            column = TextColumn(parquet.schema_arrow, options.column)
            sizes = [_size(parquet, group, column) for group in range(parquet.num_row_groups)]
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
        done = sum(parquet.metadata.row_group(group).num_rows for group in range(unit.start))
        for group in range(unit.start, unit.stop):
            stop = done + parquet.metadata.row_group(group).num_rows
            if _size(parquet, group, column) > problems.longest * (stop - done):
                place = partial(row_place, unit.path, done, 0)
                problems.too_long(place, rows=stop - done)
                done = stop
                continue
            try:
                step = _step_rows(file, parquet, group, column)
                for array in _arrays(parquet, group, column, step):
                    place = partial(row_place, unit.path, done)
                    yield from column.documents(array, place, problems)
                    done += len(array)
            except (OSError, pa.ArrowException) as error:
                problems.row(
                    "unreadable row group",
                    partial(row_place, unit.path, done, 0),
                    f"row group {group} is damaged ({error})",
                    rows=stop - done,
                )
            done = stop


def _open(file: BinaryIO, **options: Any) -> Any:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES, **options)


def _chunks(parquet: Any, group: int, column: TextColumn) -> list[Any]:
    """What the metadata say of the column in a row group; several where it is a list of objects."""
    about = parquet.metadata.row_group(group)
    chunks = [about.column(i) for i in range(about.num_columns)]
    return [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column.path}.")]


def _size(parquet: Any, group: int, column: TextColumn) -> int:
    chunks = _chunks(parquet, group, column)
    return sum(int(chunk.total_uncompressed_size) for chunk in chunks)


def _step_rows(file: BinaryIO, parquet: Any, group: int, column: TextColumn) -> int:
    """How many rows are decoded at a time."""
    rows = parquet.metadata.row_group(group).num_rows
    mean = _size(parquet, group, column) // max(rows, 1) + 1
    step = min(_STEP_ROWS, _BLOCK_BYTES // mean)
    chunks = _chunks(parquet, group, column)
    if chunks[0].path_in_schema == column.path and chunks[0].has_dictionary_page:
        # Where it is kept as a dictionary, the first row brings all values of it.
        kept = _open(file, read_dictionary=[column.path])
        batch = next(kept.iter_batches(1, [group], [column.path], use_threads=False))
        step = min(step, _STEP_BYTES // max(column.longest(batch.column(column.outermost)), 1))
    return max(int(step), 1)


def _arrays(parquet: Any, group: int, column: TextColumn, step: int) -> Iterator[Any]:
    """The column of a row group in pieces of some megabytes; those before damage come first."""
    batches = parquet.iter_batches(step, [group], [column.path], use_threads=False)
    held: list[Any] = []
    size = 0
    try:
        for batch in batches:
            held.append(batch.column(column.outermost))
            size += held[-1].nbytes
            if size >= _BLOCK_BYTES:
                yield pa.concat_arrays(held)
                held, size = [], 0
    except (OSError, pa.ArrowException):
        if held:
            yield pa.concat_arrays(held)
        raise
    if held:
        yield pa.concat_arrays(held)
