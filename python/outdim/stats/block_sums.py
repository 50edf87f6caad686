"""Sums by block of documents, from which shares and means with their intervals follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outdim.errors import DataError

Floats = NDArray[np.float64]


class BlockSums:
    """Sums [K, ...] float64 by name, in K blocks of documents, taken from whole forwards only.

    Rows are added on the CPU in their order, so that the same rows give the same bytes. What is a
    mean or a share is a ratio of two of these sums (`outdim.stats.jackknife.ratio`). A row that is
    not finite makes the sums of its own cells NaN or infinite, and no others.

    Args:
        blocks: K.

    Example:
        >>> sums = BlockSums(2)
        >>> sums.add("tokens", torch.tensor([0, 1, 0]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> sums.commit()
        >>> sums["tokens"].tolist()
        [[4.0], [2.0]]
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._sums: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __getitem__(self, name: str) -> Floats:
        """The sums [K, ...] of a name."""
        return self._sums[name].numpy()

    def add(self, name: str, block: Tensor, values: Tensor) -> None:
        """Add rows: ``values`` [N, ...] of blocks ``block`` [N] int64, both on the CPU."""
        self.add_cells(name, block, 1, values)

    def add_cells(self, name: str, cell: Tensor, cells: int, values: Tensor) -> None:
        """Add rows of which each block has several kinds: ``cell`` is block * cells + kind.

        Args:
            name: Of the sums, which are [K, cells, ...], without the second where it is 1.
            cell: [N] int64.
            cells: How many kinds.
            values: [N, ...], of any type.
        """
        self.add_each([name], cell, cells, values[:, None])

    def add_each(self, names: Sequence[str], cell: Tensor, cells: int, values: Tensor) -> None:
        """Add rows to several sums at once, as `add_cells` to each: ``values`` [N, names, ...]."""
        total = torch.zeros(self.blocks * cells, *values.shape[1:], dtype=torch.float64)
        total.index_add_(0, cell, values.double())
        if cells > 1:
            total = total.view(self.blocks, cells, *values.shape[1:])
        for name, part in zip(names, total.unbind(2 if cells > 1 else 1), strict=True):
            before = self._pending.get(name)
            self._pending[name] = part.contiguous() if before is None else before + part

    def commit(self) -> None:
        """The forward is complete: what it gave counts."""
        for name, total in self._pending.items():
            before = self._sums.get(name)
            self._sums[name] = total if before is None else before + total
        self._pending = {}

    def discard(self) -> None:
        """The forward failed: nothing of it counts."""
        self._pending = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors by name, [K, ...] float64."""
        return {name: total.clone() for name, total in self._sums.items()}

    def merge(self, state: Mapping[str, Tensor]) -> Self:
        """Add what `state_dict` of other documents gave.

        Raises:
            DataError: Sums of another shape; nothing of them was merged.
        """
        for name, later in state.items():
            mine = self._sums.get(name)
            expected = (self.blocks, *later.shape[1:]) if mine is None else tuple(mine.shape)
            if tuple(later.shape) != expected:
                raise DataError(f"state: expected {expected} at {name}, got {tuple(later.shape)}")
        for name, later in state.items():
            mine = self._sums.get(name)
            self._sums[name] = later.clone() if mine is None else mine + later
        return self
