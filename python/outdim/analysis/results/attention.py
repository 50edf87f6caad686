"""What a pass of `attention` found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.places import Places
from outdim.analysis.results.cautions import few_blocks
from outdim.analysis.step import Json, Result
from outdim.analysis.table import (
    SELECTIONS,
    STATISTICS,
    Statistic,
    TidyRows,
    define,
    selection_label,
)
from outdim.ops.layout import COMOMENTS_BASE, covariates_of
from outdim.stats import PointComoments
from outdim.stats.head_sums import EPSILON, PREFIX, SINKS, HeadSums
from outdim.stats.jackknife import LeftOut, pearson, ratio
from outdim.text import number, with_interval
from outdim.tokens import GROUPS

Floats = NDArray[np.float64]

_GU, _SHARES = "Gu et al., ICLR 2025", "Where heads look"
_ONE_A_HEAD: dict[str, Any] = {"of_dimensions": False}


def _define(name: str, label: str, topic: str, **about: Any) -> None:
    """A statistic of heads: intact, ablated, and how much smaller it is ablated."""
    low = about.pop("low", 0)
    define(
        Statistic(name, label, low=low, topic=topic, **about, **_ONE_A_HEAD),
        Statistic(f"{name}_ablated", f"{label}, ablated", low=low, topic=topic, **about,
                  **_ONE_A_HEAD),
        Statistic(f"{name}_change", f"{label}: intact less ablated", topic=f"{topic}: change",
                  source=about.get("source", ""), **_ONE_A_HEAD),
    )  # fmt: skip


_define(
    "attention_vertical", f"share of sequences in which one key receives more than {EPSILON}",
    "Vertical heads", high=1,
)  # fmt: skip
_define("attention_share", "share of the attention", _SHARES, high=1)
_define(
    "attention_sink", f"Sink: share of sequences in which a position receives more than {EPSILON}",
    "Attention sinks", high=1, source=_GU,
)  # fmt: skip
_define("attention_entropy", "entropy of the attention of a query", "Entropy", unit="nats")
_define(
    "attention_value_ratio", "norm of the value at the most attended key over the mean norm",
    "Values at the most attended key",
)  # fmt: skip

#: A head is vertical where this share of the sequences is, at the low end of its interval.
MOST = 0.5
_TOKENS = 20
_REASONS = {
    "sink": f"no sequence of {PREFIX} tokens",
    "vertical": "no sequence in which half of the queries see one key",
    "value_ratio": "no sequence in which half of the queries see one key, or no finite value",
}
_QUERIES = {name: SELECTIONS[name].groups for name in ("text", "all")}


@dataclass(frozen=True, eq=False)
class AttentionSide:
    """The merged sums of a model, intact or ablated; see `outdim.analysis.attention`.

    Attributes:
        heads: How many a layer has.
        sums: What they attend to.
        pairs: Co-moments of |h| with what heads give, by layer.
        chosen: Of how many chosen dimensions; random others stand behind them.
    """

    heads: Mapping[int, int]
    sums: HeadSums
    pairs: Mapping[int, PointComoments]
    chosen: int

    def r(self, layer: int, pairing: str, groups: Sequence[str]) -> LeftOut:
        """Pearson's r of |h| of the chosen dimensions with what each head gives: [H, C]."""
        return _pearson(self.pairs[layer], pairing, groups, slice(self.chosen))

    def usual(self, layer: int, pairing: str, groups: Sequence[str]) -> Floats:
        """|r| of others, which were not chosen: [H, O]."""
        others = slice(self.chosen, None)
        return np.abs(_pearson(self.pairs[layer], pairing, groups, others).value)

    def tokens(self, layer: int, pairing: str, groups: Sequence[str]) -> int:
        """How many tokens r is of."""
        n = self.pairs[layer].of(pairing).head[:, 0].view(-1, len(GROUPS)).sum(0)
        return int(sum(n[GROUPS.index(group)] for group in groups))

    def array(self, name: str) -> Floats:
        """A field of the sums of heads."""
        return np.asarray(self.sums.sums[name].numpy())

    def of_heads(self) -> Iterator[tuple[str, str, str, Floats, LeftOut]]:
        """Statistics of heads [L, H]: name, covariate, selection of queries, n, estimate."""
        sequences, queries = self.array("sequences"), self.array("queries")
        usable, valued = np.moveaxis(self.array("usable"), -1, 0)
        yield "vertical", "", "", usable.sum(0), self.vertical[0]
        yield "value_ratio", "", "", valued.sum(0), ratio(self.array("value_ratio"), valued)
        long = sequences[:, 1, None, None]
        for k in range(SINKS):
            found = ratio(self.array("sinks")[..., k], long)
            yield "sink", f"position {k + 1}", "", long.sum(0), found
        for selection, groups in _QUERIES.items():
            index = [GROUPS.index(group) for group in groups]
            n = queries[:, index].sum(1)
            entropy = self.array("entropy")[:, index].sum(1)
            yield "entropy", "", selection, n.sum(0), ratio(entropy, n[:, None, None])

    def shares(self, selection: str, place: int) -> LeftOut:
        """Share of the attention of the queries of a selection that goes to a place: [L, H]."""
        index = [GROUPS.index(group) for group in _QUERIES[selection]]
        n = self.array("queries")[:, index].sum(1)
        return ratio(self.array("mass")[..., place][:, index].sum(1), n[:, None, None])

    @cached_property
    def vertical(self) -> tuple[LeftOut, NDArray[np.bool_]]:
        """Share of sequences [L, H] in which a head is vertical, and whether it mostly is."""
        found = ratio(self.array("vertical"), self.array("usable")[..., 0])
        low, _ = found.interval(share=True)
        return found, np.where(np.isnan(low), found.value, low) > MOST

    def top(self, index: int, head: int) -> tuple[int, float]:
        """The id on which a head is vertical most often, and in which share of those cases."""
        keys, sums = self.sums.tops.keys.numpy(), self.sums.tops.sums.numpy()[:, 0]
        if keys.shape[1] < 3:
            return -1, np.nan
        mine = (keys[:, 0] == index) & (keys[:, 1] == head)
        if not mine.any():
            return -1, np.nan
        best = int(np.argmax(np.where(mine, sums, -1)))
        return int(keys[best, 2]), float(sums[best] / sums[mine].sum())


def _pearson(part: PointComoments, pairing: str, groups: Sequence[str], dims: slice) -> LeftOut:
    """Pearson's r of |h| with the covariates over groups of these kinds, blocks left out."""
    head, body = (state.numpy() for state in part.of(pairing))
    body = body[..., dims]
    k = covariates_of(head.shape[1])
    kinds = len(GROUPS)
    kept = [GROUPS.index(group) for group in groups]

    def by_block(values: Floats) -> Floats:
        return values.reshape(len(values) // kinds, kinds, *values.shape[1:])[:, kept]

    n, x_mean, x_m2 = (by_block(v) for v in (head[:, 0], head[:, 1 : 1 + k], head[:, 1 + k :]))
    y_mean, y_m2 = (by_block(body[:, row]) for row in range(COMOMENTS_BASE))
    co = by_block(body[:, COMOMENTS_BASE:])
    weight = n / max(n.sum(), 1)
    # About the mean of all, so that nothing cancels.
    dx = x_mean - (weight[..., None] * x_mean).sum((0, 1))
    dy = y_mean - (weight[..., None] * y_mean).sum((0, 1))
    dx, dy = (np.where(n[..., None] > 0, d, 0) for d in (dx, dy))
    n1, n2 = n[..., None], n[..., None, None]
    return pearson(
        n.sum(1),
        (n1 * dx).sum(1)[..., None],
        (n1 * dy).sum(1)[:, None],
        (x_m2 + n1 * dx * dx).sum(1)[..., None],
        (y_m2 + n1 * dy * dy).sum(1)[:, None],
        (co + n2 * dx[..., None] * dy[..., None, :]).sum(1),
    )


@dataclass(frozen=True)
class AttentionFound(Result):
    """Attention received against |h|, and where heads look.

    Attributes:
        dims: The chosen dimensions.
        places: Sets of tokens.
        intact, ablated: Sums of the model as it is, and of the ablated one.
        ablation: What was ablated, in words.
        maps: Of chosen sentences; None where there are none.
    """

    dims: tuple[int, ...]
    places: Places
    intact: AttentionSide
    ablation: str = ""
    ablated: AttentionSide | None = None
    maps: pa.Table | None = None

    def tables(self) -> dict[str, pa.Table | Json]:
        """Statistics of heads in the tidy table; r, heads and tokens in tables of their own."""
        rows = TidyRows()
        self._add_heads(rows)
        maps = {} if self.maps is None else {"attention_maps": self.maps}
        return {
            "stats": rows.table(),
            "attention_r": self.r_table,
            "attention_heads": self.heads_table,
            "attention_tokens": self.tokens_table,
            **maps,
        }

    def _sides(self) -> list[tuple[str, AttentionSide]]:
        ablated = [("_ablated", self.ablated)] if self.ablated is not None else []
        return [("", self.intact), *ablated]

    def _add_heads(self, rows: TidyRows) -> None:
        def estimates(side: AttentionSide) -> Iterator[tuple[str, str, str, Floats, LeftOut]]:
            yield from side.of_heads()
            for selection, groups in _QUERIES.items():
                index = [GROUPS.index(group) for group in groups]
                n = side.array("queries")[:, index].sum()
                for place, name in enumerate(self.places.names):
                    yield "share", name, selection, n, side.shares(selection, place)

        found = [list(estimates(side)) for _, side in self._sides()]
        for row, (name, covariate, selection, n, intact) in enumerate(found[0]):
            at: Any = {"covariate": covariate, "selection": selection}
            reason = _REASONS.get(name, "no queries")
            for (suffix, _), of_side in zip(self._sides(), found, strict=True):
                self._add(rows, f"attention_{name}{suffix}", *of_side[row][-2:], reason, at)
            if self.ablated is not None:
                change = intact - found[1][row][-1]
                self._add(rows, f"attention_{name}_change", n, change, reason, at)

    def _add(
        self, rows: TidyRows, statistic: str, n: Floats, found: LeftOut, reason: str, at: Any
    ) -> None:
        low, high = found.interval(share=STATISTICS[statistic].high == 1)
        n = np.broadcast_to(n, found.value.shape)
        for index, (layer, heads) in enumerate(self.intact.heads.items()):
            for head in range(heads):
                value = found.value[index, head]
                rows.add(
                    statistic, value, point=f"block.{layer - 1}", layer=layer, head=head, dims=0,
                    low=low[index, head], high=high[index, head],
                    n=int(n[index, head]), reason=reason if np.isnan(value) else "", **at,
                )  # fmt: skip

    @cached_property
    def r_table(self) -> pa.Table:
        """Pearson's r of |h| with attention received, a row a layer, pairing, head and so on."""
        parts: list[pa.Table] = []
        for layer in self.intact.heads:
            for pairing in ("read", "written"):
                for selection in SELECTIONS.values():
                    parts.append(self._r_rows(layer, pairing, selection.name, selection.groups))
        return pa.concat_tables(parts)

    def _r_rows(self, layer: int, pairing: str, selection: str, groups: Sequence[str]) -> pa.Table:
        intact = self.intact.r(layer, pairing, groups)
        usual = self.intact.usual(layer, pairing, groups)
        shape = intact.value.shape
        head, dim = np.indices(shape)
        with np.errstate(all="ignore"):
            kept = np.where(np.isfinite(usual), usual, np.nan)
            some = np.isfinite(kept).any(1)
            median = np.full(len(kept), np.nan)
            median[some] = np.nanmedian(kept[some], 1)
            size = np.abs(intact.value)
            below = (kept[:, None] < size[..., None]).sum(2) / np.isfinite(kept).sum(1)[:, None]
            below = np.where(np.isfinite(size), below, np.nan)
        columns: dict[str, Any] = {
            "layer": np.full(shape, layer, np.int16),
            "head": head.astype(np.int16),
            "dim": np.asarray(self.dims, np.int32)[dim],
            "pairing": np.full(shape, pairing),
            "selection": np.full(shape, selection),
            "n": np.full(shape, self.intact.tokens(layer, pairing, groups)),
            **_columns("r", intact),
            "median_abs_r": np.broadcast_to(median[:, None], shape),
            "share_below": below,
            "reason": np.where(np.isnan(intact.value), "constant, or values not finite", ""),
        }
        if self.ablated is not None:
            ablated = self.ablated.r(layer, pairing, groups)
            columns |= _columns("ablated_r", ablated)
            columns |= _columns("change", intact - ablated, correlation=False)
        return pa.table({name: pa.array(value.reshape(-1)) for name, value in columns.items()})

    @cached_property
    def heads_table(self) -> pa.Table:
        """A row a head: how vertical it is, on which token, where it looks, its strongest r."""
        rows: list[Json] = []
        shares = [self.intact.shares("all", place).value for place in range(self._places)]
        others = {name: found for name, _, s, _, found in self.intact.of_heads() if s != "text"}
        vertical, mostly = self.intact.vertical
        low, high = vertical.interval(share=True)
        for index, (layer, heads) in enumerate(self.intact.heads.items()):
            r = self.intact.r(layer, "read", SELECTIONS["all"].groups).value
            for head in range(heads):
                at = index, head
                token, share = self.intact.top(index, head)
                size = np.nan_to_num(np.abs(r[head]), nan=-1)
                row = {
                    "layer": layer,
                    "head": head,
                    "vertical": vertical.value[at],
                    "low": low[at],
                    "high": high[at],
                    "is_vertical": bool(mostly[at]),
                    "token_id": token,
                    "token": self.places.labels[token] if token >= 0 else "",
                    "token_share": share,
                    "entropy": others["entropy"].value[at],
                    "value_ratio": others["value_ratio"].value[at],
                    **{
                        f"to {name}": s[at]
                        for name, s in zip(self.places.names, shares, strict=True)
                    },
                    "dim": self.dims[int(size.argmax())],
                    "r": r[head, int(size.argmax())],
                }
                if self.ablated is not None:
                    change = vertical - self.ablated.vertical[0]
                    ends = [float(end[at]) for end in change.interval()]
                    row |= {
                        "ablated_vertical": self.ablated.vertical[0].value[at],
                        "change": change.value[at],
                        "change_low": ends[0],
                        "change_high": ends[1],
                    }
                rows.append(row)
        return pa.Table.from_pylist(rows)

    @property
    def _places(self) -> int:
        return len(self.places.names)

    @cached_property
    def tokens_table(self) -> pa.Table:
        """The tokens that receive most, layer by layer, all heads together."""
        ids = self.intact.sums.tokens.keys.numpy()[:, 0]
        sums = self.intact.sums.tokens.sums.numpy()
        rows: list[Json] = []
        for index, (layer, heads) in enumerate(self.intact.heads.items()):
            mass = sums[:, 1 + index]
            total = sums[:, 0].sum() * heads
            for row in np.argsort(-mass, kind="stable")[:_TOKENS]:
                rows.append(
                    {
                        "layer": layer,
                        "token_id": int(ids[row]),
                        "token": self.places.labels[ids[row]],
                        "share": mass[row] / total,
                        "of_tokens": sums[row, 0] / sums[:, 0].sum(),
                        "n": int(sums[row, 0]),
                    }
                )
        return pa.Table.from_pylist(rows)

    def headline(self) -> list[str]:
        """How many heads are vertical and on what, the strongest r, and what is left ablated."""
        heads = self.heads_table.to_pylist()
        vertical = [row for row in heads if row["is_vertical"]]
        counts: dict[str, int] = {}
        for row in vertical:
            counts[row["token"]] = counts.get(row["token"], 0) + 1
        on = ", ".join(f"{n} on {t}" for t, n in sorted(counts.items(), key=lambda c: -c[1])[:4])
        said = [
            f"{len(vertical)} of {len(heads)} heads are vertical: one key of a sequence receives "
            f"more than {EPSILON} of the attention in more than half of the sequences"
            f"{f' ({on})' if on else ''}."
        ]
        for selection in _QUERIES:
            if best := self._strongest(selection):
                said.append(
                    f"Over {best['n']:,} tokens ({selection_label(selection)}) dimension "
                    f"{best['dim']} goes with attention most, at layer {best['layer']}, head "
                    f"{best['head']}: r of |h|, of the state that the layer reads, with attention "
                    f"received is {_words(best, 'r')}{_beside(best['median_abs_r'])}."
                )
        if self.ablated is not None:
            left = int(self.ablated.vertical[1].sum())
            said.append(f"With {self.ablation}, {left} of {len(heads)} heads are vertical.")
        return said

    def _strongest(self, selection: str) -> Json | None:
        rows = [
            row
            for row in self.r_table.to_pylist()
            if row["pairing"] == "read" and row["selection"] == selection and np.isfinite(row["r"])
        ]
        return max(rows, key=lambda row: abs(row["r"]), default=None)

    def cautions(self) -> list[str]:
        """Intervals that are missing."""
        return few_blocks(int((self.intact.array("sequences")[:, 0] > 0).sum()))


def _columns(name: str, found: LeftOut, *, correlation: bool = True) -> dict[str, Floats]:
    low, high = found.interval(correlation=correlation)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}


def _beside(median: float) -> str:
    """What is usual there; nothing where all dimensions were chosen, and there are no others."""
    known = np.isfinite(median)
    return f"; the median |r| of random others is {number(median, 2)} there" if known else ""


def _words(row: Json, name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 2)
