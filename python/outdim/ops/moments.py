"""Masked one-pass moments of hidden states against per-token covariates looked up by token id."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import MomentsCall
from outdim.ops._check import as_rows, as_tensor, check_hidden, check_values
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register
from outdim.ops._statistics import prepare, row_error

Accumulate = Literal["auto", "exact", "fast"]

# Compute capabilities whose float64 runs at half of float32's rate: P100, V100, A100, H100 and
# H200, B200. Everywhere else it is 1/32 or 1/64 (CUDA C++ Programming Guide, "Throughput of Native
# Arithmetic Instructions"), B300 (10.3) included.
_FLOAT64_AT_HALF = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})


class MomentsState(NamedTuple):
    """Moments of G groups of rows, float64, on the device of the hidden states.

    `head[g]` is n, the K covariate means, the K covariate M2. `body[g]` has rows of length D:
    mean h, M2 h, mean |h|, M2 |h|, K co-moments C(x_k, h), K co-moments C(x_k, |h|) and, with
    `shape`, M3, M4, min, max, number of |h| >= tau, sum of h / ||h||, number of nonfinite values.
    M2, M3, M4 are sums of powers of deviations from the mean. Table covariates come before row
    covariates. `outdim.ops.layout` names the rows, `outdim.ops.merge_states` merges states.
    """

    head: Any  # Tensor or ndarray [G, 1 + 2 K] float64
    body: Any  # Tensor or ndarray [G, R, D] float64


@dataclass(frozen=True)
class StatisticsArgs:
    """What `moments` takes besides the hidden states; see there."""

    ids: Any = None
    table: Any = None
    rows: Any = None
    group: Any = None
    groups: int = 1
    tau: float = 6.0
    accum: Accumulate = "exact"
    shape: bool = True
    before: MomentsState | None = None
    out: MomentsState | None = None

    def flatten(self, hidden: Any) -> tuple[Any, ...]:
        """List the arguments as the registered ops take them, NumPy arrays as tensors."""
        return _flatten(
            hidden, self.ids, self.table, self.rows, self.group, self.groups, self.tau, self.accum,
            self.shape, self.before,
        )  # fmt: skip

    def call(self, hidden: Tensor) -> MomentsCall:
        """Check them against rows [N, D], and allocate the state."""
        return prepare(hidden, state_tensors(self.out), *self.flatten(hidden))

    def state(self, call: MomentsCall) -> MomentsState:
        """Name what a call has filled."""
        return MomentsState(call.head, call.body)


def resolve_accum(accum: Accumulate, device: torch.device | str) -> Literal["exact", "fast"]:
    """Say what "auto" is on a device: "fast" on a GPU whose float64 runs at 1/32 or less.

    Raises:
        ArgumentError: Another word.
    """
    if accum not in ("auto", "exact", "fast"):
        raise ArgumentError(f'accum: expected "auto", "exact" or "fast", got {accum!r}')
    if accum != "auto":
        return accum
    device = torch.device(device)
    return "fast" if device.type == "cuda" and not _float64_at_half(device) else "exact"


@cache
def _float64_at_half(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) in _FLOAT64_AT_HALF


def moments(
    hidden: Any,
    *,
    ids: Any = None,
    table: Any = None,
    rows: Any = None,
    group: Any = None,
    groups: int = 1,
    tau: float = 6.0,
    accum: Accumulate = "exact",
    shape: bool = True,
    before: MomentsState | None = None,
    out: MomentsState | None = None,
    backend: Backend = "auto",
) -> MomentsState:
    """Reduce hidden states to the moments of each dimension, for h and |h|, in one pass.

    For the n rows of each group: n, mean and M2 of every covariate x_k; mean and M2 of h and of
    |h| and the co-moments C(x_k, .) = sum (x_k - mean x_k)(. - mean) per dimension; and the
    shape rows listed at `MomentsState`. Rows of group 0 are left out, not multiplied by zero, so
    they may be NaN. A dimension with a NaN or infinity in a counted row has NaN moments and says
    so in its nonfinite count; min and max are over the values that are not NaN.

    Args:
        hidden: (..., D) float32, float16, bfloat16 or float64; the leading dimensions are
            flattened to N rows. Rows may be strided; columns are made contiguous if they are not.
        ids: N token ids, int64, of any shape; needed with `table`. Only those of counted rows
            are looked at.
        table: [K1, V] float64, covariates by token id.
        rows: [K2, N] float64, covariates given per row (any shape (K2, ...) with N entries each).
        group: N values, uint8 or bool, of any shape: 0 leaves the row out, g in 1..groups counts
            it in state g - 1. None counts every row in state 0.
        groups: Number of states G, 1 to 255.
        tau: Threshold of the count of |h| >= tau.
        accum: "exact" keeps everything after the load in float64 (error of r <= 1e-12); "fast"
            sums a few rows in float32 before (about 1e-9), on a GPU: the CPU kernel, which gains
            nothing by it, and the reference are always exact. "auto" is "fast" on a GPU whose
            float64 runs at 1/32 of float32's rate or less, as on those made for games.
        shape: Whether to take M3, M4, min, max and the other shape rows.
        before: The state of earlier rows. The result is then that of those rows and these: to the
            byte, what `merge_states(before, moments(hidden))` gives (CUDA: to rounding), without
            another pass. It stays as it is, so that two states serve a stream.
        out: Receives the result; tensors like it, apart from `before`.
        backend: "auto", "cpu", "cuda" or "reference". float64 takes the reference.

    Returns:
        MomentsState of tensors, or of NumPy arrays when `hidden` is one. States of the same rows
        have the same bytes whatever the number of threads.

    Raises:
        ArgumentError: A wrong shape or value, or a counted id outside [0, V). The CUDA kernel, for
            which raising would mean to wait, makes the moments with the table NaN instead.
        DtypeError: A wrong dtype or device.
        BackendError: The backend asked for is not there.

    Source: shifted sums about a value of the data and Chan's merge (Chan, Golub, LeVeque 1983),
    Pebay (2008) for M3, M4 and co-moments. No gradient flows through.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, -2.0], [3.0, 2.0], [torch.nan, 0.0]])
        >>> counts = torch.tensor([[10.0, 20.0]], dtype=torch.float64)  # one covariate, V = 2
        >>> state = moments(hidden, ids=torch.tensor([0, 1, 0]), table=counts,
        ...                 group=torch.tensor([True, True, False]))
        >>> state.head[0].tolist()  # n, mean and M2 of the counts
        [2.0, 15.0, 50.0]
        >>> state.body[0, :4].tolist()  # mean h, M2 h, mean |h|, M2 |h|
        [[2.0, 0.0], [2.0, 8.0], [2.0, 2.0], [2.0, 0.0]]
    """
    arguments = _flatten(hidden, ids, table, rows, group, groups, tau, accum, shape, before)
    if isinstance(hidden, np.ndarray):
        head, body = _launch(as_tensor("hidden", hidden), arguments, state_tensors(out), backend)
        return MomentsState(head.numpy(), body.numpy())
    if via_op(hidden):
        state = MomentsState(*torch.ops.outdim.moments(hidden.detach(), *arguments, backend))
        return deliver(state, out)
    return MomentsState(*_launch(hidden, arguments, out, backend))


def state_tensors(state: Any) -> Any:
    """View a state of arrays as one of tensors."""
    if state is None:
        return None
    return MomentsState(*(as_tensor("state", value) for value in state))


def deliver(state: MomentsState, out: MomentsState | None) -> MomentsState:
    """Copy a state into `out` where there is one and the kernel has not written there."""
    if out is None or state.head is out.head:
        return state
    return MomentsState(out.head.copy_(state.head), out.body.copy_(state.body))


def _flatten(
    hidden: Any,
    ids: Any,
    table: Any,
    rows: Any,
    group: Any,
    groups: int,
    tau: float,
    accum: Accumulate,
    shape: bool,
    before: MomentsState | None,
) -> tuple[Any, ...]:
    device = hidden.device if isinstance(hidden, Tensor) else "cpu"
    return (
        as_tensor("ids", ids),
        as_tensor("table", table),
        as_tensor("rows", rows),
        as_tensor("group", group),
        groups,
        tau,
        resolve_accum(accum, device) == "exact",
        shape,
        *((None, None) if before is None else state_tensors(before)),
    )


def _launch(
    hidden: Any, statistics: tuple[Any, ...], out: MomentsState | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Validate, allocate, launch."""
    view = rows_of_values(hidden)
    call = prepare(view, out, *statistics)
    launch(view, call, choose(backend, view))
    return call.head, call.body


def rows_of_values(hidden: Any) -> Tensor:
    """Check hidden states (..., D) and view them as rows [N, D]."""
    check_hidden("hidden", hidden)
    check_values(hidden)
    return as_rows(hidden)


def launch(hidden: Tensor, call: MomentsCall, backend: str) -> None:
    """Run the kernel of a backend that `choose` named on rows."""
    try:
        kernels(backend).moments(hidden, call)
    except IndexError as error:
        raise row_error(call.given) from error


def _run(hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _launch(hidden, arguments[:-1], None, arguments[-1])


def _fake(hidden: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    check_hidden("hidden", hidden)
    call = prepare(as_rows(hidden), None, *arguments[:-1])
    return call.head, call.body


register(
    "moments(Tensor hidden, Tensor? ids, Tensor? table, Tensor? rows, Tensor? group, int groups, "
    "float tau, bool exact, bool shape, Tensor? before_head, Tensor? before_body, str backend) "
    "-> (Tensor, Tensor)",
    _run,
    _fake,
)
