"""What `lifecycle` found: the lives of dimensions, and the tokens at which they are large."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.life_sums import PARTS, LifeSums
from outdim.analysis.results.cautions import few_blocks
from outdim.analysis.results.life import Course, Life, Rise
from outdim.analysis.results.lives_tables import tables
from outdim.analysis.results.lives_words import in_words
from outdim.analysis.step import Result
from outdim.analysis.table import Statistic, define
from outdim.stats.jackknife import MIN_BLOCKS, LeftOut, ratio
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
        decode: Makes texts of lists of ids, every blank kept.
        maps: Hidden states of the sentences, as `outdim.analysis.hidden_maps` has them.
    """

    sums: LifeSums
    placement: str
    labels: Sequence[str]
    decode: Callable[[list[list[int]]], list[str]]
    maps: pa.Table | None = None

    @cached_property
    def lives(self) -> dict[int, Life]:
        """The life of each dimension."""
        return {dim: self._life(place) for place, dim in enumerate(self.sums.dims)}

    @cached_property
    def spikes(self) -> dict[str, LeftOut]:
        """Largest |h| of a sequence, on average, of every dimension, by state."""
        return {name: self.sums.spike(name) for name in self.sums.states}

    @cached_property
    def times(self) -> dict[str, LeftOut]:
        """The same over that of the median dimension."""
        return {name: self.sums.times(name) for name in self.sums.states}

    def _life(self, place: int) -> Life:
        sums, dim = self.sums, self.sums.dims[place]
        states = sums.blocks
        size, times = (
            np.stack([found[name].value[dim] for name in states])
            for found in (self.spikes, self.times)
        )
        course = Course.of(size, times)
        peak = states[course.peak]
        most, low, high = _one(self.spikes[peak], dim)
        over, over_low, over_high = _one(self.times[peak], dim)
        kind, kind_share, kind_low, kind_high = self._kind(peak, place)
        positive, positive_low, positive_high = _one(self.positive(peak), place, share=True)
        norm, norm_share, norm_low, norm_high = self._norm(place)
        final = "final_norm" if "final_norm" in sums.states else None
        return Life(
            dim=dim,
            rises=tuple(self._rise(*rise, place) for rise in course.rises),
            agreement=self._agreement(course, dim),
            peak=course.peak,
            size=most,
            low=low,
            high=high,
            times=over,
            times_low=over_low,
            times_high=over_high,
            plateau=course.plateau,
            fell=course.fell,
            fall_branch=self._fall_branch(course, place),
            size_final=None if final is None else float(self.spikes[final].value[dim]),
            times_final=None if final is None else float(self.times[final].value[dim]),
            kind=kind,
            kind_share=kind_share,
            kind_low=kind_low,
            kind_high=kind_high,
            positive=positive,
            positive_low=positive_low,
            positive_high=positive_high,
            norm=norm,
            norm_share=norm_share,
            norm_low=norm_low,
            norm_high=norm_high,
        )

    def _agreement(self, course: Course, dim: int) -> float:
        """Share of the samples without one block that have the same birth."""
        states = self.sums.blocks
        used = self.spikes[states[0]].used
        size, times = (
            np.stack([found[name].without[used, dim] for name in states], 1)
            for found in (self.spikes, self.times)
        )
        if used.sum() < 2:
            return float("nan")
        born = [layer for layer, *_ in course.rises[:1]]
        found = [Course.of(*one).rises[:1] for one in zip(size, times, strict=True)]
        return float(np.mean([[layer for layer, *_ in rises] == born for rises in found]))

    def parts(self, name: str, point: str) -> LeftOut:
        """``written`` or ``erased`` at a block, on average over sequences: [k, 4], see `PARTS`."""
        return ratio(self.sums.sums[f"{name}/{point}"], self.sums.sums["sequences"][:, None, None])

    def _rise(self, state: int, factor: float, last: int, place: int) -> Rise:
        dim, states = self.sums.dims[place], self.sums.blocks
        point = states[state]
        size = _one(self.spikes[point], dim)
        top = last, float(self.spikes[states[last]].value[dim])
        if not state:
            unknown = (np.nan, np.nan, np.nan, np.nan)
            return Rise(0, factor, "embeddings", *unknown, *size, np.nan, *size, *top)
        before = float(self.spikes[states[state - 1]].value[dim])
        parts = self.parts("written", point)
        most = 1 + _most(parts.value[place, 1:])
        took, attention, mlp, rest = parts.value[place].tolist()
        return Rise(
            state, factor, self._branch("written", state, place), took, attention, mlp, rest,
            *_one(parts, (place, most)), before, *size, *top,
        )  # fmt: skip

    def _fall_branch(self, course: Course, place: int) -> str:
        """What takes most away at the fall, see `Life`."""
        if course.fell is not None:
            return self._branch("erased", course.fell, place)
        return "" if course.plateau[1] == len(self.sums.blocks) - 1 else "not known"

    def _branch(self, name: str, state: int, place: int) -> str:
        """What adds most where it was ``written``, or takes most away where it was ``erased``."""
        point = self.sums.blocks[state]
        added = self.parts(name, point).value[place, 1:] * (1 if name == "written" else -1)
        if np.isnan(added).any():
            return "not known"
        most = PARTS[1:][_most(added)]
        if most != "rest":
            return most
        known = {f"{point}.{branch}" for branch in PARTS[1:3]} <= set(self.sums.layers)
        return "norms" if known and self.placement == "post" else "not known"

    def positive(self, point: str) -> LeftOut:
        """Share of the sum of h^2 where h > 0, [k]."""
        values = self.sums.sums[f"values/{point}"].sum(1)  # [K, 3, k]
        return ratio(values[:, 2], values[:, 1])

    def kind_shares(self, point: str) -> tuple[Floats, Floats, Floats]:
        """Share of the sum of h^2 by kind of token, with the ends of its interval, [C, k] each.

        A kind that stands in fewer blocks of documents than an interval needs has none.
        """
        squares = self.sums.sums[f"values/{point}"][:, :, 1]
        found = ratio(squares, squares.sum(1, keepdims=True))
        few = (self.sums.sums["tokens"] > 0).sum(0) < MIN_BLOCKS
        low, high = (np.where(few[:, None], np.nan, end) for end in found.interval(share=True))
        return found.value, low, high

    def _kind(self, point: str, place: int) -> tuple[str, float, float, float]:
        """The kind of tokens with the largest share, and that; "" where none is known."""
        value, low, high = (part[:, place] for part in self.kind_shares(point))
        if np.isnan(value).all():
            return "", np.nan, np.nan, np.nan
        most = int(np.nanargmax(value))
        return self.sums.kinds[most], float(value[most]), float(low[most]), float(high[most])

    def _norm(self, place: int) -> tuple[str, float | None, float | None, float | None]:
        shares = {
            name: _one(self.share_largest(name), place, share=True)
            for name in self.sums.norms
            if f"largest_share/{name}" in self.sums.sums
        }
        known = [name for name, share in shares.items() if np.isfinite(share[0])]
        if not known:
            return "", None, None, None
        most = max(known, key=lambda name: shares[name][0])
        return most, *shares[most]

    def share(self, point: str) -> LeftOut:
        """Share of each dimension in what the norm at a point divides by, mean over tokens [k]."""
        tokens = self.sums.sums["tokens"].sum(1)
        return ratio(self.sums.sums[f"share/{point}"].sum(1), tokens[:, None])

    def share_largest(self, point: str) -> LeftOut:
        """The largest share of a sequence, on average [k]."""
        return ratio(self.sums.sums[f"largest_share/{point}"], self.sums.sums["sequences"][:, None])

    def tables(self) -> dict[str, pa.Table | Mapping[str, Any]]:
        """Tidy rows, and tables of lives, kinds of tokens, and the tokens with largest values."""
        return tables(self)

    def account(self) -> dict[str, Any]:
        """How much the lives are of."""
        tokens, sequences = (int(self.sums.sums[name].sum()) for name in ("tokens", "sequences"))
        return {"tokens": {"lifecycle": tokens, "lifecycle_sequences": sequences}}

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


def _most(added: Floats) -> int:
    """Which adds most, of those that are known; the first where none is."""
    return int(np.nan_to_num(added, nan=-np.inf).argmax())


def _one(found: LeftOut, index: Any, *, share: bool = False) -> tuple[float, float, float]:
    """One value with the ends of its interval."""
    low, high = found.interval(share=share)
    return float(found.value[index]), float(low[index]), float(high[index])
