"""What a pass of `attention` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from outdim.analysis.places import Places
from outdim.analysis.results.attention_side import QUERIES, AttentionSide, Floats
from outdim.analysis.results.cautions import few_blocks, few_documents
from outdim.analysis.step import Json, Result
from outdim.analysis.table import (
    SELECTIONS,
    STATISTICS,
    Statistic,
    TidyRows,
    define,
)
from outdim.stats.head_sums import EPSILON, PREFIX
from outdim.stats.jackknife import LeftOut, mean_of
from outdim.tokens import GROUPS

_GU, _SHARES = "Gu et al., ICLR 2025", "Where heads look"
_ONE_A_HEAD: dict[str, Any] = {"of_dimensions": False}


def _define(name: str, label: str, topic: str, **about: Any) -> None:
    """A statistic of heads: intact, ablated, with others ablated, and how much smaller it is."""
    low = about.pop("low", 0)
    share = about.get("high") == 1
    ends: dict[str, Any] = {"low": -1, "high": 1} if share else {}
    define(
        Statistic(name, label, low=low, topic=topic, **about, **_ONE_A_HEAD),
        Statistic(f"{name}_ablated", f"{label}, ablated", low=low, topic=topic, **about,
                  **_ONE_A_HEAD),
        Statistic(f"{name}_control", f"{label}, others ablated", low=low, topic=topic, **about,
                  **_ONE_A_HEAD),
        *(
            Statistic(f"{name}_{end}", f"{label}: {words}", topic=f"{topic}: change",
                      source=about.get("source", ""), **ends, **_ONE_A_HEAD)
            for end, words in (("change", "intact less ablated"),
                               ("beyond", "others ablated less ablated"))
        ),
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

_TOKENS = 20
_REASONS = {
    "sink": f"no sequence of {PREFIX} tokens",
    "vertical": "no sequence in which half of the queries see one key",
    "value_ratio": "no sequence in which half of the queries see one key, or no finite value",
}


@dataclass(frozen=True)
class AttentionFound(Result):
    """Attention received against |h|, and where heads look.

    Attributes:
        dims: The chosen dimensions.
        places: Sets of tokens.
        intact, ablated: Sums of the model as it is, and of the ablated one.
        ablation: What was ablated, in words.
        controls: Sums of the model with as many other dimensions ablated, a set each.
        others: These sets, in words.
        maps: Of chosen sentences; None where there are none.
    """

    dims: tuple[int, ...]
    places: Places
    intact: AttentionSide
    ablation: str = ""
    ablated: AttentionSide | None = None
    controls: tuple[AttentionSide, ...] = ()
    others: str = ""
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
            for selection, groups in QUERIES.items():
                index = [GROUPS.index(group) for group in groups]
                n = side.array("queries")[:, index].sum()
                for place, name in self._places:
                    yield "share", name, selection, n, side.shares(selection, place)

        found = [list(estimates(side)) for _, side in self._sides()]
        beside = [list(estimates(side)) for side in self.controls]
        for row, (name, covariate, selection, n, intact) in enumerate(found[0]):
            said = self.all_tokens if selection == "all" else selection
            at: Any = {"covariate": covariate, "selection": said}
            reason = _REASONS.get(name, "no queries")
            for (suffix, side), of_side in zip(self._sides(), found, strict=True):
                n, estimate = of_side[row][-2:]
                ends = side.interval(name, n, estimate)
                self._add(rows, f"attention_{name}{suffix}", n, estimate, ends, reason, at)
            if self.ablated is not None:
                change = intact - found[1][row][-1]
                ends = self.intact.change(name, n, change)
                self._add(rows, f"attention_{name}_change", n, change, ends, reason, at)
            if beside:
                n, control = beside[0][row][-2], mean_of([of_side[row][-1] for of_side in beside])
                ends = self.intact.interval(name, n, control)
                self._add(rows, f"attention_{name}_control", n, control, ends, reason, at)
                beyond = control - found[1][row][-1]
                ends = self.intact.change(name, n, beyond)
                self._add(rows, f"attention_{name}_beyond", n, beyond, ends, reason, at)

    def _add(
        self,
        rows: TidyRows,
        statistic: str,
        n: Floats,
        found: LeftOut,
        ends: tuple[Floats, Floats],
        reason: str,
        at: Any,
    ) -> None:
        known = STATISTICS[statistic]
        bounds = (-np.inf if known.low is None else known.low,
                  np.inf if known.high is None else known.high)  # fmt: skip
        low, high = (np.clip(end, *bounds) for end in ends)
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
        intact = self.intact
        shares = {name: intact.shares("all", place).value for place, name in self._places}
        others = {name: found for name, _, s, _, found in intact.of_heads() if s != "text"}
        low, high = intact.vertical_interval
        for index, (layer, heads) in enumerate(intact.heads.items()):
            r = intact.r(layer, "read", SELECTIONS["all"].groups).value
            for head in range(heads):
                at = index, head
                token, share, first = intact.top(index, head)
                size = np.nan_to_num(np.abs(r[head]), nan=-1)
                row = {
                    "layer": layer,
                    "head": head,
                    "vertical": intact.vertical.value[at],
                    "low": low[at],
                    "high": high[at],
                    "is_vertical": bool(intact.is_vertical[at]),
                    "token_id": token,
                    "token": self.places.labels[token] if token >= 0 else "",
                    "token_share": share,
                    "first_share": first,
                    "entropy": others["entropy"].value[at],
                    "value_ratio": others["value_ratio"].value[at],
                    **{f"to {name}": s[at] for name, s in shares.items()},
                    "dim": self.dims[int(size.argmax())],
                    "r": r[head, int(size.argmax())],
                    **self._ablated_row(at),
                }
                rows.append(row)
        return pa.Table.from_pylist(rows)

    def _ablated_row(self, at: tuple[int, int]) -> Json:
        if self.ablated is None:
            return {}
        row = {"ablated_vertical": self.ablated.vertical.value[at]}
        row |= _ends("change", self.fall(self.intact.vertical), at)
        if self.control is not None:
            row["control_vertical"] = self.control.value[at]
            row |= _ends("beyond", self.fall(self.control), at)
        return row

    @cached_property
    def control(self) -> LeftOut | None:
        """The share of sequences [L, H] in the mean of the controls; None without."""
        return mean_of([side.vertical for side in self.controls]) if self.controls else None

    def fall(self, before: LeftOut) -> tuple[Floats, Floats, Floats]:
        """How much less vertical heads [L, H] are ablated, and the interval of that."""
        assert self.ablated is not None
        change = before - self.ablated.vertical
        n = self.intact.array("usable")[..., 0].sum(0)
        return change.value, *self.intact.change("vertical", n, change)

    @cached_property
    def all_tokens(self) -> str:
        """The selection of all tokens: another where none is special."""
        special = self.intact.array("queries")[:, GROUPS.index("special")].any()
        return "all" if special else "text+first"

    @cached_property
    def _places(self) -> list[tuple[int, str]]:
        """Number and name of the places at which there is a token, those that receive most first.

        Of most tokenizers' special tokens a text has none.
        """
        occurs = np.asarray(self.places.member.cpu().numpy()[self.intact.ids].any(0))
        mass = self.intact.array("mass").sum((0, 1, 2, 3))
        there = [
            place
            for place in np.argsort(-mass, kind="stable")
            if place == len(occurs) or occurs[place]
        ]
        return [(int(place), self.places.names[place]) for place in there]

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
        from outdim.analysis.results.attention_words import headline

        return headline(self)

    def cautions(self) -> list[str]:
        """Intervals that are missing, or rest on little."""
        blocks = int((self.intact.array("sequences")[:, 0] > 0).sum())
        return few_blocks(blocks) or few_documents(self.intact.documents)


def _ends(name: str, found: tuple[Floats, Floats, Floats], at: tuple[int, int]) -> dict[str, float]:
    ends = ("", "_low", "_high")
    return {f"{name}{end}": values[at] for end, values in zip(ends, found, strict=True)}


def _columns(name: str, found: LeftOut, *, correlation: bool = True) -> dict[str, Floats]:
    low, high = found.interval(correlation=correlation)
    return {name: found.value, f"{name}_low": low, f"{name}_high": high}
