"""Arrow tables as files for people."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from outdim.errors import DataError
from outdim.files import write_bytes
from outdim.text import visible

PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one


def csv_bytes(table: pa.Table) -> bytes:
    """The table as CSV with a header line.

    Text that a spreadsheet would run as a formula gets an apostrophe before it, and characters that
    cannot be drawn are written as escapes.
    """
    columns = [_safe(column) if _is_text(column.type) else column for column in table.columns]
    buffer = BytesIO()
    pyarrow.csv.write_csv(pa.table(columns, [*map(_escaped, table.column_names)]), buffer)
    return buffer.getvalue()


def write_csv(path: Path, table: pa.Table) -> None:
    """Write `csv_bytes`, whole or not at all."""
    write_bytes(path, csv_bytes(table))


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as parquet, with checksums of its pages."""
    buffer = BytesIO()
    pq.write_table(table, buffer, **PARQUET)
    return buffer.getvalue()


def read_parquet(path: Path) -> pa.Table:
    """Read a table of parquet.

    Raises:
        DataError: It cannot be read.
    """
    try:
        # Arrow takes no name that is not text, so it gets a file of Python's, and only this thread
        # may read that: one of Arrow's own that lets go of it while Python ends aborts the process
        # ("terminate called without an active exception").
        with path.open("rb") as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            return parquet.read(use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).") from error


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _safe(column: pa.ChunkedArray) -> pa.Array:
    values = column.unique().to_pylist()
    safe = {text: None if text is None else _escaped(text) for text in values}
    return pa.array([safe[text] for text in column.to_pylist()], pa.string())


def _escaped(text: str) -> str:
    shown = visible(text)
    return "'" + shown if text.startswith(_FORMULA) else shown
