"""JSON lines: one object a line, the document under a key. Units are ranges of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from outdim.corpus.lines import Lines, is_utf8, line_units, read_lines
from outdim.corpus.reading import Problems, ReadOptions
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Span, Unit
from outdim.errors import DataError

_CHECKED_BYTES = 1 << 20


def units(path: str, options: ReadOptions, problems: Problems) -> list[Span]:
    """Ranges of bytes, or the whole of a packed file; the first row must have the key."""
    found = line_units(path, options)
    if found:
        _check_column(path, options.column)
    return found


def read(unit: Unit, options: ReadOptions, problems: Problems) -> Iterator[Texts]:
    """One JSON object a line, the document under the key ``column``.

    Arrow parses a block at once, up to three times as fast as line by line; where it objects to
    anything, or a row has no string, every line of the block is looked at for itself.
    """
    for lines in read_lines(unit, problems):
        whole = _parse_whole(lines.texts, options.column)
        if whole is None:
            yield _parse_lines(lines, options.column, problems)
        else:
            problems.account.skip("blank", rows=len(lines.texts) - len(whole))
            yield whole


def _parse_lines(lines: Lines, column: str, problems: Problems) -> Texts:
    found: list[bytes] = []
    for i, line in enumerate(lines.texts.bytes()):
        if not line or line.isspace():
            problems.account.skip("blank")
            continue
        try:
            value = _column_of(line, column)
            if value is None:
                problems.account.skip("null")
            else:
                found.append(value.encode())
        except UnicodeEncodeError:
            details = f"{column!r} holds half of a surrogate pair (an escape like \\ud800)"
            lines.problem(problems, i, "lone surrogate", details)
        except _BadRowError as error:
            lines.problem(problems, i, error.reason, str(error))
    return Texts.of_bytes(found)


def _parse_whole(lines: Texts, column: str) -> Texts | None:
    """The column of a block if each line that is not empty is one object with a string there."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    filled = lines.take(lines.lengths() > 0)
    first, last = filled.data[filled.starts], filled.data[filled.ends - 1]
    # An object never ends in "}" and goes on with "{": so each of these lines is whole objects.
    if not len(filled) or (first != ord("{")).any() or (last != ord("}")).any():
        return None
    if not is_utf8(lines.data):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(lines.data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(lines.data) + 1),
            arrow_json.ParseOptions(
                pa.schema([(column, pa.string())]), False, unexpected_field_behavior="ignore"
            ),
        )
        array = table[column].combine_chunks()
        array.validate(full=True)
    except pa.ArrowException:
        return None
    if array.null_count or len(array) != len(filled):
        return None
    return Texts.of_arrow(array)


class _BadRowError(Exception):
    def __init__(self, reason: str, details: str):
        super().__init__(details)
        self.reason = reason


def _column_of(line: bytes, column: str) -> str | None:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _BadRowError("invalid UTF-8", "the line is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise _BadRowError("broken line", f"not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise _BadRowError("broken line", f"expected a JSON object, got a {type(row).__name__}")
    if column not in row:
        raise _BadRowError(
            "no column", f"no {column!r} here; there are: {', '.join(map(repr, row)) or 'none'}"
        )
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise _BadRowError(
            "not a string", f"{column!r} is a {type(value).__name__}, expected a string"
        )
    return value


def _check_column(path: str, column: str) -> None:
    """Raise DataError when the first row that can be read has no such column."""
    beginning = Unit(0, "jsonl", path, 0, _CHECKED_BYTES, 0)
    for lines in read_lines(beginning, Problems(Accounting(), "skip")):
        for line in lines.texts.bytes():
            try:
                _column_of(line, column)
            except _BadRowError as error:
                if error.reason == "no column":
                    raise DataError(f"{path}: column: {error}") from error
                continue
            return
        return
