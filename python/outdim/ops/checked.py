"""What many calls have in common, checked once: a batch's rows, a norm's parameters."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops import _cpu
from outdim.ops._binding import core
from outdim.ops._calls import MomentsCall
from outdim.ops._check import check_hidden
from outdim.ops._dispatch import choose, via_op
from outdim.ops._statistics import check_rows, check_state
from outdim.ops.moments import (
    MomentsState,
    StatisticsArgs,
    deliver,
    launch,
    rows_of_values,
)


class CheckedRows:
    """`StatisticsArgs` of the N rows of a batch, checked once for every tensor of these rows.

    A pass takes dozens of tensors of a batch, into states that earlier calls have given: to look
    at everything anew takes longer than a kernel that has little to do. What was checked must stay
    as it is while it is in use, and so must the states.

    Args:
        given: What is to be taken, without states.
        n: N.
        device: Where the tensors are.

    Raises:
        ArgumentError, DtypeError: As `outdim.ops.moments`.
    """

    def __init__(self, given: StatisticsArgs, n: int, device: torch.device) -> None:
        self.given, self.n, self.device = given, n, device
        self.arguments = given.flatten(torch.empty(0, device=device))[:-2]
        found = check_rows(n, device, *self.arguments)
        if (module := core()) is not None:
            found = found._replace(native=_cpu.statistics_args(module, found))
        self.found = found
        self.size = found.groups, found.covariates, found.shape  # of a state, without D

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy what was given: a copy's rows lie elsewhere than `found.native` says."""
        return CheckedRows, (self.given, self.n, self.device)


class CheckedStatistics(NamedTuple):
    """What to take of a tensor of checked rows, and its states; see `StatisticsArgs`."""

    rows: CheckedRows
    before: MomentsState | None = None
    out: MomentsState | None = None

    def moments(self, hidden: Tensor) -> MomentsState:
        """Do what `outdim.ops.moments` does."""
        if via_op(hidden):
            found = torch.ops.outdim.moments(hidden.detach(), *self.flatten(hidden), "auto")
            return deliver(MomentsState(*found), self.out)
        d = check_hidden("hidden", hidden)[-1]
        kernel = choose("auto", hidden)
        if kernel == "reference" or not hidden.is_contiguous() or hidden.is_neg():
            hidden = rows_of_values(hidden)
        call = self.call_of(hidden.numel() // d, d, hidden.device)
        launch(hidden, call, kernel)
        return self.state(call)

    def flatten(self, hidden: Tensor) -> tuple[Any, ...]:
        """List the arguments as the registered ops take them."""
        return (*self.rows.arguments, *(self.before or (None, None)))

    def call(self, hidden: Tensor) -> MomentsCall:
        """Check rows [N, D] against them, and states that no call of such rows has given."""
        n, d = hidden.shape
        return self.call_of(n, d, hidden.device)

    def call_of(self, n: int, d: int, device: torch.device) -> MomentsCall:
        """Do what `call` does for n rows of width d."""
        rows, before, out = self
        if n != rows.n or device != rows.device:
            raise ArgumentError(
                f"hidden: expected the {rows.n} rows on {rows.device} that the statistics are of, "
                f"got {n} on {device}"
            )
        size = (*rows.size, d, device)
        if (
            type(before) is not _KnownState
            or type(out) is not _KnownState
            or before.size != size
            or out.size != size
            or before is out
        ):
            earlier_head, earlier_body = before or (None, None)
            head, body = check_state(*size, (earlier_head, earlier_body), out)
            return MomentsCall(rows.found, earlier_head, earlier_body, head, body)
        return MomentsCall(rows.found, *before, *out)

    def state(self, call: MomentsCall) -> MomentsState:
        """Name what a call has filled; the next call knows it."""
        if type(self.out) is _KnownState:
            return self.out
        state = _KnownState(call.head, call.body)
        state.size = (*self.rows.size, call.body.shape[-1], call.body.device)
        return state


class _KnownState(MomentsState):
    """A state of a size that a call has checked or allocated; a copy of it has to be checked."""

    size: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return MomentsState, tuple(self)
