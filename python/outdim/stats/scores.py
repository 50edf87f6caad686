"""Metrics of predictions, and the same for many weightings of the items at once.

Names are those of lm-evaluation-harness: ``acc``, ``f1`` (of label 1), ``mcc``, ``pearson``,
``spearman``. The values are scikit-learn's and SciPy's; `weighted` gives what these would for items
that stand as often as their weights say, which a bootstrap of thousands of draws needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outdim.errors import BackendError

Floats = NDArray[np.float64]

#: Metric -> what it is, for people.
LABELS = {
    "acc": "accuracy",
    "f1": "F1",
    "mcc": "Matthews' correlation",
    "pearson": "Pearson's r",
    "spearman": "Spearman's ρ",
}

#: Means over items that small changes move, where labels and ranks often stay what they were:
#: the loss, and the probability of the right label.
SMOOTH = ("loss", "probability")


def score(metric: str, predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """A metric of predictions: labels int64 [N], or scores float64 [N].

    NaN where it is not defined: a correlation of what is constant.
    """
    if metric in _OF_SCORES:
        from scipy import stats

        if len(truth) < 2 or not (np.ptp(predicted) > 0 and np.ptp(truth) > 0):
            return float("nan")
        of = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric]
        return float(of(predicted, truth).statistic)
    try:
        from sklearn import metrics
    except ImportError as error:
        raise BackendError(
            "scikit-learn: metrics of labels need it; install it with `pip install 'outdim[glue]'`"
        ) from error
    if metric == "f1":
        return float(metrics.f1_score(truth, predicted, zero_division=0.0))
    of = {"acc": metrics.accuracy_score, "mcc": metrics.matthews_corrcoef}[metric]
    return float(of(truth, predicted))


def smooth(metric: str, outputs: NDArray[np.float32], truth: NDArray[Any]) -> Floats:
    """One of `SMOOTH` of every item, float64 [N], of outputs [N, C].

    The loss is that of fine-tuning: in nats of the right label, the squared error of a score.

    >>> smooth("loss", np.float32([[0, 0]]), np.array([1])).round(3)
    array([0.693])
    >>> smooth("loss", np.float32([[3]]), np.array([1.0]))
    array([4.])
    """
    from scipy.special import log_softmax

    wide = outputs.astype(np.float64)
    if np.issubdtype(truth.dtype, np.floating):
        error: Floats = (wide[:, 0] - truth) ** 2
        return error
    right = log_softmax(wide, axis=1)[np.arange(len(truth)), truth]
    found: Floats = -right if metric == "loss" else np.exp(right)
    return found


def weighted(metric: str, predicted: NDArray[Any], truth: NDArray[Any], weights: Floats) -> Floats:
    """The metric for each row of ``weights`` [B, N]: float64 [B].

    Integers count how often an item stands; the sum of a row must not be 0.
    """
    return weighted_each(metric, predicted[None], truth, weights)[:, 0]


def weighted_each(
    metric: str, predicted: NDArray[Any], truth: NDArray[Any], weights: Floats
) -> Floats:
    """`weighted` of each of V variants, ``predicted`` [V, N]: float64 [B, V].

    What the correlations need of the truth is computed once: about 0.03 s a variant for 1,500 items
    and 2,000 draws.
    """
    if metric in _OF_SCORES:
        return {"pearson": _pearson, "spearman": _spearman}[metric](predicted, truth, weights)
    return np.stack([_OF_LABELS[metric](one, truth, weights) for one in predicted], axis=1)


def _accuracy(predicted: NDArray[Any], truth: NDArray[Any], weights: Floats) -> Floats:
    found: Floats = weights @ (predicted == truth).astype(np.float64) / weights.sum(1)
    return found


def _f1(predicted: NDArray[Any], truth: NDArray[Any], weights: Floats) -> Floats:
    both = weights @ ((predicted == 1) & (truth == 1)).astype(np.float64)
    either = weights @ ((predicted == 1).astype(np.float64) + (truth == 1))
    return _over(2 * both, either, 0.0)


def _mcc(predicted: NDArray[Any], truth: NDArray[Any], weights: Floats) -> Floats:
    """Gorodkin's R_K, which for two labels is Matthews' correlation; 0 where it is 0 / 0."""
    size = int(max(predicted.max(), truth.max())) + 1
    hit = weights @ (predicted == truth).astype(np.float64)
    said, true = (weights @ np.eye(size)[which] for which in (predicted, truth))
    n = weights.sum(1)
    scale = (n * n - (said * said).sum(1)) * (n * n - (true * true).sum(1))
    top = hit * n - (said * true).sum(1)
    return _over(top, np.sqrt(scale), 0.0)


def _pearson(x: NDArray[Any], y: NDArray[Any], weights: Floats) -> Floats:
    """Pearson's r [B, V] of the rows of x [V, N], from sums about the plain means."""
    n = weights.sum(1, keepdims=True)
    x, y = x - x.mean(1, keepdims=True), (y - y.mean())[None]
    (sx, xx), (sy, yy) = ((weights @ v.T, weights @ (v * v).T) for v in (x, y))
    squares = [total - first * first / n for first, total in ((sx, xx), (sy, yy))]
    # What is left of a constant after rounding is no spread.
    for square, total in zip(squares, (xx, yy), strict=True):
        square[square <= 1e-14 * total] = 0
    return _over(weights @ (x * y).T - sx * sy / n, np.sqrt(squares[0] * squares[1]), np.nan)


def _spearman(x: NDArray[Any], y: NDArray[Any], weights: Floats) -> Floats:
    """Spearman's rho [B, V] of the rows of x [V, N]."""
    found = np.empty((len(weights), len(x)))
    orders, of_truth = [_Order(one) for one in x], _Order(y)
    step = max(1, _CELLS // len(y))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        mass = np.ascontiguousarray(weights[rows].T)
        weighed = mass * of_truth.ranks(mass)
        yy = of_truth.square(mass)
        for v, order in enumerate(orders):
            by_value = order.groups(mass)
            ranks = _middles(by_value)
            xy = (ranks * order.groups(weighed)).sum(0)
            xx = (by_value * ranks * ranks).sum(0)
            found[rows, v] = _over(xy, np.sqrt(xx * yy), np.nan)
    return found


class _Order:
    """Values [N] in order, equal ones as one group."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._order = np.argsort(values, kind="stable")
        _, self._starts, self._which = np.unique(
            values[self._order], return_index=True, return_inverse=True
        )

    def groups(self, rows: Floats) -> Floats:
        """Sums by group [G, B] of rows [N, B]."""
        ordered = rows[self._order]
        if len(self._starts) == len(self._order):
            return ordered
        return np.add.reduceat(ordered, self._starts, axis=0)

    def ranks(self, mass: Floats) -> Floats:
        """Mid-ranks [N, B], less their mean, of items that stand as often as ``mass`` [N, B]."""
        found = np.empty_like(mass)
        found[self._order] = _middles(self.groups(mass))[self._which]
        return found

    def square(self, mass: Floats) -> Floats:
        """The sum of their squares [B]."""
        by_value = self.groups(mass)
        found: Floats = (by_value * _middles(by_value) ** 2).sum(0)
        return found


def _middles(mass: Floats) -> Floats:
    """The middle rank of each of G groups in order [G, B], less the mean rank.

    Half numbers, so that what is constant has exactly 0.
    """
    ranks = np.cumsum(mass, axis=0)
    whole = ranks[-1].copy()
    ranks -= mass / 2
    ranks -= whole / 2
    return ranks


def _over(top: Floats, bottom: Floats, otherwise: float) -> Floats:
    found: Floats = np.full_like(top, otherwise)
    np.divide(top, bottom, out=found, where=bottom > 0)
    return found


_OF_LABELS: dict[str, Callable[[NDArray[Any], NDArray[Any], Floats], Floats]] = {
    "acc": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
}
_OF_SCORES = ("pearson", "spearman")
_CELLS = 1 << 18  # items times draws at a time: 2 MB, which stays in the cache
