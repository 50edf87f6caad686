"""Sums by key, of the keys that occur."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class KeyedSums:
    """Sums [U, C] float64 by keys [U, K] int64, unique and ascending.

    >>> import torch
    >>> sums = KeyedSums(1)
    >>> sums.add(torch.tensor([[7], [3], [7]]), torch.tensor([[1.0], [2.0], [3.0]]))
    >>> sums.keys.tolist(), sums.sums.tolist()
    ([[3], [7]], [[2.0], [4.0]])
    """

    def __init__(self, columns: int) -> None:
        self.keys = torch.zeros(0, 1, dtype=torch.int64)
        self.sums = torch.zeros(0, columns, dtype=torch.float64)

    def add(self, keys: Tensor, sums: Tensor) -> None:
        """Add sums [N, C] of keys [N, K], which may repeat, in their order."""
        if not len(keys):
            return
        if len(self.keys):
            keys, sums = torch.cat([self.keys, keys]), torch.cat([self.sums, sums])
        unique: Any = torch.unique
        if keys.shape[1] == 1:  # many times faster than by rows
            found, inverse = unique(keys[:, 0], return_inverse=True)
            self.keys = found[:, None]
        else:
            self.keys, inverse = unique(keys, dim=0, return_inverse=True)
        total = torch.zeros(len(self.keys), sums.shape[1], dtype=torch.float64)
        self.sums = total.index_add_(0, inverse, sums.double())

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        return {"keys": self.keys, "sums": self.sums}
