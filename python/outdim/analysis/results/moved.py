"""How far variants of a model move the vectors of texts: distances beside the intact model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.results.compared import Compared, estimate
from outdim.analysis.table import EVALUATION
from outdim.analysis.variants.variant import Variant
from outdim.stats.paired import Statistic, ratio
from outdim.text import counted

Array = NDArray[np.float64]

#: Of every token, added up by document: the distance of its text (a sequence), over the number of
#: its tokens; one over that number; its own distance; the mean cosine with the other tokens of its
#: text; and whether there are others.
SUMS = ("text", "texts", "token", "others", "paired")

_METRICS = {
    "text_distance": ("text", "texts"),
    "token_distance": ("token", None),
    "similarity": ("others", "paired"),
}


@dataclass(frozen=True, eq=False)
class Moved(Compared):
    """M variants on N documents.

    Attributes:
        variants: The intact model first.
        sums: Of `SUMS` over the tokens of each document, float64 [N, M, K].
        tokens: Of each document, int64 [N].
        draws, seed: Of the intervals.
        read: What was read and what left out.
    """

    variants: tuple[Variant, ...]
    sums: Array
    tokens: NDArray[np.int64]
    draws: int
    seed: int
    read: Mapping[str, Any]
    leading = "text_distance"
    noun = "the distance from the intact vectors of the texts"
    schema = EVALUATION

    @property
    def swept(self) -> tuple[str, ...]:
        """Distance of texts, of tokens, and the likeness of two tokens of a text."""
        return tuple(_METRICS)

    @property
    def about(self) -> dict[str, Any]:
        """How much was read."""
        size = {"documents": len(self.tokens), "tokens": int(self.tokens.sum())}
        return {"task": "cosine", **size}

    @property
    def measured(self) -> dict[str, Any]:
        """How much was read, and how alike tokens are."""
        documents = {"with": len(self.tokens), "without": self.read.get("without", 0)}
        return {
            "tokens": int(self.tokens.sum()),
            "documents": documents,
            "excluded": dict(self.read.get("excluded", {})),
        }

    def statistic(self, metric: str) -> Statistic:
        """1 - cosine, or a mean cosine, of every variant."""
        above, below = _METRICS[metric]
        size = self.tokens if below is None else self.sums[:, 0, SUMS.index(below)]
        found = ratio(self.sums[:, :, SUMS.index(above)].T, size)

        def value(weights: Array) -> Array:
            with np.errstate(invalid="ignore"):  # draws without any text of two tokens
                return found(weights)

        return value

    def worse(self, metric: str) -> Literal[1, -1, 0]:
        """Distances are; alike is neither better nor worse."""
        return 0 if metric == "similarity" else 1

    def reason(self, metric: str, variant: int) -> str:
        """States that are not finite, or texts of one token."""
        if np.isnan(self.sums[:, variant]).any():
            return "states that are not finite"
        found = self.comparison(metric).value
        few = len(self.tokens) > 1 and np.isnan(found.low[variant])
        return "too few texts of two tokens" if few else ""

    def intact_in_words(self) -> str:
        """How alike the tokens of a text are."""
        alike = estimate(self.comparison("similarity").value, 0).words()
        return (
            f"Two tokens of a text have a cosine of {alike} in the intact model, over "
            f"{counted(int(self.tokens.sum()), 'token')} of "
            f"{counted(len(self.tokens), 'document')}."
        )

    def tables(self) -> dict[str, Any]:
        """``moved``: a row a metric and variant."""
        rows = [row for metric in self.swept for row in self.rows(metric)]
        return {"moved": pa.Table.from_pylist(rows, self.schema)}

    def headline(self) -> list[str]:
        """The intact model, and every variant."""
        said = [self.intact_in_words()]
        return said + [
            self.harm_in_words(i) for i, v in enumerate(self.variants) if v.role == "ablated"
        ]
