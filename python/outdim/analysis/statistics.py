"""Moments of every observed point, taken batch by batch and only from whole forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from outdim.ops import MomentsState, StatisticsArgs
from outdim.stats import Covariates
from outdim.stats.moments import Moments
from outdim.stats.point_moments import PointMoments
from outdim.stats.token_sums import TokenSums

if TYPE_CHECKING:
    from outdim.models import Point
    from outdim.tokens import Batch

#: Disjoint groups of rows; group g of the kernels is ``GROUPS[g - 1]``, 0 is padding.
GROUPS = ("text", "special")


class PointStatistics:
    """What `correlate` accumulates; the sink of `outdim.models.observe`.

    Args:
        points: What is observed.
        covariates: By token id and per row; the only row covariate filled in is ``position``.
        accum: ``"exact"`` or ``"fast"``, as `outdim.ops.moments`.
        token_dims: Dimensions whose sums per (token id, point) are kept as well.
    """

    def __init__(
        self,
        points: Sequence[Point],
        covariates: Covariates,
        *,
        accum: Literal["exact", "fast"] = "exact",
        token_dims: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.points = tuple(points)
        names = [point.name for point in self.points]
        self._moments = PointMoments(names, GROUPS, covariates, accum=accum, device=device)
        self.tokens = TokenSums(names, token_dims) if token_dims else None
        self._ids: Tensor | None = None
        self._group: Tensor | None = None
        self._columns: dict[str, Tensor] = {}
        self._taken: set[str] = set()  # points whose moments a norm has taken in this forward

    @property
    def moments(self) -> dict[tuple[str, str], Moments]:
        """By (point, group)."""
        return {
            (point, group): self._moments.moments(point, [group])
            for point in self._moments.points
            for group in GROUPS
        }

    def begin(self, batch: Batch) -> None:
        """The next forward reads ``batch`` (tensors on the model's device)."""
        self._columns.clear()
        self._taken.clear()
        special = batch.special.reshape(-1)
        valid = batch.attention_mask.reshape(-1).bool()
        self._ids = batch.input_ids.reshape(-1)
        self._group = torch.where(valid, 1 + special.to(torch.uint8), 0).to(torch.uint8)
        self._moments.begin(self._ids, self._group, batch.position.reshape(1, -1).double())

    def arguments(self, point: Point) -> StatisticsArgs:
        """Arguments of the fused op for the current batch."""
        return self._moments.arguments(point.name)

    def __call__(self, point: Point, hidden: Tensor) -> None:
        """Take the moments of ``hidden`` [B, S, D]."""
        hidden = hidden.reshape(-1, hidden.shape[-1])
        if point.name not in self._taken:
            self._moments.add(point.name, hidden)
        if self.tokens is not None:
            self._columns[point.name] = hidden[:, self.tokens.dims].double().cpu()

    def absorb(self, point: Point, state: MomentsState) -> None:
        """Keep the state of this forward until `commit`."""
        self._moments.absorb(point.name, state)
        self._taken.add(point.name)

    def commit(self) -> None:
        """The forward is complete: its states count."""
        self._moments.commit()
        if self.tokens is not None:
            assert self._group is not None
            assert self._ids is not None
            text = (self._group == 1).cpu()
            self.tokens.update(
                self._ids.cpu()[text], {name: h[text] for name, h in self._columns.items()}
            )
        self._columns.clear()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._moments.discard()
        self._columns.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors: ``<point>/<group>/<field>`` and ``tokens/<field>``."""
        state = self._moments.state_dict()
        if self.tokens is not None:
            state |= {f"tokens/{field}": t for field, t in self.tokens.state_dict().items()}
        return state

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Merge what `state_dict` of another one gave, behind what is here."""
        self._moments.merge({k: t for k, t in state.items() if not k.startswith("tokens/")})
        if self.tokens is not None:
            prefix = "tokens/"
            self.tokens.merge(
                {key[len(prefix) :]: t for key, t in state.items() if key.startswith(prefix)}
            )
