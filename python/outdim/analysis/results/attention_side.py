"""What heads attend to, intact or ablated: statistics of merged sums, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from outdim.analysis.table import SELECTIONS
from outdim.ops.layout import COMOMENTS_BASE, covariates_of
from outdim.stats import PointComoments
from outdim.stats.head_sums import SINKS, HeadSums
from outdim.stats.jackknife import LeftOut, pearson, ratio
from outdim.stats.proportions import change_interval, share_interval
from outdim.tokens import GROUPS

Floats = NDArray[np.float64]

#: A head is vertical where a larger share of the sequences is; surely, where all its interval is.
MOST = 0.5
_OF_SEQUENCES = ("vertical", "sink")  # shares of them: counts, which may be all or none
#: Groups of the queries of each selection.
QUERIES = {name: SELECTIONS[name].groups for name in ("text", "all")}


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
        yield "vertical", "", "", usable.sum(0), self.vertical
        yield "value_ratio", "", "", valued.sum(0), ratio(self.array("value_ratio"), valued)
        long = sequences[:, 1, None, None]
        for k in range(SINKS):
            found = ratio(self.array("sinks")[..., k], long)
            yield "sink", f"position {k + 1}", "", long.sum(0), found
        for selection, groups in QUERIES.items():
            index = [GROUPS.index(group) for group in groups]
            n = queries[:, index].sum(1)
            entropy = self.array("entropy")[:, index].sum(1)
            yield "entropy", "", selection, n.sum(0), ratio(entropy, n[:, None, None])

    def shares(self, selection: str, place: int) -> LeftOut:
        """Share of the attention of the queries of a selection that goes to a place: [L, H]."""
        index = [GROUPS.index(group) for group in QUERIES[selection]]
        n = self.array("queries")[:, index].sum(1)
        return ratio(self.array("mass")[..., place][:, index].sum(1), n[:, None, None])

    @cached_property
    def vertical(self) -> LeftOut:
        """Share of sequences [L, H] in which a head is vertical."""
        return ratio(self.array("vertical"), self.array("usable")[..., 0])

    @cached_property
    def vertical_interval(self) -> tuple[Floats, Floats]:
        """Its interval, two times [L, H]."""
        return self.interval("vertical", self.array("usable")[..., 0].sum(0), self.vertical)

    @property
    def is_vertical(self) -> NDArray[np.bool_]:
        """Whether a head is in most sequences [L, H]."""
        return np.asarray(self.vertical.value > MOST)

    @property
    def surely_vertical(self) -> NDArray[np.bool_]:
        """Whether all of its interval says so [L, H]; nowhere where there is no interval."""
        return np.asarray(self.vertical_interval[0] > MOST)

    @property
    def documents(self) -> int:
        """How many there are, of two tokens or more."""
        return int(self.array("sequences")[:, 2].sum())

    def interval(self, name: str, n: Floats, found: LeftOut) -> tuple[Floats, Floats]:
        """The interval of a statistic of `of_heads`, of n sequences where it is a share of them."""
        if name in _OF_SEQUENCES:
            return share_interval(found, n, np.minimum(self.documents, n))
        return found.interval()

    def change(self, name: str, n: Floats, change: LeftOut) -> tuple[Floats, Floats]:
        """The interval of what a statistic is here less what it is of another model."""
        if name in _OF_SEQUENCES:
            return change_interval(change, np.minimum(self.documents, n))
        return change.interval()

    @property
    def ids(self) -> NDArray[np.int64]:
        """The token ids that occur."""
        return np.asarray(self.sums.tokens.keys.numpy()[:, 0])

    def top(self, index: int, head: int) -> tuple[int, float, float]:
        """On which id a head is vertical most often, in which share of those cases.

        And in which share of all of them the key stands at the first position of its sequence.
        """
        keys, sums = self.sums.tops.keys.numpy(), self.sums.tops.sums.numpy()
        if keys.shape[1] < 3:
            return -1, np.nan, np.nan
        mine = (keys[:, 0] == index) & (keys[:, 1] == head)
        if not mine.any():
            return -1, np.nan, np.nan
        best = int(np.argmax(np.where(mine, sums[:, 0], -1)))
        total, first = sums[mine].sum(0)
        return int(keys[best, 2]), float(sums[best, 0] / total), float(first / total)


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
