"""JSON lines: one object a line, the document under a key. Units as of txt."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from outdim.corpus.lines import is_utf8, line_units, read_lines
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, TooLongRowError, document_of, documents_of
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Span, Unit

_CHECKED_BYTES = 1 << 20
# What Arrow reads and Python does not: Inf, -Inf and -NaN, besides very deep nesting and very long
# integers, where Python raises another error than of syntax.
_ARROWS_NUMBERS = (b"Inf", b"NaN")


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of bytes; where rows are not skipped, the first must have the key."""
    found = line_units(path, options.unit_bytes)
    if found and problems.fatal:
        _check_first_row(path, options, problems)
    return found


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """The documents of lines that Arrow or Python reads as an object with a string at the key.

    Arrow parses a block at once, up to three times as fast as line by line. Where it objects to
    anything, every line of the block is looked at for itself, by Python and, in what only Arrow
    reads, by Arrow: so no line depends on its neighbours.
    """
    for lines in read_lines(unit, problems):
        whole = _parse_block(lines.texts, options.column, problems.longest)
        if whole is None:
            document = partial(_parse_line, column=options.column, longest=problems.longest)
            place = partial(lines.place, problems=problems)
            yield documents_of(lines.texts.bytes(), document, place, problems)
        else:
            problems.account.skip("blank", rows=len(lines.texts) - len(whole))
            yield whole


def _parse_line(line: bytes, column: str, longest: int) -> str | None:
    if not line or line.isspace():
        return ""  # a blank document
    if len(line) > longest:
        raise TooLongRowError
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RowError("invalid UTF-8", "the line is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        is_syntax = isinstance(error, json.JSONDecodeError)
        if not is_syntax or any(name in line for name in _ARROWS_NUMBERS):
            found = _parse_block(Texts.of_bytes([line]), column, longest)
            if found is not None:
                return next(found.strings())
        raise RowError("broken line", f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError("broken line", f"expected a JSON object, got a {type(row).__name__}")
    return document_of(row, column)


def _parse_block(lines: Texts, column: str, longest: int) -> Texts | None:
    """The documents of a block if each line that is not empty is one object with a string there."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    filled = lines.take(lines.lengths() > 0)
    first, last = filled.data[filled.starts], filled.data[filled.ends - 1]
    # An object never ends in "}" and goes on with "{": so each of these lines is whole objects.
    if not len(filled) or (first != ord("{")).any() or (last != ord("}")).any():
        return None
    if (filled.lengths() > longest).any() or not is_utf8(lines.data):
        return None
    kind = pa.string()
    for key in reversed(column.split(".")[1:]):
        kind = pa.struct([(key, kind)])
    schema = pa.schema({column: pa.string(), column.split(".")[0]: kind})
    try:
        table = arrow_json.read_json(
            pa.BufferReader(lines.data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
            arrow_json.ParseOptions(schema, False, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except pa.ArrowException:
        return None
    # As in `document_of`: the key itself before the path, wherever one of them has a string.
    for array in (_at_path(table, [column]), _at_path(table, column.split("."))):
        if not array.null_count and len(array) == len(filled):
            return Texts.of_arrow(array)
    return None


def _at_path(table: Any, keys: list[str]) -> Any:
    import pyarrow.compute as pc

    array = table[keys[0]].combine_chunks()
    return pc.struct_field(array, keys[1:]) if len(keys) > 1 else array


def _check_first_row(path: str, options: ReadOptions, problems: Problems) -> None:
    """Object at once to a file whose first row that can be read has no such key."""
    beginning = Unit(0, "jsonl", path, 0, min(os.path.getsize(path), _CHECKED_BYTES), 0)
    skipping = Problems(Accounting(), dataclasses.replace(options, on_error="skip"))
    for lines in read_lines(beginning, skipping):
        for line in lines.texts.bytes():
            try:
                _parse_line(line, options.column, problems.longest)
            except RowError as error:
                if error.reason == "no column":
                    problems.file("no column", path, f"column: {error}")
                continue
            return
        return
