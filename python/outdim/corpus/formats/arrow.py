"""Arrow files, as `datasets` saves them. Units are ranges of record batches.

There are two kinds of them: a file has a table of its batches at the end; a stream can only be read
from its start, and is one unit, whose stop is -1.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from outdim.corpus.arrow_column import TextColumn
from outdim.corpus.packed import DamagedError, open_whole, packing
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, row_place
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit, ranges

_FILE_BEGINS = b"ARROW1"
_STREAM_ENDS = bytes(4)
_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of batches, taken to be of one size, or the whole of a stream."""
    try:
        with open_whole(path) as file:
            size = file.seek(0, 2)
            reader, _ = _open(file, options.column)
    except RowError as error:
        problems.file(error.reason, path, str(error))
        return []
    except (OSError, DamagedError, pa.ArrowException) as error:
        problems.file("unreadable file", path, f"not a readable Arrow file ({error})")
        return []
    if isinstance(reader, pa.RecordBatchStreamReader):
        return [(0, -1, size)]
    batches = reader.num_record_batches
    sizes = [size // batches] * batches
    return ranges(sizes, options.unit_bytes if not packing(path) else size)


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """The rows of some batches; of a damaged stream those before the damage."""
    index = unit.start
    with open_whole(unit.path) as file:
        reader, column = _open(file, options.column)
        try:
            for array in _arrays(reader, unit):
                place = partial(row_place, f"{unit.path}: batch {index + 1}", 0)
                yield from column.documents(array, place, problems)
                index += 1
            if unit.stop < 0 and not _is_ended(file):
                raise EOFError("it ends before its end mark")
        except (OSError, EOFError, pa.ArrowException) as error:
            problems.row(
                "truncated file",
                lambda: unit.path,
                f"damaged or cut off after batch {index} ({error})",
                advice="Fetch it again, or go on without its rest",
            )


def _open(file: BinaryIO, name: str) -> tuple[Any, TextColumn]:
    """A reader of nothing but the outermost column that the documents are in."""
    file.seek(0)
    make = pa.ipc.open_file if file.read(6) == _FILE_BEGINS else pa.ipc.open_stream
    file.seek(0)
    schema = make(file).schema
    column = TextColumn(schema, name)
    file.seek(0)
    included = [schema.get_field_index(column.outermost)]
    return make(file, options=pa.ipc.IpcReadOptions(included_fields=included)), column


def _arrays(reader: Any, unit: Unit) -> Iterator[Any]:
    batches = reader if unit.stop < 0 else map(reader.get_batch, range(unit.start, unit.stop))
    for batch in batches:
        array = batch.column(0)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            # Strings that are not UTF-8 are looked at one by one; offsets must never lie outside.
            if array.type not in _BINARY:
                raise
            array.view(_BINARY[array.type]).validate(full=True)
        yield array


def _is_ended(stream: BinaryIO) -> bool:
    stream.seek(-len(_STREAM_ENDS), 2)
    return stream.read() == _STREAM_ENDS
