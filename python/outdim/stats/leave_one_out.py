"""What a read-out of vectors is without each of its dimensions, from the vectors alone.

With dimension d set to zero in both vectors, their cosine is

    cos_d(a, b) = sum_{j != d} a_j b_j / sqrt(sum_{j != d} a_j^2  sum_{j != d} b_j^2)

so that all D of them follow from one pass over the vectors: no model is run again. That is exactly
what an ablation gives wherever it sets d of the vectors to zero and changes nothing else in them;
`outdim.models.pooled` says for a model which one does. An ablation in the midst of a model changes
the other dimensions as well, and that no closed form gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outdim.errors import ArgumentError
from outdim.stats.paired import Comparison, Interval, Statistic, compare, ratio
from outdim.stats.scores import weighted_each

Floats = NDArray[np.float64]

_CELLS = 1 << 20  # of vectors at a time: 8 MB
_DIGITS = 12  # of cosines that are put in an order: equal texts are equally alike


def cosines_without(left: ArrayLike, right: ArrayLike) -> Floats:
    """The cosine of N pairs of vectors without each dimension in turn, float64 [N, D].

    Sums over the other dimensions are those before and those behind, and nothing is subtracted:
    exact to rounding where one dimension is all but the whole vector. As torch's, the cosine is 0
    where nothing is left of a vector.

    >>> cosines_without([[3.0, 4.0, 0.0]], [[3.0, 0.0, 4.0]]).round(3)
    array([[0. , 0.6, 0.6]])

    Args:
        left: [N, D], finite.
        right: [N, D].

    Raises:
        ArgumentError: They are no finite matrices of one shape.
    """
    left, right = _matrix("left", left), _matrix("right", right)
    if left.shape != right.shape:
        raise ArgumentError(
            f"right: expected {left.shape} as left, a vector for each, got {right.shape}"
        )
    found = np.empty_like(left)
    step = max(1, _CELLS // max(1, left.shape[1]))
    for start in range(0, len(left), step):
        a, b = left[start : start + step], right[start : start + step]
        found[start : start + step] = _cosine(_others(a * b), _others(a * a), _others(b * b))
    return found


def ranks_without(
    queries: ArrayLike, candidates: ArrayLike, relevant: ArrayLike
) -> NDArray[np.int64]:
    """At which place each query finds its candidate by cosine, int64 [1 + D, Q], from 1 on.

    Row 0 is with all dimensions, row 1 + d without d. Where others are as similar they come first:
    what makes all alike finds nothing. A product of all pairs for each dimension, since what is
    left of one less its largest part has no digits: Q C D^2; the memory is that of a few [Q, C].

    Args:
        queries: [Q, D], finite.
        candidates: [C, D].
        relevant: Which candidate is the right one for each query, [Q].

    Raises:
        ArgumentError: No finite matrices as wide as each other, or no such candidates.
    """
    queries, candidates = _matrix("queries", queries), _matrix("candidates", candidates)
    if queries.shape[1] != candidates.shape[1]:
        raise ArgumentError(
            f"candidates: expected vectors of {queries.shape[1]} dimensions as queries, got "
            f"{candidates.shape[1]}"
        )
    right = np.asarray(relevant)
    if right.shape != (len(queries),) or not np.issubdtype(right.dtype, np.integer):
        raise ArgumentError(
            f"relevant: expected a whole number for each of {len(queries)} queries, got "
            f"{right.dtype} {right.shape}"
        )
    if outside := [one for one in right.tolist() if not 0 <= one < len(candidates)]:
        raise ArgumentError(f"relevant: expected 0 to {len(candidates) - 1}, got {outside[0]}")
    found = [_places(queries, candidates, right)]
    for d in range(queries.shape[1]):
        some, others = queries.copy(), candidates.copy()
        some[:, d] = others[:, d] = 0
        found.append(_places(some, others, right))
    return np.stack(found)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """A metric of a read-out with all of its D dimensions and without each; larger is better.

    Attributes:
        metric: "spearman", "pearson", "mrr" or "recall@K".
        items: N.
        comparison: Of 1 + D variants; variant 1 + d is without dimension d.
    """

    metric: str
    items: int
    comparison: Comparison

    @property
    def intact(self) -> float:
        """The metric with all dimensions."""
        return float(self.comparison.value.value[0])

    @property
    def value(self) -> Floats:
        """Without each dimension, [D]."""
        return self.comparison.value.value[1:]

    @property
    def difference(self) -> Interval:
        """To the intact read-out, [D]: above 0 where it is better without the dimension."""
        whole = self.comparison.difference
        return Interval(whole.value[1:], whole.low[1:], whole.high[1:])

    @property
    def family(self) -> Floats:
        """The p that any dimension would change as much by chance, [D]; see `Comparison`."""
        return self.comparison.family[1:]

    def helps(self, level: float = 0.05) -> list[int]:
        """The dimensions whose removal helps, the most first; by chance any with p < level."""
        return self._beyond(-self.difference.value, level)

    def harms(self, level: float = 0.05) -> list[int]:
        """The dimensions whose removal does harm, the most first."""
        return self._beyond(self.difference.value, level)

    def _beyond(self, key: Floats, level: float) -> list[int]:
        order = np.argsort(key, kind="stable")
        return [int(d) for d in order if key[d] < 0 and self.family[d] < level]


def leave_one_out(
    left: ArrayLike,
    right: ArrayLike,
    truth: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    metric: str = "spearman",
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> LeaveOneOut:
    """How well the cosine of text vectors follows human scores, without each dimension in turn.

    Args:
        left: Vectors of the first texts, [N, D].
        right: Of the second texts.
        truth: The scores, [N].
        clusters: Items with the same number are drawn together, [N]; None: each for itself.
        metric: "spearman" or "pearson".
        draws: Of the paired bootstrap, see `outdim.stats.paired.compare`.
        level: Of the intervals.
        seed: Of the draws.

    Raises:
        ArgumentError: Shapes or numbers that do not fit; another metric.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> left, right = rng.normal(size=(2, 200, 6))
        >>> right[:, :3] = left[:, :3]
        >>> truth = cosines_without(left, right)[:, 5]  # people do not look at dimension 5
        >>> leave_one_out(left, right, truth, draws=200).helps()
        [5]
    """
    if metric not in ("spearman", "pearson"):
        raise ArgumentError(f"metric: expected 'spearman' or 'pearson', got {metric!r}")
    without = cosines_without(left, right)
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    intact = _cosine((a * b).sum(1), (a * a).sum(1), (b * b).sum(1))
    scores = np.asarray(truth, np.float64)
    if scores.shape != (len(intact),) or not np.isfinite(scores).all():
        raise ArgumentError(
            f"truth: expected {len(intact)} finite scores, one a pair, got shape {scores.shape}"
        )
    predicted = np.concatenate([intact[None], without.T]).round(_DIGITS)

    def value(weights: Floats) -> Floats:
        return weighted_each(metric, predicted, scores, weights)

    return _compared(value, len(scores), clusters, metric, draws, level, seed)


def retrieval_without(
    queries: ArrayLike,
    candidates: ArrayLike,
    relevant: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    metric: str = "mrr",
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> LeaveOneOut:
    """How well queries find their candidates by cosine, without each dimension in turn.

    Args:
        queries: [Q, D].
        candidates: [C, D].
        relevant: Which candidate is the right one for each query, [Q].
        clusters: Queries with the same number are drawn together, [Q].
        metric: "mrr", the mean of 1 / place, or "recall@K", the share of places up to K.
        draws: Of the paired bootstrap.
        level: Of the intervals.
        seed: Of the draws.

    Raises:
        ArgumentError: Shapes or numbers that do not fit; another metric.
    """
    name, at, k = metric.partition("@")
    if metric != "mrr" and not (name == "recall" and at and k.isdecimal() and int(k) > 0):
        raise ArgumentError(f"metric: expected 'mrr' or 'recall@K', as recall@10, got {metric!r}")
    places = ranks_without(queries, candidates, relevant)
    hits = 1 / places if metric == "mrr" else (places <= int(k)).astype(np.float64)
    value = ratio(hits, np.ones(hits.shape[1]))
    return _compared(value, hits.shape[1], clusters, metric, draws, level, seed)


def _compared(
    value: Statistic,
    items: int,
    clusters: ArrayLike | None,
    metric: str,
    draws: int,
    level: float,
    seed: int,
) -> LeaveOneOut:
    which = np.arange(items) if clusters is None else np.asarray(clusters)
    if which.shape != (items,):
        raise ArgumentError(f"clusters: expected {items} numbers, one an item, got {which.shape}")
    names, cluster = np.unique(which, return_inverse=True)
    found = compare(
        lambda drawn: value(drawn[:, cluster]),
        len(names),
        worse=-1,
        draws=draws,
        level=level,
        seed=seed,
    )
    return LeaveOneOut(metric, items, found)


def _matrix(name: str, given: ArrayLike) -> Floats:
    found = np.asarray(given, np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        what = "numbers that are not finite" if found.ndim == 2 else f"shape {found.shape}"
        raise ArgumentError(f"{name}: expected finite vectors [N, D], got {what}")
    return found


def _others(terms: Floats) -> Floats:
    """Of each row the sum of all terms but one, for each one: those before and those behind."""
    found = np.zeros_like(terms)
    found[:, 1:] = np.cumsum(terms[:, :-1], axis=1)
    found[:, :-1] += np.cumsum(terms[:, :0:-1], axis=1)[:, ::-1]
    return found


def _cosine(product: Floats, left: Floats, right: Floats) -> Floats:
    # Roots before the product: squares of large and of small vectors would leave float64.
    length = np.sqrt(left) * np.sqrt(right)
    found: Floats = np.divide(product, length, out=np.zeros_like(product), where=length > 0)
    return found


def _places(queries: Floats, candidates: Floats, relevant: NDArray[Any]) -> NDArray[np.int64]:
    products, left, right = queries @ candidates.T, (queries**2).sum(1), (candidates**2).sum(1)
    cosines = _cosine(products, left[:, None], right[None, :]).round(_DIGITS)
    own = cosines[np.arange(len(cosines)), relevant]
    places: NDArray[np.int64] = (cosines >= own[:, None]).sum(1)
    return places
