"""Moments of every observed point, taken batch by batch and only from whole forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from outdim.ops import MomentsState, StatisticsArgs, moments
from outdim.stats import Covariates, Moments

if TYPE_CHECKING:
    from outdim.models import Point
    from outdim.tokens import Batch

#: Disjoint groups of rows; group g of the kernels is ``GROUPS[g - 1]``, 0 is padding.
GROUPS = ("text", "special")


class PointStatistics:
    """Accumulates `Moments` per (point, group of tokens); the sink of `outdim.models.observe`.

    The states of one forward are kept apart until `commit`, so that a forward that fails half-way
    (out of memory) leaves nothing behind and can be tried again with the same tokens.

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
        self.accum = accum
        self.moments = {
            (point.name, group): Moments(covariates, accum=accum)
            for point in self.points
            for group in GROUPS
        }
        self.tokens = (
            TokenSums([point.name for point in self.points], token_dims) if token_dims else None
        )
        self._table = covariates.table.to(device)
        self._arguments: StatisticsArgs | None = None
        self._pending: dict[str, MomentsState] = {}
        self._pending_columns: dict[str, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        """The next forward reads ``batch`` (tensors on the model's device)."""
        self._pending.clear()
        self._pending_columns.clear()
        special = batch.special.reshape(-1)
        valid = batch.attention_mask.reshape(-1).bool()
        self._arguments = StatisticsArgs(
            ids=batch.input_ids.reshape(-1),
            table=self._table,
            rows=batch.position.reshape(1, -1).double(),
            group=torch.where(valid, 1 + special.to(torch.uint8), 0).to(torch.uint8),
            groups=len(GROUPS),
            accum=self.accum,
        )

    def statistics(self) -> StatisticsArgs:
        """Arguments of the fused op for the current batch."""
        if self._arguments is None:
            raise RuntimeError("PointStatistics.begin was not called before the forward")
        return self._arguments

    def __call__(self, point: Point, hidden: Tensor) -> None:
        """Take the moments of ``hidden`` [B, S, D]."""
        arguments = self.statistics()
        hidden = hidden.reshape(-1, hidden.shape[-1])
        self.absorb(point, moments(hidden, **vars(arguments)))
        self.columns(point, hidden)

    def absorb(self, point: Point, state: MomentsState) -> None:
        """Keep the state of this forward until `commit`."""
        self._pending[point.name] = state

    def columns(self, point: Point, hidden: Tensor) -> None:
        """Keep the columns of ``hidden`` [N, D] that sums per token are asked for."""
        if self.tokens is not None:
            self._pending_columns[point.name] = hidden[:, self.tokens.dims].double().cpu()

    def commit(self) -> None:
        """The forward is complete: its states count."""
        for name, state in self._pending.items():
            head, body = state.head.cpu(), state.body.cpu()
            for index, group in enumerate(GROUPS):
                self.moments[name, group].absorb(head[index], body[index])
        if self.tokens is not None:
            arguments = self.statistics()
            text = (arguments.group == 1).cpu()
            ids = arguments.ids.cpu()[text]
            self.tokens.update(ids, {name: h[text] for name, h in self._pending_columns.items()})
        self.discard()

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending.clear()
        self._pending_columns.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors: ``<point>/<group>/<field>`` and ``tokens/<field>``."""
        state = {
            f"{name}/{group}/{field}": tensor
            for (name, group), moments in self.moments.items()
            for field, tensor in moments.state_dict().items()
        }
        if self.tokens is not None:
            state |= {
                f"tokens/{field}": tensor for field, tensor in self.tokens.state_dict().items()
            }
        return state

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Merge what `state_dict` of another one gave, behind what is here."""
        for (name, group), mine in self.moments.items():
            other = Moments(mine.covariates, accum=self.accum)
            mine.merge(other.load_state_dict(_below(f"{name}/{group}/", state)))
        if self.tokens is not None:
            self.tokens.merge(_below("tokens/", state))


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under ``prefix``, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


class TokenSums:
    """Sums of h and |h| per (token id, point) for chosen dimensions, ordinary tokens only.

    With them any table of token frequencies can be correlated afterwards, and the tokens that drive
    a dimension listed, without another forward pass.

    Attributes:
        ids: Token ids seen, ascending, int64 [U].
        n: How often, int64 [U].
        sums, sums_abs: float64 [U, P, S].
    """

    def __init__(self, points: Sequence[str], dims: Sequence[int]) -> None:
        self.points = tuple(points)
        self.dims = list(dims)
        shape = (0, len(self.points), len(self.dims))
        self.ids = torch.zeros(0, dtype=torch.int64)
        self.n = torch.zeros(0, dtype=torch.int64)
        self.sums = torch.zeros(shape, dtype=torch.float64)
        self.sums_abs = torch.zeros(shape, dtype=torch.float64)

    def update(self, ids: Tensor, columns: Mapping[str, Tensor]) -> None:
        """Add rows: ``ids`` [N] and per point the chosen columns [N, S] float64, all on the CPU."""
        unique, inverse = torch.unique(ids, return_inverse=True)
        hidden = torch.stack([columns[name] for name in self.points], 1)
        zeros = torch.zeros((len(unique), *hidden.shape[1:]), dtype=torch.float64)
        self.merge(
            {
                "ids": unique,
                "n": torch.bincount(inverse, minlength=len(unique)),
                "sums": zeros.index_add(0, inverse, hidden),
                "sums_abs": zeros.index_add(0, inverse, hidden.abs()),
            }
        )

    def merge(self, other: Mapping[str, Tensor]) -> None:
        """Add the sums of other rows."""
        ids, inverse = torch.unique(torch.cat([self.ids, other["ids"]]), return_inverse=True)
        mine, theirs = inverse[: len(self.ids)], inverse[len(self.ids) :]

        def add(left: Tensor, right: Tensor) -> Tensor:
            total = torch.zeros((len(ids), *left.shape[1:]), dtype=left.dtype)
            total[mine] = left
            total[theirs] += right  # ids are unique on each side
            return total

        self.n = add(self.n, other["n"])
        self.sums = add(self.sums, other["sums"])
        self.sums_abs = add(self.sums_abs, other["sums_abs"])
        self.ids = ids

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        return {"ids": self.ids, "n": self.n, "sums": self.sums, "sums_abs": self.sums_abs}
