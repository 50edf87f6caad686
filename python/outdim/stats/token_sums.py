"""Sums of chosen dimensions by token id, from which any table of frequencies can be correlated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from outdim.stats.covariates import Covariates
from outdim.stats.type_units import TypeUnits

if TYPE_CHECKING:
    import pyarrow as pa


class TokenSums:
    """Sums of h, |h| and h^2 per (token id, point) for chosen dimensions, ordinary tokens only.

    With them any table of token frequencies can be correlated afterwards, and the tokens that drive
    a dimension listed, without another forward pass.

    Attributes:
        ids: Token ids seen, ascending, int64 [U].
        n: How often, int64 [U].
        sums, sums_abs, sums_squares: float64 [U, P, S].
    """

    def __init__(self, points: Sequence[str], dims: Sequence[int]) -> None:
        self.points = tuple(points)
        self.dims = list(dims)
        shape = (0, len(self.points), len(self.dims))
        self.ids = torch.zeros(0, dtype=torch.int64)
        self.n = torch.zeros(0, dtype=torch.int64)
        self.sums = torch.zeros(shape, dtype=torch.float64)
        self.sums_abs = torch.zeros(shape, dtype=torch.float64)
        self.sums_squares = torch.zeros(shape, dtype=torch.float64)
        self._ids = self._text = torch.zeros(0)
        self._pending: dict[str, Tensor] = {}

    def begin(self, ids: Tensor, group: Tensor, rows: Tensor) -> None:
        """The next forward has these N rows: ids [N] int64, group [N] uint8."""
        self._pending.clear()
        self._text = group == 1
        self._ids = ids[self._text].cpu()

    def add(self, point: str, hidden: Tensor) -> None:
        """Keep the chosen columns of ``hidden`` [..., D] until `commit`."""
        rows = hidden.reshape(-1, hidden.shape[-1])[self._text]
        self._pending[point] = rows[:, self.dims].double().cpu()

    def commit(self) -> None:
        """The forward is complete."""
        unique, inverse = torch.unique(self._ids, return_inverse=True)
        hidden = torch.stack([self._pending[name] for name in self.points], 1)
        zeros = torch.zeros((len(unique), *hidden.shape[1:]), dtype=torch.float64)
        self.merge(
            {
                "ids": unique,
                "n": torch.bincount(inverse, minlength=len(unique)),
                "sums": zeros.index_add(0, inverse, hidden),
                "sums_abs": zeros.index_add(0, inverse, hidden.abs()),
                "sums_squares": zeros.index_add(0, inverse, hidden.square()),
            }
        )
        self._pending.clear()

    def discard(self) -> None:
        """The forward failed."""
        self._pending.clear()

    def table(self) -> pa.Table:
        """One row a token id, point and dimension: id, point, dim, n and the three sums."""
        import pyarrow as pa

        shape = self.sums.shape
        index = np.indices(shape).reshape(3, -1)
        return pa.table(
            {
                "id": pa.array(self.ids.numpy()[index[0]], pa.int64()),
                "point": pa.DictionaryArray.from_arrays(
                    pa.array(index[1], pa.int32()), pa.array(self.points)
                ),
                "dim": pa.array(np.asarray(self.dims, np.int32)[index[2]]),
                "n": pa.array(self.n.numpy()[index[0]], pa.int64()),
                "sum": pa.array(self.sums.numpy().reshape(-1)),
                "sum_abs": pa.array(self.sums_abs.numpy().reshape(-1)),
                "sum_squares": pa.array(self.sums_squares.numpy().reshape(-1)),
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
        self.sums_squares = add(self.sums_squares, other["sums_squares"])
        self.ids = ids

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        return {
            "ids": self.ids,
            "n": self.n,
            "sums": self.sums,
            "sums_abs": self.sums_abs,
            "sums_squares": self.sums_squares,
        }

    def units(self, covariates: Covariates) -> TypeUnits:
        """The types as units: what `outdim.stats.type_intervals` and the like take.

        Dimension s of a point is ``dims[s]``. r, its interval, its null and the types that carry
        it are then those of all types: exact with any frequencies.
        """
        sums = torch.stack([self.sums, self.sums_abs, self.sums_squares], 1).numpy()
        by_point = {point: sums[:, :, p] for p, point in enumerate(self.points)}
        return TypeUnits.of_types(self.ids.numpy(), self.n.numpy(), by_point, covariates)
