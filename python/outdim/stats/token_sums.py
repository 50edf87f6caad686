"""Sums of chosen dimensions by token id, from which any table of frequencies can be correlated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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
