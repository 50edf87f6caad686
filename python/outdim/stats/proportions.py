"""Intervals of shares, also of 0 and 1, where a jackknife has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from outdim.stats.jackknife import Floats, LeftOut

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_NORMAL = 1.959963984540054  # 97.5 % quantile


def proportion_interval(count: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """The 95 % interval of Clopper and Pearson 1934 for ``count`` of n; no normal approximation.

    >>> [round(float(end), 4) for end in proportion_interval(0, 100)]
    [0.0, 0.0362]
    """
    from scipy.special import betaincinv

    count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
    with np.errstate(invalid="ignore"):
        low = np.where(count > 0, betaincinv(count, n - count + 1, 0.025), count)
        high = np.where(count < n, betaincinv(count + 1, n - count, 0.975), count / n)
    return low, high


def share_interval(found: LeftOut, draws: Floats, documents: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of a share of sequences, which come in documents; NaN with few blocks.

    Clopper and Pearson's for so many independent sequences as would have the jackknife's interval
    (Korn and Graubard 1998); where all sequences agree, which has no spread, for the documents.

    Args:
        found: The share, blocks left out.
        draws: Sequences, in the shape of the share.
        documents: Of how many documents they are.
    """
    low, high = found.interval()
    p, reach = found.value, (high - low) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        alike = np.minimum(p * (1 - p) * (_NORMAL / reach) ** 2, draws)
    n = np.where(np.isnan(reach), np.nan, np.where((p > 0) & (p < 1), alike, documents))
    return proportion_interval(p * n, n)


def change_interval(change: LeftOut, documents: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval of a difference of two such shares of the same sequences, in [-1, 1].

    The jackknife's; where all documents change alike, which has no spread, Clopper and Pearson's
    for the share of documents that do.

    Args:
        change: The difference, blocks left out.
        documents: How many, in its shape.
    """
    low, high = change.interval()
    least, most = proportion_interval(np.abs(change.value) * documents, documents)
    least, most = (
        np.where(change.value > 0, least, -most),
        np.where(change.value < 0, -least, most),
    )
    flat = high - low < 1e-9
    low, high = np.where(flat, least, low), np.where(flat, most, high)
    return np.clip(low, -1, 1), np.clip(high, -1, 1)
