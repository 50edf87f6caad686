"""The covariates that hidden states are correlated with."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._check import as_tensor, check_tensor


@dataclass(frozen=True)
class Covariates:
    """Named covariates: K1 looked up by token id in a table, K2 given with every row.

    The standard names are "count", "log1p_count" and "mid_rank" (table) and "position" (rows).

    Args:
        table: [K1, V] float64 tensor or array, finite; None for no table. It is copied: what the
            caller does to it later changes nothing here.
        names: K1 names.
        row_names: K2 names, e.g. ("position",).

    Raises:
        ArgumentError: Another number of names than of rows, a name that occurs twice, a value of
            the table that is not finite.
        DtypeError: A table of another dtype.

    Example:
        >>> import numpy as np
        >>> counts = np.array([7, 2, 0])
        >>> covariates = Covariates(np.stack([counts, np.log1p(counts)]), ("count", "log1p_count"))
        >>> covariates.all_names
        ('count', 'log1p_count')
    """

    table: Any = None
    names: tuple[str, ...] = ()
    row_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        table = as_tensor("table", self.table)
        if isinstance(table, Tensor):
            table = table.detach().clone()
        if table is None:
            table = torch.empty(0, 0, dtype=torch.float64)
        names, row_names = tuple(self.names), tuple(self.row_names)
        check_tensor("table", table, (torch.float64,), "(K, V)", lambda t: t.dim() == 2)
        if table.shape[0] != len(names):
            raise ArgumentError(
                f"names: expected one for each of the {table.shape[0]} rows of `table`, got {names}"
            )
        if len({*names, *row_names}) != len(names) + len(row_names):
            raise ArgumentError(f"names: expected each once, got {names + row_names}")
        if not bool(table.isfinite().all()):
            raise ArgumentError("table: expected finite values, got NaN or infinity")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "row_names", row_names)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names in the order of the state: those of the table, then those of the rows."""
        return (*self.names, *self.row_names)

    def look_up(
        self, table: Tensor, ids: Tensor, group: Tensor, rows: Tensor | None
    ) -> Tensor | None:
        """The covariates of N rows, [K, N] float64, those of the table first; None without any.

        Rows of group 0 may have any id. On a device, for which raising would mean to wait, the
        covariates of a row with an id outside the table are NaN.

        Args:
            table: `table` on the device of the rest.
            ids: [N] int64.
            group: [N] uint8.
            rows: [K2, N], the row covariates.

        Raises:
            ArgumentError: A counted row with an id outside the table.
        """
        k2 = len(self.row_names)
        if (0 if rows is None else len(rows)) != k2:
            raise ArgumentError(f"rows: expected ({k2}, N) values of {self.row_names}")
        if not len(table):
            return None if rows is None else rows.double()
        vocab = table.shape[1]
        outside = (group > 0) & ((ids < 0) | (ids >= vocab))
        if table.is_cpu and bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise ArgumentError(
                f"ids: expected values in [0, {vocab}), the columns of `table`, got "
                f"{int(ids[row])} in row {row}; the ids must come from the tokenizer that the "
                "table was made for"
            )
        found = table[:, ids.clamp(0, vocab - 1)]
        if not table.is_cpu:
            found.masked_fill_(outside, torch.nan)
        return found if rows is None else torch.cat([found, rows.to(table.dtype)])

    @cached_property
    def digest(self) -> Tensor:
        """SHA-256 of names and table, [4] int64: states merge only where it is the same."""
        header = json.dumps([self.names, self.row_names, list(self.table.shape)])
        sha = hashlib.sha256(header.encode())
        sha.update(self.table.contiguous().cpu().numpy().tobytes())
        words = [
            int.from_bytes(sha.digest()[i : i + 8], "little", signed=True) for i in range(0, 32, 8)
        ]
        return torch.tensor(words, dtype=torch.int64)
