"""Accumulators of something that is computed from the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from torch import Tensor

if TYPE_CHECKING:
    from outdim.stats.point_moments import PointMoments


class Derived:
    """Moments of what a function makes of the hidden states of a point.

    Args:
        moments: Where they go.
        function: [N, D] -> [N, any width].
    """

    def __init__(self, moments: PointMoments, function: Callable[[Tensor], Tensor]) -> None:
        self.moments, self._function = moments, function

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor | None = None) -> None:
        """The next forward has these rows."""
        self.moments.begin(ids, group, rows)

    def add(self, point: str, hidden: Tensor) -> None:
        """Take ``hidden`` [..., D] of a point."""
        self.moments.add(point, self._function(hidden.reshape(-1, hidden.shape[-1])))

    def commit(self) -> None:
        """The forward is complete."""
        self.moments.commit()

    def discard(self) -> None:
        """The forward failed."""
        self.moments.discard()

    def state_dict(self) -> dict[str, Tensor]:
        """That of the moments."""
        return self.moments.state_dict()

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Merge a state of later rows."""
        self.moments.merge(state)
        return self
