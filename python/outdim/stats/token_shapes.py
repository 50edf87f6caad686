"""How the values of tokens lie, at many points of a model, from whole forwards only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from outdim import ops
from outdim.stats.covariates import Covariates
from outdim.stats.named import below, under
from outdim.stats.point_counts import Extremes
from outdim.stats.point_moments import PointMoments


class TokenShapes:
    """Where tokens have their extreme values, and moments of the kurtosis within each.

    Args:
        points: Names of the points.
        groups: Names of the groups; group g of the rows is ``groups[g - 1]``, 0 is left out.
        device: Where the hidden states are.

    Attributes:
        extremes: How many tokens have their smallest, their largest value at a dimension.
        kurtosis: Of one dimension, the kurtosis (`outdim.ops.token_shape`).
    """

    def __init__(
        self, points: Sequence[str], groups: Sequence[str], device: torch.device | str = "cpu"
    ) -> None:
        self.extremes = Extremes(points, groups)
        self.kurtosis = PointMoments(points, groups, Covariates(), device=device)
        self._group = torch.zeros(0, dtype=torch.uint8)
        self._parts: dict[str, Extremes | PointMoments] = {
            "extremes": self.extremes,
            "kurtosis": self.kurtosis,
        }

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has N rows: group [N] uint8."""
        self._group = group
        for part in self._parts.values():
            part.begin(ids, group)

    def add(self, point: str, hidden: Tensor) -> None:
        """Take ``hidden`` [..., D] of a point."""
        shape = ops.token_shape(hidden, group=self._group)
        self.extremes.place(point, shape, hidden.shape[-1])
        # A kurtosis is at most D: rounded to float32, it is taken by the kernel.
        self.kurtosis.add(point, shape.kurtosis.float()[:, None])

    def commit(self) -> None:
        """The forward is complete."""
        for part in self._parts.values():
            part.commit()

    def discard(self) -> None:
        """The forward failed."""
        for part in self._parts.values():
            part.discard()

    def state_dict(self) -> dict[str, Tensor]:
        """Those of both parts under their names."""
        return under({name: part.state_dict() for name, part in self._parts.items()})

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Merge a state of later rows."""
        for name, part in self._parts.items():
            part.merge(below(f"{name}/", state))
        return self
