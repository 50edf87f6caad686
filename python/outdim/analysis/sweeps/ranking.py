"""Dimensions as an earlier run ranks them: by harm in its sweep, or by its screening."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from outdim import manifest
from outdim.analysis.results.screened import ABSOLUTE
from outdim.errors import ArgumentError
from outdim.tables import read_parquet

_WORD = re.compile(r"(worst|least):(\d+)")
_SCORE = "score"  # the column of a sweep that verified a screening
_SWEEPS = ("sweep_lm", "sweep_mlm", "sweep_glue", "sweep_cosine")


class Ranking:
    """A run that ranks dimensions; its tables are read once, where a word asks for them.

    Args:
        run: Directory of a sweep, or of a screening where it has no whole sweep; None for no run.
    """

    def __init__(self, run: str | None) -> None:
        self._run = run

    def named(self, words: Sequence[str], hidden_size: int | None = None) -> list[str]:
        """Words that name dimensions, ``worst:8`` and ``least:8`` replaced by what they stand for.

        Args:
            words: See `outdim.analysis.sweeps.options.GridOptions`.
            hidden_size: Of the model whose dimensions are named; None where that is not known.

        Raises:
            ArgumentError: No ranking, one with fewer dimensions or of a model of another width, or
                a directory that holds none.
            DataError: Its table cannot be read.
        """
        return [one for word in words for one in self._named(word, hidden_size)]

    def _named(self, word: str, hidden_size: int | None) -> list[str]:
        asked = _WORD.fullmatch(word)
        if asked is None:
            return [word]
        if self._run is None:
            raise ArgumentError(
                f"dims: {word} is of a sweep or screening: name its run: --ranking."
            )
        order, width, count = self._order, self._width, int(asked[2])
        if hidden_size is not None and width not in (None, hidden_size):
            raise ArgumentError(
                f"ranking: {self._run} ranks the {width} dimensions of another model than this "
                f"one, which has {hidden_size}."
            )
        if not 1 <= count <= len(order):
            raise ArgumentError(
                f"dims: expected 1 to {len(order)}, as many as {self._run} ranks; got {word}."
            )
        return [str(dim) for dim in (order if asked[1] == "worst" else order[::-1])[:count]]

    @property
    def _path(self) -> Path:
        return Path(self._run or "").expanduser()

    @cached_property
    def _order(self) -> list[int]:
        return ranked_dims(self._path)

    @cached_property
    def _width(self) -> int | None:
        width: int | None = manifest.read(self._path).get("model", {}).get("hidden_size")
        return width


def ranked_dims(run: Path) -> list[int]:
    """Dimensions, the worst first: by most harm at any place of a sweep, or by |h dL/dh|.

    A sweep that verified a screening measured those that come first in it and a few others: there
    the screening ranks, which has all.

    Raises:
        ArgumentError: A run without a sweep of single dimensions or a screening.
        DataError: Its table cannot be read.
    """
    paths = [path for stem in _SWEEPS if (path := run / f"{stem}.parquet").is_file()]
    swept = read_parquet(paths[0]) if paths else None
    if swept is None or _SCORE in swept.column_names:
        harm = _scores(run)
    else:
        harm = _harm(swept.to_pylist())
        if not harm:
            raise ArgumentError(f"ranking: {run} swept no single dimension, but sets.")
    return sorted(harm, key=lambda dim: -harm[dim])


def _harm(rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """By dimension that was swept alone, the most harm at any place; what is not finite most."""
    harm: dict[int, float] = {}
    for row in rows:
        leading = row["metric"] == rows[0]["metric"] and row["role"] == "ablated"
        if leading and len(row["dims"]) == 1:
            (dim,) = row["dims"]
            value = float("inf") if row["difference"] is None else row["difference"]
            harm[dim] = max(harm.get(dim, value), value)
    return harm


def _scores(run: Path) -> dict[int, float]:
    """By dimension |h dL/dh|, of all layers together."""
    path = run / "stats.parquet"
    rows = read_parquet(path).to_pylist() if path.is_file() else []
    found: dict[int, float] = {}
    for row in rows:
        if row["statistic"] == ABSOLUTE.name:
            found[row["dim"]] = found.get(row["dim"], 0.0) + row["value"]
    if not found:
        raise ArgumentError(f"ranking: {run} holds no sweep and no screening.")
    return found
