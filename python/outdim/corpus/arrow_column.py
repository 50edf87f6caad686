"""The documents in a column of Arrow: what parquet and Arrow files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from outdim.corpus.reading import Problems
from outdim.corpus.rows import RowError, document_of, documents_of, no_column
from outdim.corpus.texts import Texts

_BLOCK_BYTES = 8 << 20


class TextColumn:
    """The column of a schema that holds the documents, perhaps inside (see `document_of`).

    Args:
        schema: Of Arrow.
        name: A column, or a path such as ``meta.text``.

    Attributes:
        outermost: The column of the schema that it is, or is inside of.
        path: What is to be read for it: all of the outermost one where lists are on the way.

    Raises:
        RowError: There is no such column, or two, or it does not hold strings.
    """

    def __init__(self, schema: Any, name: str):
        self.name = name
        self._keys = [name] if name in schema.names else name.split(".")
        self.outermost = self._keys[0]
        self._has_lists = False
        kind = pa.struct(list(schema))
        for key in self._keys:
            while _is_list(kind):
                kind, self._has_lists = kind.value_type, True
            found = kind.get_all_field_indices(key) if pa.types.is_struct(kind) else []
            if len(found) > 1:
                raise RowError("no column", f"column: {len(found)} are named {key!r}")
            if not found:
                raise RowError("no column", f"column: {no_column(name, schema.names)}")
            kind = kind.field(found[0]).type
        if not _is_text(kind) and not pa.types.is_null(kind):
            raise RowError("not a string", f"column {name!r}: expected strings, got {kind}")
        self.path = self.outermost if self._has_lists else name

    def documents(
        self, array: Any, place: Callable[[int], str], problems: Problems
    ) -> Iterator[Texts]:
        """The documents in ``array``, a piece of the outermost column; ``place`` names its rows.

        Blocks are bounded: a value of a dictionary may stand in very many rows.
        """
        if self._has_lists:
            rows = ({self.outermost: value} for value in array.to_pylist())
            yield documents_of(rows, partial(document_of, column=self.name), place, problems)
            return
        array = self._strings(array)
        sizes = _sizes(array)
        if (sizes < 0).any():
            problems.account.skip("null", rows=int((sizes < 0).sum()))
        for i in np.flatnonzero(sizes > problems.longest):
            problems.too_long(partial(place, int(i)))
        kept = np.flatnonzero((sizes >= 0) & (sizes <= problems.longest))
        ends = np.cumsum(sizes[kept])
        start = 0
        while start < len(kept):
            limit = _BLOCK_BYTES + (ends[start - 1] if start else 0)
            stop = max(int(np.searchsorted(ends, limit, side="right")), start + 1)
            yield _block(array, kept[start:stop], place, problems)
            start = stop

    def longest(self, array: Any) -> int:
        """The most bytes of a value of the dictionary, 0 where there is none."""
        strings = array if self._has_lists else self._strings(array)
        if not pa.types.is_dictionary(strings.type):
            return 0
        return int(pc.max(pc.binary_length(strings.dictionary)).as_py() or 0)

    def _strings(self, array: Any) -> Any:
        if len(self._keys) > 1:
            array = pc.struct_field(array, self._keys[1:])
        if pa.types.is_string_view(array.type):  # which kernels know little of
            array = array.cast(pa.large_string())
        return array


def _sizes(array: Any) -> NDArray[np.int64]:
    """Bytes of each value, -1 for null; dictionaries are not unfolded for it."""
    if pa.types.is_null(array.type):
        return np.full(len(array), -1)
    if pa.types.is_dictionary(array.type):
        sizes = pc.take(pc.binary_length(array.dictionary), array.indices)
    else:
        sizes = pc.binary_length(array)
    return np.asarray(pc.fill_null(sizes, -1)).astype(np.int64)


def _block(
    array: Any, rows: NDArray[np.int64], place: Callable[[int], str], problems: Problems
) -> Texts:
    """Some rows of a string column, without what is not UTF-8."""
    first, stop = int(rows[0]), int(rows[-1]) + 1
    part = array.slice(first, stop - first)
    if len(rows) < len(part):
        part = part.take(pa.array(rows - first))
    if pa.types.is_dictionary(part.type):
        part = part.dictionary_decode()
    texts = Texts.of_arrow(part)
    try:
        part.validate(full=True)
    except pa.ArrowInvalid:
        valid = np.ones(len(texts), bool)
        for i, text in enumerate(texts.views()):
            try:
                str(text, "utf-8")
            except UnicodeDecodeError:
                valid[i] = False
                where = partial(place, int(rows[i]))
                problems.row("invalid UTF-8", where, "the row is not UTF-8 text")
        return texts.take(valid)
    return texts


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
