"""JSON lines: one object a line, the document under a key. Units as of txt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from outdim.corpus.lines import is_utf8, line_units, read_lines
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.rows import RowError, TooLongRowError, document_of, documents_of
from outdim.corpus.texts import Texts
from outdim.corpus.unit import Span, Unit

_CHECKED_BYTES = 1 << 20
# What Arrow reads and Python does not: Inf, -Inf and -NaN, besides very deep nesting and very long
# integers, where Python raises another error than of syntax.
_ARROWS_NUMBERS = (b"Inf", b"NaN")
# Longer lines are Arrow's alone: what Python makes of one takes up to twenty times its bytes.
_FOR_ARROW_ONLY = 8 << 20


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
        block = _strings(lines.texts, options.column, problems.longest)
        if block is None or block.null_count:
            document = partial(_document, column=options.column, longest=problems.longest)
            place = partial(lines.place, problems=problems)
            yield documents_of(lines.texts.bytes(), document, place, problems)
        else:
            problems.account.skip("blank", rows=len(lines.texts) - len(block))
            yield Texts.of_arrow(block)


def _document(line: bytes, column: str, longest: int) -> str | None:
    if not line or line.isspace():
        return ""  # a blank document
    if len(line) > longest:
        raise TooLongRowError
    if len(line) > _FOR_ARROW_ONLY:
        return _by_arrow(line, column)
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise RowError("invalid UTF-8", "the line is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        is_syntax = isinstance(error, json.JSONDecodeError)
        if not is_syntax or any(name in line for name in _ARROWS_NUMBERS):
            return _by_arrow(line, column)
        raise RowError("broken line", f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError("broken line", f"expected a JSON object, got a {type(row).__name__}")
    return document_of(row, column)


def _by_arrow(line: bytes, column: str) -> str | None:
    """The document of one line; None where it is null or there is no such key."""
    found = _strings(Texts.of_bytes([line]), column, len(line))
    if found is None:
        raise RowError("broken line", f"not valid JSON, or no string at {column!r}")
    text: str | None = found[0].as_py()
    return text


def _strings(lines: Texts, column: str, longest: int) -> Any:
    """The column by Arrow, if each line that is not empty is one object with a string or null."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    filled = lines.take(lines.lengths() > 0)
    first, last = filled.data[filled.starts], filled.data[filled.ends - 1]
    # An object never ends in "}" and goes on with "{": so each of these lines is whole objects.
    if not len(filled) or (first != ord("{")).any() or (last != ord("}")).any():
        return None
    if (filled.lengths() > longest).any() or not is_utf8(lines.data):
        return None
    outermost, *inside = column.split(".")
    kind = pa.string()
    for key in reversed(inside):
        kind = pa.struct([(key, kind)])
    schema = pa.schema({column: pa.string(), outermost: kind})
    try:
        table = arrow_json.read_json(
            pa.BufferReader(lines.data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
            arrow_json.ParseOptions(schema, False, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)
    except pa.ArrowException:
        return None
    if table.num_rows != len(filled):
        return None
    array = table[column].combine_chunks()
    if inside:  # as `document_of`: the key itself before the path
        import pyarrow.compute as pc

        array = pc.coalesce(array, pc.struct_field(table[outermost].combine_chunks(), inside))
    return array


def _check_first_row(path: str, options: ReadOptions, problems: Problems) -> None:
    """Object at once to a file whose first row that can be read has no such key."""
    beginning = Unit(0, "jsonl", path, 0, min(os.path.getsize(path), _CHECKED_BYTES), 0)
    for lines in read_lines(beginning, problems):
        for line in lines.texts.bytes():
            try:
                _document(line, options.column, problems.longest)
            except RowError as error:
                if error.reason == "no column":
                    problems.file("no column", path, f"column: {error}")
                continue
            return
        return
