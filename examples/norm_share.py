"""How much of a token's squared norm sits in its largest dimensions: an analysis in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from outdim.analysis.inputs import Inputs
from outdim.analysis.step import Observer, Result
from outdim.analysis.table import SELECTIONS, Statistic, TidyRows, define
from outdim.errors import ArgumentError
from outdim.stats import Covariates, PointMoments
from outdim.tokens import GROUPS

_SHARE = "share of the squared norm in the largest dimensions"
_ONE_A_POINT = {"high": 1, "of_dimensions": False, "topic": "Share of the largest dimensions"}
define(
    Statistic("norm_share", f"mean {_SHARE}", low=0, **_ONE_A_POINT),
    Statistic("norm_share_max", f"largest {_SHARE}", low=0, **_ONE_A_POINT),
    Statistic("norm_share_pearson", f"r of the {_SHARE}", low=-1, **_ONE_A_POINT),
)


@dataclass(frozen=True, kw_only=True)
class NormShareOptions:
    """Measure how much of a token's squared norm sits in its largest dimensions.

    Args:
        points: Where the model is observed, by name; none takes the embeddings and every block.
        top: How many dimensions of a token, its own largest, are taken together.
    """

    points: list[str] | None = None
    top: int = 3


@dataclass(frozen=True)
class NormShares(Result):
    """Shares by point and selection of tokens."""

    top: int
    layers: Mapping[str, int]
    moments: PointMoments

    def tables(self) -> dict[str, pa.Table]:
        """Tidy rows, which join those of the other steps in ``stats.parquet``."""
        rows = TidyRows()
        for point, layer in self.layers.items():
            for selection in SELECTIONS.values():
                share = self.moments.moments(point, selection.groups).compute()
                at: Any = {"point": point, "layer": layer, "selection": selection.name}
                at |= {"n": share.n, "reason": share.reason()}
                rows.add("norm_share", share.mean, **at)
                rows.add("norm_share_max", share.max, **at)
                at |= {"covariate": "position", "reason": share.reason("position")}
                rows.add("norm_share_pearson", share.pearson("position"), **at)
        return {"stats": rows.table()}

    def headline(self) -> list[str]:
        """The point where the largest dimensions weigh most."""
        means = {p: float(self.moments.moments(p, ["text"]).compute().mean) for p in self.layers}
        point = max(means, key=lambda name: means[name])
        return [
            f"The {self.top} largest dimensions of a token hold {means[point]:.0%} of its squared "
            f"norm at {point}, the most of all points."
        ]


class NormShare(Observer):
    """Observes hidden states [B, S, D]; its state is the moments of one number a token."""

    name = "norm-share"
    Options = NormShareOptions

    @classmethod
    def resolve(cls, options: NormShareOptions, inputs: Inputs) -> dict[str, Any]:
        """What the plan records."""
        if not 1 <= options.top <= inputs.architecture.hidden_size:
            raise ArgumentError(
                f"top: expected 1 to {inputs.architecture.hidden_size} dimensions, got "
                f"{options.top}."
            )
        return super().resolve(options, inputs)

    def accumulators(self) -> dict[str, PointMoments]:
        """One value a token, so that the moments have D = 1."""
        position = Covariates(row_names=("position",))
        return {"share": PointMoments(self.points, GROUPS, position, device=self.inputs.device)}

    def derive(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, S, D] -> [B, S, 1], NaN for a token whose hidden state is zero."""
        squares = hidden.double().square()
        largest = squares.topk(self.recorded["top"], dim=-1).values
        return largest.sum(-1, keepdim=True) / squares.sum(-1, keepdim=True)

    def result(self) -> NormShares:
        """The shares."""
        return NormShares(self.recorded["top"], self.layers, self.parts["share"])
