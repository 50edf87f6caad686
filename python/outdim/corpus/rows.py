"""Rows with named values: where in a row the document is, and what is wrong with those without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from outdim.corpus.reading import Problems
from outdim.corpus.texts import Texts

Row = TypeVar("Row")
_MISSING = object()


class RowError(Exception):
    """A row that holds no document, and the reason under which it is accounted for."""

    def __init__(self, reason: str, details: str):
        super().__init__(details)
        self.reason = reason


class TooLongRowError(RowError):
    """A row that is longer than is allowed."""

    def __init__(self) -> None:
        super().__init__("too long", "")


def document_of(row: Mapping[str, Any], column: str) -> str | None:
    r"""The document of a row, None where it is null.

    ``column`` is a key, or keys joined by dots that lead into objects. A list on the way (the
    messages of a chat) is gone through, and the strings found are joined by line ends.

    Raises:
        RowError: There is no such key, or something else than strings.

    Example:
        >>> document_of({"meta": {"text": "one"}}, "meta.text")
        'one'
        >>> document_of({"chat": [{"says": "Hello."}, {"says": "You!"}]}, "chat.says")
        'Hello.\nYou!'
    """
    value = row.get(column)
    if value is None:
        if "." not in column:
            if column in row:
                return None
            raise RowError("no column", no_column(column, row))
        return _joined(list(_inside(row, column.split("."))), row, column)
    if not isinstance(value, str):
        raise _not_a_string(value, column)
    return value


def no_column(column: str, names: Iterable[str]) -> str:
    """Says that there is no such column, and which there are."""
    return f"no {column!r} here; there are: {', '.join(map(repr, names)) or 'none'}"


def documents_of(
    rows: Iterable[Row],
    document: Callable[[Row], str | bytes | None],
    place: Callable[[int], str],
    problems: Problems,
) -> Texts:
    """The documents of rows by ``document``, which raises `RowError`; ``place`` names row i."""
    found: list[bytes] = []
    for i, row in enumerate(rows):
        try:
            text = document(row)
            if text is None:
                problems.account.skip("null")
                continue
            encoded = text if isinstance(text, bytes) else text.encode()
            if len(encoded) > problems.longest:
                raise TooLongRowError
            found.append(encoded)
        except UnicodeEncodeError:
            details = "half of a surrogate pair (an escape like \\ud800) is no character"
            problems.row("lone surrogate", partial(place, i), details)
        except TooLongRowError:
            problems.too_long(partial(place, i))
        except RowError as error:
            problems.row(error.reason, partial(place, i), str(error))
    return Texts.of_bytes(found)


def row_place(path: str, first: int, row: int) -> str:
    """Names a row, counted from ``first`` on."""
    return f"{path}: row {first + row + 1}"


def _inside(value: Any, keys: list[str]) -> Iterator[Any]:
    """What lies at the end of a path of keys: several values where a list is on the way."""
    if value is None or not keys:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _inside(item, keys)
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from _inside(value[keys[0]], keys[1:])
    else:
        yield _MISSING


def _joined(values: list[Any], row: Mapping[str, Any], column: str) -> str | None:
    strings = [value for value in values if isinstance(value, str)]
    for value in values:
        if value is not None and value is not _MISSING and not isinstance(value, str):
            raise _not_a_string(value, column)
    if strings:
        return "\n".join(strings)
    if any(value is _MISSING for value in values):
        raise RowError("no column", no_column(column, row))
    return None


def _not_a_string(value: Any, column: str) -> RowError:
    details = f"{column!r} is a {type(value).__name__}, expected a string"
    inner = value[0] if isinstance(value, list) and value else value
    if isinstance(inner, Mapping) and inner:
        names = ", ".join(repr(f"{column}.{key}") for key in inner)
        details += f"; in it there are: {names}"
    return RowError("not a string", details)
