"""What a screening found: scores of every layer and dimension, by which candidates are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from outdim.analysis.step import Result
from outdim.analysis.table import Statistic, TidyRows, define
from outdim.models.screening import Screening
from outdim.text import counted

_NAMED = 6
_TOPIC = "Screening by gradients"

# Without a unit: L is in nats of the next token or the right label, but of scores a squared error.
ABSOLUTE, SQUARED, SIGNED, MAGNITUDE = define(
    Statistic("screen_absolute", "mean of |h dL/dh|", low=0, topic=_TOPIC),
    Statistic("screen_squared", "mean of (h dL/dh)²", low=0, topic=_TOPIC),
    Statistic("screen_signed", "mean of -h dL/dh", topic=_TOPIC),
    Statistic("screen_magnitude", "mean of |h|", low=0, topic=_TOPIC),
)
#: What is said of every layer and dimension, by the names of `outdim.models.screening`.
SCORES = {
    "absolute": ABSOLUTE, "squared": SQUARED, "signed": SIGNED, "magnitude": MAGNITUDE
}  # fmt: skip
#: By which candidates are ranked; the signed one cancels.
Score = Literal["absolute", "squared", "magnitude"]
LEADING: Score = "absolute"


@dataclass(frozen=True, eq=False)
class Screened(Result):
    """Scores of every layer and dimension.

    Attributes:
        screening: The sums.
        points: Names of the layers.
    """

    screening: Screening
    points: tuple[str, ...]

    def ranked(self, score: Score = LEADING, *, by_layer: bool) -> list[tuple[int | None, int]]:
        """Layer (None for all at once) and dimension of every candidate, the highest score first.

        Args:
            score: By which.
            by_layer: Whether each layer alone is a candidate.
        """
        found = self.screening
        if not by_layer:
            return [(None, int(d)) for d in _falling(found.overall(score))]
        width = found.scores[score].shape[1]
        order = _falling(found.scores[score].ravel())
        return [(found.layers[int(i) // width], int(i) % width) for i in order]

    def score(self, score: Score, layer: int | None, dim: int) -> float:
        """One score of a candidate, a token."""
        found = self.screening
        if layer is None:
            return float(found.overall(score)[dim]) / found.tokens
        return float(found.scores[score][found.layers.index(layer), dim]) / found.tokens

    def tables(self) -> dict[str, pa.Table]:
        """Tidy rows: scores a token of every point and dimension."""
        rows, found = TidyRows(), self.screening
        for name, statistic in SCORES.items():
            for values, point, layer in zip(
                found.scores[name], self.points, found.layers, strict=True
            ):
                rows.add(
                    statistic.name, values / found.tokens, point=point, layer=layer, n=found.tokens
                )
        return {"stats": rows.table()}

    def headline(self) -> list[str]:
        """What the scores put first."""
        found = self.screening
        dims = ", ".join(str(dim) for _, dim in self.ranked(by_layer=False)[:_NAMED])
        layer, dim = self.ranked(by_layer=True)[0]
        return [
            f"By |h dL/dh| over {counted(found.tokens, 'token')}, dimensions {dims} rank first in "
            f"the sum over layers; of one layer alone, {dim} after layer {layer}."
        ]

    def cautions(self) -> Sequence[str]:
        """What the scores do not say."""
        return [
            "Scores rank dimensions, to first order; they do not say what an ablation does: "
            "outdim sweep --verify measures those that come first, and a random sample of the rest."
        ]

    def account(self) -> dict[str, Any]:
        """What was read."""
        found = self.screening
        return {
            "screening": {
                "tokens": found.tokens,
                "predicted": found.targets,
                "loss": found.loss / found.targets,
            }
        }


def _falling(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")
