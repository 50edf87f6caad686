"""Two token frequencies of one vocabulary side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from outdim.errors import ArgumentError
from outdim.tokens.frequencies import TokenFrequencies


@dataclass(frozen=True)
class Comparison:
    """Two frequencies of one vocabulary side by side: made by `compare`.

    Attributes:
        first: The one.
        second: The other.
    """

    first: TokenFrequencies
    second: TokenFrequencies

    @cached_property
    def totals(self) -> tuple[int, int]:
        """Text tokens of the first and of the second."""
        first, second = (int(part.counts[self.text].sum()) for part in (self.first, self.second))
        return first, second

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Count / text tokens of each id in both, float64 [2, V]; 0 for special ids."""
        parts = zip((self.first, self.second), self.totals, strict=True)
        return np.stack([np.where(self.text, part.counts, 0) / max(n, 1) for part, n in parts])

    @property
    def one_occurrence(self) -> float:
        """The share of one occurrence in the smaller of the two."""
        return 1 / max(1, min(self.totals))

    @cached_property
    def log_ratio(self) -> NDArray[np.float64]:
        """log2 of (first share + e) / (second share + e), float64 [V]; 0 for special ids.

        e is `one_occurrence`, so that an id absent from one of them still has a ratio. It is
        added to shares and not to counts: counts that are proportional give 0, however much larger
        the one text is.
        """
        first, second = self.shares + self.one_occurrence
        ratio: NDArray[np.float64] = np.log2(first / second)
        return ratio

    @property
    def text(self) -> NDArray[np.bool_]:
        """Ids that are compared: not special in either."""
        return ~(self.first.special | self.second.special)

    @cached_property
    def correlation(self) -> float:
        """Pearson's r of log(1 + count) over ids that stand for text; NaN if a side is constant."""
        logs = [part.log1p()[self.text] for part in (self.first, self.second)]
        if any(np.ptp(values) == 0 for values in logs):
            return float("nan")
        matrix: NDArray[np.float64] = np.atleast_2d(np.corrcoef(np.stack(logs)))
        return float(matrix[0, 1])

    def largest(self, n: int = 20) -> list[tuple[int, str, int, int, float]]:
        """The ids that differ most: (id, token, first count, second count, log2 ratio).

        Weighted by the larger share, so that rare tokens do not fill the list: |ratio| * larger
        share of the text tokens.

        Args:
            n: How many, at most.
        """
        weight = np.abs(self.log_ratio) * self.shares.max(axis=0)
        order = np.argsort(-weight, kind="stable")[:n]
        return [
            (
                int(i),
                self.first.tokens[i],
                int(self.first.counts[i]),
                int(self.second.counts[i]),
                float(self.log_ratio[i]),
            )
            for i in order
            if weight[i] > 0
        ]

    def ranks(self) -> NDArray[np.int64]:
        """Counts sorted from the largest, int64 [V, 2]: the rank-frequency curves of both."""
        return np.stack(
            [-np.sort(-part.counts[self.text]) for part in (self.first, self.second)], axis=1
        )


def compare(first: TokenFrequencies, second: TokenFrequencies) -> Comparison:
    """Put two frequencies of one vocabulary side by side.

    Args:
        first: The one.
        second: The other.

    Raises:
        ArgumentError: They are of different vocabularies.
    """
    if first.tokens != second.tokens:
        raise ArgumentError(
            f"frequencies of different vocabularies ({len(first)} and {len(second)} ids) "
            "cannot be compared"
        )
    return Comparison(first, second)
