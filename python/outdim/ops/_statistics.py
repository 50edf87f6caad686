"""Checks of what `moments` takes besides the hidden states: once a batch, or once a call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import MomentsCall, StatisticsOfRows
from outdim.ops._check import (
    check_device,
    group_error,
    group_per_row,
    per_row,
    resolved,
    unexpected,
)
from outdim.ops.layout import body_rows, head_size

_MAX_GROUPS = 255
_PARTS = ("head", "body")


def prepare(hidden: Tensor, out: Sequence[Tensor] | None, *arguments: Any) -> MomentsCall:
    """Validate the arguments of the registered op against rows [N, D] and allocate the state."""
    (n, d), device = hidden.shape, hidden.device
    *of_rows, before_head, before_body = arguments
    found = check_rows(n, device, *of_rows)
    before = (before_head, before_body)
    size = found.groups, found.covariates, found.shape, d
    return MomentsCall(found, *before, *check_state(*size, device, before, out))


def check_rows(
    n: int,
    device: torch.device,
    ids: Tensor | None,
    table: Tensor | None,
    rows: Tensor | None,
    group: Tensor | None,
    groups: int,
    tau: float,
    exact: bool,
    shape: bool,
) -> StatisticsOfRows:
    """Validate what is said of N rows on a device; the tensors become contiguous."""
    table_covariates = row_covariates = 0
    if table is not None:
        if not isinstance(table, Tensor) or table.dtype != torch.float64 or table.dim() != 2:
            raise unexpected("table", table, (torch.float64,), "(K, V)")
        check_device("table", table, "hidden", device)
        if ids is None:
            raise ArgumentError("ids: expected N token ids, got None; `table` is looked up by them")
        ids = per_row("ids", ids, (torch.int64,), n, device)
        table, table_covariates = resolved(table).contiguous(), table.shape[0]
    if rows is not None:
        if (
            not isinstance(rows, Tensor)
            or rows.dtype != torch.float64
            or rows.dim() < 2
            or rows.numel() != rows.shape[0] * n
        ):
            raise unexpected("rows", rows, (torch.float64,), f"(K, {n})")
        check_device("rows", rows, "hidden", device)
        row_covariates = rows.shape[0]
        rows = resolved(rows.reshape(row_covariates, n)).contiguous()
    group = group_per_row(group, n, device)
    if not 1 <= groups <= _MAX_GROUPS:
        raise ArgumentError(f"groups: expected 1 to {_MAX_GROUPS}, got {groups}")
    return StatisticsOfRows(
        ids if table_covariates else None,
        table if table_covariates else None,
        rows if row_covariates else None,
        group,
        groups,
        tau,
        exact,
        shape,
    )


def check_state(
    groups: int,
    k: int,
    shape: bool,
    d: int,
    device: torch.device,
    before: Sequence[Tensor | None],
    out: Sequence[Tensor] | None,
) -> tuple[Tensor, ...]:
    """Check what goes into a state and what it goes to, which is allocated where not given."""
    sizes = (groups, head_size(k)), (groups, body_rows(k, shape), d)
    found = []
    for part, size, earlier, given in zip(
        _PARTS, sizes, before, (None, None) if out is None else out, strict=True
    ):
        for name, value in (("before", earlier), ("out", given)):
            if value is None:
                continue
            if (
                not isinstance(value, Tensor)
                or value.dtype != torch.float64
                or value.shape != size
                or not value.is_contiguous()
            ):
                raise unexpected(f"{name}.{part}", value, (torch.float64,), f"contiguous {size}")
            check_device(f"{name}.{part}", value, "hidden", device)
        if given is None:
            found.append(torch.empty(size, dtype=torch.float64, device=device))
        elif earlier is not None and given.data_ptr() == earlier.data_ptr():
            raise ArgumentError(
                f"out.{part}: expected memory of its own, got that of before.{part}"
            )
        else:
            found.append(given)
    return tuple(found)


def row_error(given: StatisticsOfRows) -> ArgumentError:
    """Describe the first row of a group, or counted one of an id, that there is not."""
    if given.group is not None and int(given.group.max()) > given.groups:
        return group_error(given.group, given.groups)
    assert given.ids is not None
    assert given.table is not None
    vocab = given.table.shape[1]
    wrong = (given.ids < 0) | (given.ids >= vocab)
    if given.group is not None:
        wrong &= given.group > 0
    row = int(wrong.nonzero()[0])
    return ArgumentError(
        f"ids: expected values in [0, {vocab}), the columns of `table`, got {int(given.ids[row])} "
        f"in row {row}; the ids must come from the tokenizer that the table was made for"
    )
