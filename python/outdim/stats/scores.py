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


def weighted(metric: str, predicted: NDArray[Any], truth: NDArray[Any], weights: Floats) -> Floats:
    """The metric for each row of ``weights`` [B, N]: float64 [B].

    Integers count how often an item stands; the sum of a row must not be 0.
    """
    return _WEIGHTED[metric](predicted, truth, weights)


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


def _pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    return _correlation(
        np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape), weights
    )


def _spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    return _correlation(_ranks(x, weights), _ranks(y, weights), weights)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mid-ranks [B, N] of items that stand as often as their weights [B, N]."""
    order = np.argsort(values, kind="stable")
    _, starts, which = np.unique(values[order], return_index=True, return_inverse=True)
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(mass, axis=1) - mass / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, which]
    return ranks


def _correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's r of rows [B, N], NaN where one of them is constant."""
    share = weights / weights.sum(1, keepdims=True)
    x, y = (v - (share * v).sum(1, keepdims=True) for v in (x, y))
    xx, yy, xy = ((share * a * b).sum(1) for a, b in ((x, x), (y, y), (x, y)))
    return _over(xy, np.sqrt(xx * yy), np.nan)


def _over(top: Floats, bottom: Floats, otherwise: float) -> Floats:
    found: Floats = np.full_like(top, otherwise)
    np.divide(top, bottom, out=found, where=bottom > 0)
    return found


_WEIGHTED: dict[str, Callable[[NDArray[Any], NDArray[Any], Floats], Floats]] = {
    "acc": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}
_OF_SCORES = ("pearson", "spearman")
