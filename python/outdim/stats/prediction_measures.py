"""Measures of how often tokens are predicted, and of what raises the logits of frequent ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.stats.jackknife import LeftOut, ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Of the counted tokens, at either end.
DECILE = 0.1
#: Rows of `read_out`.
READ_OUT = ("frequent", "rare", "unseen", "spearman")
#: Of `frequency_measures`, in this order.
FREQUENCY = (
    "mean_log_frequency",
    "types",
    "entropy",
    "unseen_share",
    "slope",
    "log_slope",
    "spearman",
)
#: Those of them that are means over places.
OF_PLACES = ("mean_log_frequency", "unseen_share")
_ROWS, _COLUMNS = 8192, 64  # of the output layer at a time


def frequency_measures(counts: Floats, frequency: Floats, whole: float) -> Floats:
    """Measures of predicted tokens, [K, S]; NaN where there is nothing to measure.

    With n_v the count of token v among N predictions, f_v that in a corpus, and T the tokens with
    n_v > 0 and f_v > 0:

        mean_log_frequency  sum n_v log(1 + f_v) / N
        types               number of v with n_v > 0
        entropy             -sum (n_v / N) log(n_v / N), in nats
        unseen_share        share of predictions with f_v = 0
        slope               of n_v / N on f_v / F over T by least squares, F the sum of all f
        log_slope           of log n_v on log f_v over T by least squares
        spearman            rank correlation of n_v and f_v over T

    ``slope`` and ``spearman`` are those of Macocco et al. 2025 as their code has them: frequencies
    as they are, of the tokens that are predicted. A line through raw frequencies is decided by the
    most frequent few; ``log_slope`` lets every token weigh alike.

    Args:
        counts: n, float64 [S, U].
        frequency: f of these tokens, float64 [U].
        whole: F.

    Example:
        >>> n, f = np.array([[8.0, 4.0, 0.0]]), np.array([80.0, 40.0, 20.0])
        >>> frequency_measures(n, f, 140.0)[4:, 0].round(3).tolist()
        [1.167, 1.0, 1.0]
    """
    found = np.full((len(FREQUENCY), len(counts)), np.nan)
    for series, own in enumerate(counts):
        total = own.sum()
        if total > 0:
            found[:, series] = _measures(own, frequency, total, whole)
    return found


def _measures(own: Floats, frequency: Floats, total: float, whole: float) -> list[float]:
    from scipy.stats import entropy

    there = own > 0
    p, f = own[there] / total, frequency[there]
    both = f > 0
    x, y = f[both], p[both]
    return [
        float(p @ np.log1p(f)),
        float(there.sum()),
        float(entropy(p)),
        float(p[~both].sum()),
        _slope(x, y) * whole,
        _slope(np.log(x), np.log(y)),
        _rho(x, y),
    ]


def _slope(x: Floats, y: Floats) -> float:
    from scipy.stats import linregress

    return float(linregress(x, y).slope) if _varies(x) else np.nan


def _rho(x: Floats, y: Floats) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic) if _varies(x) and _varies(y) else np.nan


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool(np.ptp(values) > 0)


def measured(counts: Floats, frequency: Floats, whole: float) -> LeftOut:
    """`frequency_measures` [K, S] of counts by block [B, S, U], and without each block."""
    total = counts.sum(0)
    value = frequency_measures(total, frequency, whole)
    used = counts.sum((1, 2)) > 0
    without = np.repeat(value[None], len(counts), 0)
    for block in used.nonzero()[0]:
        without[block] = frequency_measures(total - counts[block], frequency, whole)
    return LeftOut(value, without, used, counts.sum(2)[:, None] > 0)


def by_other_blocks(counts: Floats, others: Floats) -> dict[str, LeftOut]:
    """Measures `OF_PLACES`, [S] each, by what is counted in other blocks.

    By counts of the text itself a true token is frequent for being there: it is counted at least
    once, what is predicted in its place need not be. So with f_bv the count of v in the text but
    for block b:

        mean_log_frequency  sum_b n_bv log(1 + f_bv) / N
        unseen_share        share of predictions with f_bv = 0

    Args:
        counts: n by block, float64 [B, S, U].
        others: f, float64 [B, U]. NaN where nothing is counted in other blocks.

    Example:
        >>> n = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])  # true: token 0
        >>> by_other_blocks(n, np.array([[1.0, 0.0], [1.0, 0.0]]))["unseen_share"].value.tolist()
        [0.0, 1.0]
    """
    judged = np.isfinite(others)
    own = np.where(judged[:, None], counts, 0.0)
    values = np.log1p(np.where(judged, others, 0.0)), (others == 0).astype(float)
    return {
        name: ratio(np.einsum("bsu,bu->bs", own, value), own.sum(2))
        for name, value in zip(OF_PLACES, values, strict=True)
    }


class Classes(NamedTuple):
    """How much every token belongs to the frequent and the rare ones, float64 [V] each.

    Attributes:
        frequent: Its share in the most frequent tenth of the tokens that were counted.
        rare: Its share in the rarest tenth of them.
        unseen: 1 where it was never counted.
        tokens: How many tokens a tenth has; not a whole number in general.
    """

    frequent: Floats
    rare: Floats
    unseen: Floats
    tokens: float


def frequency_classes(counts: Ints, special: NDArray[np.bool_]) -> Classes:
    """The most frequent and the rarest tenth of the tokens that were counted.

    Of tokens with the same count, as the many that occur once, no one is rarer than another: where
    only some of them would fill a tenth, all belong to it by that share, which is what breaking
    ties at random gives on average.

    Args:
        counts: int64 [V].
        special: bool [V]: tokens that stand for no text and are in no class.

    Example:
        >>> found = frequency_classes(np.array([0, 9, 5, 1, 1]), np.zeros(5, bool))
        >>> found.frequent.tolist(), found.rare.tolist(), found.tokens
        ([0.0, 0.4, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.2, 0.2], 0.4)
    """
    counted = (counts > 0) & ~special
    of_counted = counts[counted]
    size = DECILE * len(of_counted)
    ordered = np.sort(of_counted)
    below = np.searchsorted(ordered, of_counted, side="left")
    upto = np.searchsorted(ordered, of_counted, side="right")
    found = np.zeros((2, len(counts)))
    for row, before in zip(found, (len(ordered) - upto, below), strict=True):
        row[counted] = np.clip((size - before) / (upto - below), 0, 1)
    return Classes(found[0], found[1], ((counts == 0) & ~special).astype(float), size)


def read_out(weight: Tensor, counts: Ints, special: NDArray[np.bool_]) -> Tensor:
    """What the output layer [V, D] gives frequent and rare tokens, float64 [4, D].

    Rows, as in `READ_OUT`: the mean of each column over the frequent, the rare and the unseen
    tokens (`frequency_classes`), NaN where a class is empty; and Spearman's rho of each column with
    the counts, over the tokens that were counted.
    """
    classes = frequency_classes(counts, special)
    shares = torch.from_numpy(np.stack(classes[:3]))
    total = torch.zeros(3, weight.shape[1], dtype=torch.float64)
    for start in range(0, len(weight), _ROWS):
        part = weight[start : start + _ROWS].cpu().double()
        total += shares[:, start : start + _ROWS] @ part
    means = total / shares.sum(1, keepdim=True)
    counted = np.flatnonzero((counts > 0) & ~special)
    rho = _spearman(weight, counted, counts[counted])
    return torch.cat([means, torch.from_numpy(rho)[None]])


def _spearman(weight: Tensor, ids: Ints, counts: Ints) -> Floats:
    from scipy.stats import rankdata

    found = np.full(weight.shape[1], np.nan)
    if len(ids) < 2 or np.ptp(counts) == 0:
        return found
    x = rankdata(counts)
    x -= x.mean()
    rows = torch.from_numpy(ids).to(weight.device)
    for start in range(0, len(found), _COLUMNS):
        part = weight[:, start : start + _COLUMNS][rows].double().cpu().numpy()
        y = rankdata(part, axis=0)
        y -= y.mean(0)
        size = np.sqrt((x @ x) * (y * y).sum(0))
        found[start : start + _COLUMNS] = np.where(
            size > 0, x @ y / np.where(size > 0, size, 1), np.nan
        )
    return found


class Contributions(NamedTuple):
    """What each dimension adds to mean logits, by variant; see `contributions`.

    Attributes:
        mean, size: Of h and of |h|, float64 [M, D].
        frequent, rare, unseen: Added to the mean logit of these tokens, [M, D].
        difference: ``frequent`` less ``rare``, [M, D], and without each block.
        share: Of the difference that all dimensions together make, likewise.
        moved: Mean over rows of how much the difference is moved, whichever way, [M, D].
        gap: The sum of ``difference``, [M], likewise.
    """

    mean: Floats
    size: Floats
    frequent: Floats
    rare: Floats
    unseen: Floats
    difference: LeftOut
    share: LeftOut
    moved: Floats
    gap: LeftOut


def contributions(sums: Floats, rows: Floats, columns: Floats) -> Contributions:
    """What each dimension adds to the mean logits of frequent and rare tokens.

    A logit is l_v = sum_d h_d W_vd + b_v, so the mean logit of the tokens of a class, over all
    rows, is the sum over dimensions of mean(h_d) times the class's mean of W_d, but for the bias.
    Nothing of it has to be stored but sums of h. ``moved`` is mean(|h_d|) times the size of the
    difference of the class's means: what a dimension does to single rows, even where its sign
    changes from row to row.

    Args:
        sums: Of h and |h| by block and variant, [B, M, 2, D].
        rows: How many, [B, M].
        columns: `read_out`.
    """
    per_row = rows[:, :, None]
    used, holds = rows.sum(1) > 0, rows > 0
    total, number = sums.sum(0), per_row.sum(0)
    frequent, rare, unseen = columns[:3]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, size = total[:, 0] / number, total[:, 1] / number
        without = (total[:, 0] - sums[:, :, 0]) / (number - per_row)
        difference = LeftOut(
            mean * (frequent - rare), without * (frequent - rare), used, holds[..., None]
        )
        gap = LeftOut(difference.value.sum(-1), difference.without.sum(-1), used, holds)
        share = LeftOut(
            difference.value / gap.value[..., None],
            difference.without / gap.without[..., None],
            used,
            holds[..., None],
        )
    return Contributions(
        mean,
        size,
        mean * frequent,
        mean * rare,
        mean * unseen,
        difference,
        share,
        size * np.abs(frequent - rare),
        gap,
    )
