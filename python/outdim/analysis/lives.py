"""What `lifecycle` found: the lives of dimensions, and the tokens at which they are large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.cautions import few_blocks
from outdim.analysis.life import Course, Life, Rise
from outdim.analysis.life_sums import PARTS, LifeSums
from outdim.analysis.lives_words import in_words
from outdim.analysis.pass_ import UNIT_DOCUMENTS
from outdim.analysis.step import Result
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.stats.jackknife import LeftOut, ratio
from outdim.text import counted

Floats = NDArray[np.float64]

_SUN, _QIU = "Sun et al. 2026", "Qiu et al. 2026"
_ADDED = "What a block adds where the dimension is largest"
_SHARE = "Share of the sum of squares that a norm divides by"
define(
    Statistic("spike", "largest |h| of a sequence, on average", low=0, source=_SUN,
              topic="Largest value of a sequence"),
    Statistic("spike_times", "largest |h| of a sequence, times that of the median dimension", low=0,
              topic="Largest value, times that of the median dimension"),
    Statistic("from_before", "what the block took", topic=_ADDED),
    Statistic("from_attention", "what its attention added", topic=_ADDED),
    Statistic("from_mlp", "what its feed-forward part added", topic=_ADDED),
    Statistic("from_rest", "the rest: norms, and branches that are not known", topic=_ADDED),
    Statistic("positive_squares", "share of h² where h is positive", low=0, high=1,
              topic="One-sidedness"),
    Statistic("denominator_share", "share of a dimension, mean over tokens", low=0, high=1,
              source=_QIU, topic=_SHARE),
    Statistic("denominator_share_largest", "largest share of a sequence, on average", low=0, high=1,
              source=_QIU, topic=_SHARE),
)  # fmt: skip


@dataclass(frozen=True)
class Lives(Result):
    """The lives of some dimensions, and the largest values of all.

    Attributes:
        sums: What was kept.
        placement: Where the norms of the model are.
        labels: The token of each id.
        decode: Makes text of ids.
        maps: Hidden states of the sentences, as `outdim.analysis.hidden_maps` has them.
    """

    sums: LifeSums
    placement: str
    labels: Sequence[str]
    decode: Callable[[Sequence[int]], str]
    maps: pa.Table | None = None

    @cached_property
    def lives(self) -> dict[int, Life]:
        """The life of each dimension."""
        return {dim: self._life(place) for place, dim in enumerate(self.sums.dims)}

    @cached_property
    def _spikes(self) -> dict[str, LeftOut]:
        return {name: self.sums.spike(name) for name in self.sums.states}

    @cached_property
    def _times(self) -> dict[str, LeftOut]:
        return {name: self.sums.times(name) for name in self.sums.states}

    def _life(self, place: int) -> Life:
        sums, dim = self.sums, self.sums.dims[place]
        states = sums.blocks
        size, times = (
            np.stack([found[name].value[dim] for name in states])
            for found in (self._spikes, self._times)
        )
        course = Course.of(size, times)
        peak = states[course.peak]
        low, high = (end[dim] for end in self._spikes[peak].interval())
        squares = sums.sums[f"values/{peak}"][:, :, 1, place]
        of_kind = ratio(squares, squares.sum(1, keepdims=True))
        most = int(np.nan_to_num(of_kind.value, nan=-1).argmax())
        kind_low, kind_high = (end[most] for end in of_kind.interval(share=True))
        positive, *ends = self._positive(peak, place)
        norm, norm_share = self._norm(place)
        final = "final_norm" if "final_norm" in sums.states else None
        return Life(
            dim=dim,
            rises=tuple(self._rise(*rise, place) for rise in course.rises),
            agreement=self._agreement(course, dim),
            peak=course.peak,
            size=float(size[course.peak]),
            low=float(low),
            high=float(high),
            times=float(times[course.peak]),
            plateau=course.plateau,
            fell=course.fell,
            fall_branch=self._fall_branch(course, place),
            size_final=None if final is None else float(self._spikes[final].value[dim]),
            times_final=None if final is None else float(self._times[final].value[dim]),
            kind=sums.kinds[most],
            kind_share=float(of_kind.value[most]),
            kind_low=float(kind_low),
            kind_high=float(kind_high),
            positive=positive,
            positive_low=ends[0],
            positive_high=ends[1],
            norm=norm,
            norm_share=norm_share,
        )

    def _agreement(self, course: Course, dim: int) -> float:
        """Share of the samples without one block that have the same birth."""
        states = self.sums.blocks
        used = self._spikes[states[0]].used
        size, times = (
            np.stack([found[name].without[used, dim] for name in states], 1)
            for found in (self._spikes, self._times)
        )
        if used.sum() < 2:
            return float("nan")
        born = [layer for layer, _ in course.rises[:1]]
        found = [Course.of(*one).rises[:1] for one in zip(size, times, strict=True)]
        return float(np.mean([[layer for layer, _ in rises] == born for rises in found]))

    def parts(self, name: str, point: str) -> LeftOut:
        """``written`` or ``erased`` at a block, on average over sequences: [k, 4], see `PARTS`."""
        return ratio(self.sums.sums[f"{name}/{point}"], self.sums.sums["sequences"][:, None, None])

    def _rise(self, state: int, factor: float, place: int) -> Rise:
        size = float(self._spikes[self.sums.blocks[state]].value[self.sums.dims[place]])
        took, attention, mlp, rest = self._parts("written", state, place).tolist()
        branch = self._branch("written", state, place)
        return Rise(state, factor, branch, took, attention, mlp, rest, size)

    def _parts(self, name: str, state: int, place: int) -> Floats:
        if not state:
            return np.full(len(PARTS), np.nan)
        return np.asarray(self.parts(name, self.sums.blocks[state]).value[place])

    def _fall_branch(self, course: Course, place: int) -> str:
        """What takes most away at the fall, see `Life`."""
        if course.fell is not None:
            return self._branch("erased", course.fell, place)
        return "" if course.plateau[1] == len(self.sums.blocks) - 1 else "not known"

    def _branch(self, name: str, state: int, place: int) -> str:
        """What adds most where it was ``written``, or takes most away where it was ``erased``."""
        if state == 0:
            return "embeddings"
        point = self.sums.blocks[state]
        added = self._parts(name, state, place)[1:] * (1 if name == "written" else -1)
        if np.isnan(added).any():
            return "not known"
        most = PARTS[1:][int(added.argmax())]
        if most != "rest":
            return most
        known = {f"{point}.{branch}" for branch in PARTS[1:3]} <= set(self.sums.layers)
        return "norms" if known and self.placement == "post" else "not known"

    def _positive(self, point: str, place: int) -> tuple[float, float, float]:
        values = self.sums.sums[f"values/{point}"][..., place].sum(1)
        found = ratio(values[:, 2], values[:, 1])
        low, high = found.interval(share=True)
        return float(found.value), float(low), float(high)

    def _norm(self, place: int) -> tuple[str, float | None]:
        shares = {
            name: float(self.share_largest(name).value[place])
            for name in self.sums.norms
            if f"largest_share/{name}" in self.sums.sums
        }
        known = {name: share for name, share in shares.items() if np.isfinite(share)}
        if not known:
            return "", None
        most = max(known, key=lambda name: known[name])
        return most, known[most]

    def share(self, point: str) -> LeftOut:
        """Share of each dimension in what the norm at a point divides by, mean over tokens [k]."""
        tokens = self.sums.sums["tokens"].sum(1)
        return ratio(self.sums.sums[f"share/{point}"].sum(1), tokens[:, None])

    def share_largest(self, point: str) -> LeftOut:
        """The largest share of a sequence, on average [k]."""
        return ratio(self.sums.sums[f"largest_share/{point}"], self.sums.sums["sequences"][:, None])

    def tables(self) -> dict[str, pa.Table | Mapping[str, Any]]:
        """Tidy rows, and tables of lives, kinds of tokens, and the tokens with largest values."""
        found: dict[str, Any] = {
            "stats": self._stats(),
            "lifecycle": pa.Table.from_pylist([asdict(life) for life in self.lives.values()]),
            "lifecycle_kinds": self.kinds_table(),
            "lifecycle_tokens": self.tokens_table(),
        }
        return found if self.maps is None else {**found, "hidden_maps": self.maps}

    def _stats(self) -> pa.Table:
        rows, sums = TidyRows(), self.sums
        tokens = int(sums.sums["tokens"].sum())

        def add(
            statistic: str,
            point: str,
            found: LeftOut,
            dims: Sequence[int] | None = sums.dims,
            *,
            share: bool = False,
        ) -> None:
            low, high = found.interval(share=share)
            reasons = np.where(np.isfinite(found.value), "", "nonfinite values")
            rows.add(
                statistic, found.value, point=point, layer=sums.layers[point], selection="all",
                n=tokens, dims=dims, low=low, high=high, reason=reasons,
            )  # fmt: skip

        for point in sums.states:
            add("spike", point, self._spikes[point], None)
            add("spike_times", point, self._times[point], None)
        for point in sums.states:
            values = sums.sums[f"values/{point}"].sum(1)  # [K, 3, k]
            add("positive_squares", point, ratio(values[:, 2], values[:, 1]), share=True)
            if f"written/{point}" in sums.sums:
                parts = self.parts("written", point)
                for place, name in enumerate(PARTS):
                    one = LeftOut(parts.value[:, place], parts.without[..., place], parts.used)
                    add(f"from_{name}", point, one)
        for point in sums.norms:
            add("denominator_share", point, self.share(point), share=True)
            add("denominator_share_largest", point, self.share_largest(point), share=True)
        return rows.table()

    def kinds_table(self) -> pa.Table:
        """By dimension, state and kind of token: mean |h|, and share of the sum of h^2."""
        sums, rows = self.sums, []
        tokens = sums.sums["tokens"]
        there = np.flatnonzero(tokens.sum(0))
        for point in sums.states:
            values = sums.sums[f"values/{point}"]  # [K, C, 3, k]
            means = ratio(values[:, :, 0], tokens[..., None])
            squares = values[:, :, 1]
            shares = ratio(squares, squares.sum(1, keepdims=True))
            ends = means.interval(), shares.interval(share=True)
            for place, dim in enumerate(sums.dims):
                rows += [
                    {
                        "dim": dim,
                        "point": point,
                        "layer": sums.layers[point],
                        "kind": sums.kinds[kind],
                        "tokens": int(tokens[:, kind].sum()),
                        "mean_abs": means.value[kind, place],
                        "low": ends[0][0][kind, place],
                        "high": ends[0][1][kind, place],
                        "squares": shares.value[kind, place],
                        "squares_low": ends[1][0][kind, place],
                        "squares_high": ends[1][1][kind, place],
                    }
                    for kind in there
                ]
        return pa.Table.from_pylist(rows)

    def tokens_table(self) -> pa.Table:
        """The tokens at which each dimension is largest, by state, with what stands around them."""
        rows = [
            {
                "dim": dim,
                "point": point,
                "layer": self.sums.layers[point],
                "rank": rank,
                "value": token.value,
                "id": token.id,
                "token": self.labels[token.id],
                "text": self.decode([token.id]),
                "unit": token.document // UNIT_DOCUMENTS,
                "document": token.document % UNIT_DOCUMENTS,
                "offset": token.offset,
                "position": token.position,
                "before": self.decode(list(token.before)),
                "after": self.decode(list(token.after)),
            }
            for place, dim in enumerate(self.sums.dims)
            for point in self.sums.states
            for rank, token in enumerate(self.sums.extremes.tokens(point, place), 1)
        ]
        return pa.Table.from_pylist(rows)

    def headline(self) -> list[str]:
        """The lives of those that stand out most, in a sentence each."""
        return in_words(list(self.lives.values()))

    def cautions(self) -> list[str]:
        """Values that are not finite, intervals that are missing, branches that are not known."""
        sums = self.sums
        bad = int(sum(sums.sums[f"nonfinite/{name}"].sum() for name in sums.states))
        said = (
            [
                f"The largest value of a sequence is NaN or infinite {counted(bad, 'time')}, over "
                "dimensions, states and sequences: sizes of these dimensions are not known there, "
                "nor are shares of norms that take such a token."
            ]
            if bad
            else []
        )
        said += few_blocks(int((sums.sums["sequences"] > 0).sum()))
        unknown = [
            point
            for point in sums.blocks[1:]
            if not {f"{point}.attention", f"{point}.mlp"} <= set(sums.layers)
        ]
        if unknown:
            said.append(
                f"What the branches add is not known in {counted(len(unknown), 'block')} of "
                f"{len(sums.blocks) - 1}: no modules were found there whose outputs add up to it."
            )
        return said
