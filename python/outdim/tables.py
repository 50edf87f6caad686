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
        with path.open("rb") as file:  # Arrow takes no name that is not text
            return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: it is no readable parquet file ({error}).") from error


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
