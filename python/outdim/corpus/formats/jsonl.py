"""JSON lines: one object a line, the document under a key."""

from __future__ import annotations

import json
import os

from outdim.corpus.lines import Problem, compression, is_utf8, read_lines
from outdim.corpus.texts import Accounting, Texts
from outdim.errors import DataError

_CHECKED_BYTES = 1 << 20


def jsonl_documents(
    lines: Texts, first: int, column: str, account: Accounting, problem: Problem
) -> Texts:
    """One JSON object a line, the document under the key ``column``.

    Arrow parses a block at once, three times as fast as line by line; where it objects to anything,
    or a row has no string, every line of the block is looked at for itself.
    """
    whole = _parse_whole(lines, column)
    if whole is not None:
        account.skip("blank", rows=len(lines) - len(whole))
        return whole
    texts: list[bytes] = []
    view = lines.data.data
    for i, (start, end) in enumerate(zip(lines.starts.tolist(), lines.ends.tolist(), strict=True)):
        line = bytes(view[start:end])
        if not line or line.isspace():
            account.skip("blank")
            continue
        try:
            value = _column_of(line, column)
            if value is None:
                account.skip("null")
            else:
                texts.append(value.encode())
        except UnicodeEncodeError:
            problem(
                "lone surrogate",
                first + i,
                f"{column!r} holds half of a surrogate pair (an escape like \\ud800)",
            )
        except _BadRowError as error:
            problem(error.reason, first + i, str(error))
    return Texts.of_bytes(texts)


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


def check_jsonl_column(path: str, column: str) -> None:
    """Raise DataError when the first row that can be read has no such column."""
    stop = -1 if compression(path) else min(os.path.getsize(path), _CHECKED_BYTES)
    for lines, _ in read_lines(path, 0, stop, Accounting(), skip=True):
        view = lines.data.data
        for start, end in zip(lines.starts.tolist(), lines.ends.tolist(), strict=True):
            try:
                _column_of(bytes(view[start:end]), column)
            except _BadRowError as error:
                if error.reason == "no column":
                    raise DataError(f"{path}: column: {error}") from error
                continue
            return
        return
