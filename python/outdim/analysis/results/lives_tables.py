"""Tables of `lifecycle`: tidy rows, lives, kinds of tokens, and the tokens with largest values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from outdim.analysis.life_sums import PARTS
from outdim.analysis.pass_ import UNIT_DOCUMENTS
from outdim.analysis.results.cautions import no_interval
from outdim.analysis.table import TidyRows
from outdim.stats.extreme_tokens import Extreme
from outdim.stats.jackknife import LeftOut, ratio

if TYPE_CHECKING:
    from outdim.analysis.results.lives import Lives

_NONFINITE, _ALL_0 = "nonfinite values", "all values are 0"


def _ends(name: str, *names: str) -> list[tuple[str, pa.DataType]]:
    low, high = names or (f"{name}_low", f"{name}_high")
    return [(part, pa.float64()) for part in (name, low, high)]


#: As of `outdim.analysis.results.life.Life`; a list of structs holds its rises.
LIVES = pa.schema(
    [
        ("dim", pa.int32()),
        (
            "rises",
            pa.list_(
                pa.struct(
                    [
                        ("layer", pa.int16()),
                        ("factor", pa.float64()),
                        ("branch", pa.string()),
                        *((name, pa.float64()) for name in ("took", *PARTS[1:])),
                        *_ends("added"),
                        ("before", pa.float64()),
                        *_ends("size"),
                        ("top", pa.int16()),
                        ("top_size", pa.float64()),
                    ]
                )
            ),
        ),
        ("agreement", pa.float64()),
        ("peak", pa.int16()),
        *_ends("size", "low", "high"),
        *_ends("times"),
        ("plateau", pa.list_(pa.int16())),
        ("fell", pa.int16()),
        ("fall_branch", pa.string()),
        ("size_final", pa.float64()),
        ("times_final", pa.float64()),
        ("kind", pa.string()),
        *_ends("kind_share", "kind_low", "kind_high"),
        *_ends("positive"),
        ("norm", pa.string()),
        *_ends("norm_share", "norm_low", "norm_high"),
    ]
)
KINDS = pa.schema(
    [
        ("dim", pa.int32()),
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("kind", pa.string()),
        ("tokens", pa.int64()),
        *_ends("mean_abs", "low", "high"),
        *_ends("squares"),
        ("reason", pa.string()),  # why a value or an interval is not there, else empty
    ]
)
TOKENS = pa.schema(
    [
        ("dim", pa.int32()),
        ("point", pa.string()),
        ("layer", pa.int16()),
        ("rank", pa.int16()),
        ("value", pa.float64()),
        ("id", pa.int32()),
        ("token", pa.string()),
        ("unit", pa.int64()),
        ("document", pa.int64()),
        ("offset", pa.int64()),
        ("position", pa.int32()),
        ("before", pa.string()),
        ("text", pa.string()),
        ("after", pa.string()),
    ]
)


def tables(found: Lives) -> dict[str, pa.Table | Mapping[str, Any]]:
    """All tables by name."""
    every: dict[str, Any] = {
        "stats": _stats(found),
        "lifecycle": pa.Table.from_pylist([asdict(life) for life in found.lives.values()], LIVES),
        "lifecycle_kinds": kinds_table(found),
        "lifecycle_tokens": tokens_table(found),
    }
    return every if found.maps is None else {**every, "hidden_maps": found.maps}


def _stats(found: Lives) -> pa.Table:
    rows, sums = TidyRows(), found.sums
    tokens = int(sums.sums["tokens"].sum())

    def add(
        statistic: str,
        point: str,
        values: LeftOut,
        dims: Sequence[int] | None = sums.dims,
        *,
        share: bool = False,
        why: ArrayLike = _NONFINITE,
    ) -> None:
        low, high = values.interval(share=share)
        reason = np.where(np.isfinite(values.value), "", why)
        rows.add(
            statistic, values.value, point=point, layer=sums.layers[point], selection="all",
            n=tokens, dims=dims, low=low, high=high, reason=reason,
        )  # fmt: skip

    for point in sums.states:
        spike = found.spikes[point]
        add("spike", point, spike, None)
        known = np.isfinite(spike.value)
        why = np.where(known, "the median dimension is 0", _NONFINITE)
        add("spike_times", point, found.times[point], None, why=why)
    for point in sums.states:
        squares = sums.sums[f"values/{point}"][:, :, 1].sum((0, 1))
        why = np.where(squares == 0, _ALL_0, _NONFINITE)
        add("positive_squares", point, found.positive(point), share=True, why=why)
        if f"written/{point}" in sums.sums:
            parts = found.parts("written", point)
            for place, name in enumerate(PARTS):
                add(f"from_{name}", point, parts.at(..., place))
    for point in sums.norms:
        add("denominator_share", point, found.share(point), share=True)
        add("denominator_share_largest", point, found.share_largest(point), share=True)
    return rows.table()


def kinds_table(found: Lives) -> pa.Table:
    """By dimension, state and kind of token: mean |h|, and share of the sum of h^2."""
    sums = found.sums
    rows: list[dict[str, Any]] = []
    tokens = sums.sums["tokens"]
    blocks = (tokens > 0).sum(0)
    for point in sums.states:
        means = ratio(sums.sums[f"values/{point}"][:, :, 0], tokens[..., None])
        columns = means.value, *means.interval(), *found.kind_shares(point)  # [C, k] each
        names = ("mean_abs", "low", "high", "squares", "squares_low", "squares_high")
        for place, dim in enumerate(sums.dims):
            for kind in np.flatnonzero(blocks):
                mean, squares = columns[0][kind, place], columns[3][kind, place]
                missing = "" if np.isfinite(squares) else _ALL_0 if mean == 0 else _NONFINITE
                rows.append(
                    {
                        "dim": dim,
                        "point": point,
                        "layer": sums.layers[point],
                        "kind": sums.kinds[kind],
                        "tokens": int(tokens[:, kind].sum()),
                        **{n: part[kind, place] for n, part in zip(names, columns, strict=True)},
                        "reason": missing or no_interval(int(blocks[kind])),
                    }
                )
    return pa.Table.from_pylist(rows, KINDS)


def tokens_table(found: Lives) -> pa.Table:
    """The tokens at which each dimension is largest, by state, with what stands around them."""
    sums = found.sums
    every = [
        (dim, point, rank, token)
        for place, dim in enumerate(sums.dims)
        for point in sums.states
        for rank, token in enumerate(sums.extremes.tokens(point, place), 1)
    ]
    contexts = _contexts(found, [token for *_, token in every])
    rows = [
        {
            "dim": dim,
            "point": point,
            "layer": sums.layers[point],
            "rank": rank,
            "value": token.value,
            "id": token.id,
            "token": found.labels[token.id],
            "unit": token.document // UNIT_DOCUMENTS,
            "document": token.document % UNIT_DOCUMENTS,
            "offset": token.offset,
            "position": token.position,
            **context,
        }
        for (dim, point, rank, token), context in zip(every, contexts, strict=True)
    ]
    return pa.Table.from_pylist(rows, TOKENS)


def _contexts(found: Lives, tokens: Sequence[Extreme]) -> list[dict[str, str]]:
    """The text of tokens and of what stands before and behind them.

    What a token adds to the text before it, blanks and all, is known from both together: by itself
    a WordPiece has none before it, and a part of a character is none.
    """
    texts = {}
    for window in dict.fromkeys((token.before, token.id, token.after) for token in tokens):
        before, own, after = window
        three = found.decode([list(before), [*before, own], [*before, own, *after]])
        until, upto = (os.path.commonprefix(three[i : i + 2]) for i in (0, 1))  # noqa: RUF071
        texts[window] = {
            "before": until,
            "text": three[1][len(until) :],
            "after": three[2][len(upto) :],
        }
    return [texts[token.before, token.id, token.after] for token in tokens]
