"""Words by which a command line names dimensions, and layers of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from outdim.errors import ArgumentError
from outdim.text import those_together, together

ALL, EACH = "all", "each"
_MOST_PAIRED = 64  # which have 2,016 pairs
_RANGE, _WINDOW = re.compile(r"(\d+)-(\d+)"), re.compile(r"window:(\d+)")
_ANY = 10_000  # dimensions or layers, where it is not known how many there are


def words_of(given: str | int | Sequence[str | int | Sequence[int]]) -> list[str]:
    """Words as on the command line; numbers that go together become "507+247".

    >>> words_of([7, "0-3", (507, 247)])
    ['7', '0-3', '507+247']
    """
    several = [given] if isinstance(given, str | int) else given
    return [str(one) if isinstance(one, str | int) else together(one) for one in several]


def check_words(
    dims: Sequence[str], layers: Sequence[str], hidden_size: int | None, count: int | None
) -> None:
    """Say what no model makes right, or none with so many dimensions and layers (None: not known).

    Raises:
        ArgumentError: Words that say nothing; dimensions or layers that are not there.
    """
    for word in dims:
        most = max(dim for one in sets_of(word, hidden_size or _ANY) for dim in one)
        if hidden_size is not None and most >= hidden_size:
            raise ArgumentError(f"dims: expected 0 to {hidden_size - 1}, got {most}")
    for word in layers:
        most = max(max(place or (0,)) for place in places_of(word, count or _ANY))
        if count is not None and most > count:
            raise ArgumentError(f"layers: expected 0 (the embeddings) to {count}, got {most}")


def named_sets(dims: Sequence[str], hidden_size: int | None) -> list[tuple[int, ...]] | None:
    """The sets that words stand for, each once; None for all of a number that is not known."""
    if hidden_size is None and ALL in dims:
        return None
    named = (one for word in dims for one in sets_of(word, hidden_size or _ANY))
    return list(dict.fromkeys(named))


def paired(sets: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The sets, and all pairs of those that are one dimension."""
    singles = [dim for one in sets if len(one) == 1 for dim in one]
    if not 2 <= len(singles) <= _MOST_PAIRED:
        raise ArgumentError(
            f"pairs: expected 2 to {_MOST_PAIRED} single dimensions, got {len(singles)}: name them "
            "by --dims, such as the worst of a sweep."
        )
    return [*sets, *(pair for pair in combinations(singles, 2) if tuple(sorted(pair)) not in sets)]


def sets_of(word: str, hidden_size: int) -> list[tuple[int, ...]]:
    """The sets of dimensions that a word stands for."""
    if word == ALL:
        return [(dim,) for dim in range(hidden_size)]
    if between := _between("dims", word):
        return [(dim,) for dim in between]
    return [_numbers("dims", word, "all, 507, 0-99, or 507+247 for two together")]


def places_of(word: str, layers: int) -> list[tuple[int, ...] | None]:
    """The layers of each place that a word stands for; None for all blocks."""
    if word == ALL:
        return [None]
    if word == EACH:
        word = "window:1"
    if window := _WINDOW.fullmatch(word):
        size = int(window.group(1))
        if not 1 <= size <= layers:
            raise ArgumentError(f"layers: expected window:1 to window:{layers}, got {word!r}.")
        return [tuple(range(i, i + size)) for i in range(1, layers - size + 2)]
    if between := _between("layers", word):
        return [tuple(between)]
    return [_numbers("layers", word, "all, each, window:2, 4-6 or 4,6 (together), or 4")]


def _between(name: str, word: str) -> range:
    """The numbers of a word such as 4-6; none of other words."""
    found = _RANGE.fullmatch(word)
    first, last = (int(found[1]), int(found[2])) if found else (0, -1)
    if found and last < first:
        raise ArgumentError(
            f"{name}: expected the smaller number of a range first, {last}-{first}; got {word!r}."
        )
    return range(first, last + 1)


def _numbers(name: str, word: str, like: str) -> tuple[int, ...]:
    try:
        return tuple(sorted(set(those_together(word))))
    except ValueError:
        raise ArgumentError(f"{name}: expected words such as {like}; got {word!r}.") from None
