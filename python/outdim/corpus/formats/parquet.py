"""Parquet: the text column, read without the others. Units are ranges of row groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from outdim.corpus.packed import DamagedError, packing, unpacked
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit, ranges
from outdim.errors import DataError

_BATCH_BYTES = 8 << 20


class UnreadableFileError(DataError):
    """A parquet file whose footer cannot be read."""


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of row groups; one that is packed from outside is unpacked for each unit: only one."""
    try:
        sizes = _row_group_sizes(path, options.column)
    except UnreadableFileError as error:
        if problems.fatal:
            raise
        problems.account.skip("unreadable file", str(error))
        return []
    return ranges(sizes, options.unit_bytes if not packing(path) else sum(sizes) + 1)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """The rows of row groups; nulls are left out and accounted for."""
    file = _open(unit.path)
    for group in range(unit.start, unit.stop):
        meta = file.metadata.row_group(group)
        first = sum(file.metadata.row_group(i).num_rows for i in range(group))
        done = 0
        share = meta.total_byte_size // max(meta.num_rows, 1) + 1
        batches = file.iter_batches(
            batch_size=max(_BATCH_BYTES // share, 1),
            row_groups=[group],
            columns=[options.column],
            use_threads=False,
        )
        while True:
            try:
                batch = next(batches, None)
            except (OSError, pa.ArrowException) as error:
                problems.row(
                    "unreadable row group",
                    partial(_place, unit, first + done),
                    f"row group {group} is damaged ({error})",
                    rows=meta.num_rows - done,
                )
                break
            if batch is None:
                break
            yield _texts(batch.column(0), unit, first + done, problems)
            done += batch.num_rows


def _place(unit: Unit, row: int) -> str:
    return f"{unit.path}: row {row + 1}"


def _open(path: str) -> Any:
    try:
        if packing(path):  # unusual, as parquet is compressed inside: unpacked in memory
            return pq.ParquetFile(pa.BufferReader(b"".join(unpacked(path))))
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, DamagedError, pa.ArrowException) as error:
        raise UnreadableFileError(
            f"{path}: not a readable parquet file ({error}). Is it cut off?"
        ) from error


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _row_group_sizes(path: str, column: str) -> list[int]:
    """Uncompressed bytes of the text column in each row group; checks that it holds text."""
    file = _open(path)
    schema = file.schema_arrow
    if column not in schema.names:
        raise DataError(
            f"{path}: column: no {column!r} here; there are: {', '.join(map(repr, schema.names))}"
        )
    kind = schema.field(column).type
    if not _is_text(kind):
        raise DataError(f"{path}: column {column!r}: expected strings, got {kind}")
    at = (
        [
            file.metadata.row_group(0).column(i).path_in_schema
            for i in range(file.metadata.num_columns)
        ]
        if (file.metadata.num_row_groups)
        else []
    )
    index = at.index(column) if column in at else 0
    return [
        int(file.metadata.row_group(i).column(index).total_uncompressed_size)
        for i in range(file.metadata.num_row_groups)
    ]


def _texts(array: Any, unit: Unit, first: int, problems: Problems) -> Texts:
    """A string column as a block, without nulls and without what is not UTF-8."""
    array = array.cast(pa.large_string())
    valid = np.asarray(array.is_valid())
    texts = Texts.of_arrow(array)
    if array.null_count:
        problems.account.skip("null", rows=int(array.null_count))
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        for i in np.flatnonzero(valid):
            try:
                bytes(texts.data[texts.starts[i] : texts.ends[i]]).decode()
            except UnicodeDecodeError:
                valid[i] = False
                place = partial(_place, unit, first + int(i))
                problems.row("invalid UTF-8", place, "the row is not UTF-8 text")
    return texts.take(valid)
