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
from outdim.corpus.rows import RowError, no_column
from outdim.corpus.texts import Texts

_BLOCK_BYTES = 8 << 20


class TextColumn:
    """The column of a schema that holds the documents, perhaps inside (see `document_of`).

    Args:
        schema: Of Arrow.
        name: A column, or a path such as ``meta.text``.

    Attributes:
        outermost: The column of the schema that it is, or is inside of.
        leaf: Its number among those columns that hold no others, as parquet counts them.

    Raises:
        RowError: There is no such column, or two, or it does not hold strings.
    """

    def __init__(self, schema: Any, name: str):
        self._keys = [name] if name in schema.names else name.split(".")
        self.outermost = self._keys[0]
        self._has_lists = False
        self.leaf = 0
        kind = pa.struct(list(schema))
        for key in self._keys:
            while _is_list(kind):
                kind, self._has_lists = kind.value_type, True
            found = kind.get_all_field_indices(key) if pa.types.is_struct(kind) else []
            if len(found) > 1:
                raise RowError("no column", f"column: {len(found)} are named {key!r}")
            if not found:
                raise RowError("no column", f"column: {no_column(name, schema.names)}")
            self.leaf += sum(_leaves(kind.field(i).type) for i in range(found[0]))
            kind = kind.field(found[0]).type
        if not _is_text(kind) and not pa.types.is_null(kind):
            raise RowError("not a string", f"column {name!r}: expected strings, got {kind}")

    def documents(
        self, array: Any, place: Callable[[int], str], problems: Problems
    ) -> Iterator[Texts]:
        """The documents in ``array``, a piece of the outermost column; ``place`` names its rows.

        Blocks are bounded: a value of a dictionary may stand in very many rows, or often in one.
        """
        strings, row_of = self._strings(array)
        lengths = _lengths(strings)
        there = np.flatnonzero(lengths >= 0)
        row_of = row_of[there]
        strings_in = np.bincount(row_of, minlength=len(array))
        # With what joins them; -1 where there are none.
        sizes = np.bincount(row_of, lengths[there], len(array)).astype(np.int64) + strings_in - 1
        problems.account.skip("null", rows=int((sizes < 0).sum()))
        for i in np.flatnonzero(sizes > problems.longest):
            problems.too_long(partial(place, int(i)))
        kept = np.flatnonzero((sizes >= 0) & (sizes <= problems.longest))
        ends = np.cumsum(sizes[kept])
        start = 0
        while start < len(kept):
            limit = _BLOCK_BYTES + (ends[start - 1] if start else 0)
            stop = max(int(np.searchsorted(ends, limit, side="right")), start + 1)
            rows = kept[start:stop]
            block = _taken(strings, there[_of_rows(row_of, rows)])
            if self._has_lists:
                block = _joined(block, strings_in[rows])
            yield _checked(block, partial(_place, place, rows), problems)
            start = stop

    def _strings(self, array: Any) -> tuple[Any, NDArray[np.int64]]:
        """The strings of a piece of the outermost column, and the row in which each stands."""
        row_of = np.arange(len(array))
        for key in self._keys[1:]:
            while _is_list(array.type):
                row_of = row_of[np.asarray(pc.list_parent_indices(array))]
                array = pc.list_flatten(array)
            array = pc.struct_field(array, [key])
        if pa.types.is_string_view(array.type):  # which kernels know little of
            array = array.cast(pa.large_string())
        return array, row_of


def _lengths(strings: Any) -> NDArray[np.int64]:
    """Bytes of each string, -1 for null; dictionaries are not unfolded for it."""
    if pa.types.is_null(strings.type):
        return np.full(len(strings), -1)
    if pa.types.is_dictionary(strings.type):
        lengths = pc.take(pc.binary_length(strings.dictionary), strings.indices)
    else:
        lengths = pc.binary_length(strings)
    return np.asarray(pc.fill_null(lengths, -1)).astype(np.int64)


def _of_rows(row_of: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in ``row_of`` the rows stand; both ascend."""
    first, stop = np.searchsorted(row_of, [rows[0], rows[-1] + 1])
    if len(rows) == rows[-1] + 1 - rows[0]:
        return np.arange(first, stop)
    chosen: NDArray[np.int64] = first + np.flatnonzero(np.isin(row_of[first:stop], rows))
    return chosen


def _taken(strings: Any, chosen: NDArray[np.int64]) -> Any:
    first, stop = int(chosen[0]), int(chosen[-1]) + 1
    part = strings.slice(first, stop - first)
    if len(chosen) < len(part):
        part = part.take(pa.array(chosen - first))
    return part.dictionary_decode() if pa.types.is_dictionary(part.type) else part


def _joined(strings: Any, in_row: NDArray[np.int64]) -> Any:
    """The strings of each row joined by line ends; ``in_row`` says how many there are."""
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(in_row)])
    return pc.binary_join(pa.LargeListArray.from_arrays(pa.array(bounds), strings), "\n")


def _checked(block: Any, place: Callable[[int], str], problems: Problems) -> Texts:
    """A string column without what is not UTF-8."""
    texts = Texts.of_arrow(block)
    try:
        block.validate(full=True)
    except pa.ArrowInvalid:
        valid = np.ones(len(texts), bool)
        for i, text in enumerate(texts.views()):
            try:
                str(text, "utf-8")
            except UnicodeDecodeError:
                valid[i] = False
                problems.row("invalid UTF-8", partial(place, i), "the row is not UTF-8 text")
        return texts.take(valid)
    return texts


def _place(place: Callable[[int], str], rows: NDArray[np.int64], i: int) -> str:
    return place(int(rows[i]))


def _leaves(kind: Any) -> int:
    """How many columns without others inside a column of a type is made of."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    inside = [kind.field(i).type for i in range(kind.num_fields)]
    return sum(map(_leaves, inside)) if inside else 1


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
