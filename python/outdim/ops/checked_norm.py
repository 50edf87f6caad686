"""A norm's parameters, checked once for the calls of many forwards."""

from typing import Any, Literal

import torch
from torch import Tensor

from outdim.ops import _cpu
from outdim.ops._binding import core
from outdim.ops._calls import LayerNormCall, NormOfRows
from outdim.ops._check import check_hidden, check_same
from outdim.ops._dispatch import choose, forward_mode, kernels, via_op
from outdim.ops._layer_norm_call import check_parameters
from outdim.ops._statistics import row_error
from outdim.ops.checked import CheckedStatistics
from outdim.ops.layer_norm import layer_norm_moments
from outdim.ops.moments import MomentsState, StatisticsArgs

_Result = tuple[Tensor, Tensor | None, MomentsState]


class CheckedNorm:
    """`outdim.ops.layer_norm_moments` of one norm, call for call.

    Its parameters are checked at the first call, and again when they lie otherwise in memory or x
    comes with another dtype, width or device: at every call where they are not contiguous, or made
    anew, as those of a norm with an offset are. The norms of a forward are many, and where their
    kernels have little to do, checks were most of their time.

    Args:
        eps: As in `outdim.ops.layer_norm`, like rms.
        rms: See eps.
    """

    def __init__(self, eps: float, rms: bool) -> None:
        self._eps, self._rms = eps, rms
        # One thing, so that another thread has the parameters of the key that it has.
        self._checked: tuple[tuple[Any, ...], NormOfRows] | None = None

    def __call__(
        self,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        residual: Tensor | None,
        statistics: StatisticsArgs | CheckedStatistics,
        of: Literal["output", "input"],
    ) -> _Result:
        """Return y, with `of` "input" the sum where there is a residual, and the state."""
        with_sum = of == "input" and residual is not None
        if not isinstance(statistics, CheckedStatistics) or not self._is_plain(x, residual):
            return layer_norm_moments(
                x, gamma, beta, self._eps, statistics=statistics, of=of, rms=self._rms,
                residual=residual, return_sum=with_sum,
            )  # fmt: skip
        key = x.dtype, x.shape[-1], x.device, _place(gamma), _place(beta)
        checked = self._checked
        if checked is None or checked[0] != key:
            checked = key, self._check(x, gamma, beta)
            is_copy = checked[1].gamma is not gamma or checked[1].beta is not beta
            # What changes in place does not change its copy.
            self._checked = None if is_copy else checked
        return self._launch(checked[1], x, residual, statistics, of == "input", with_sum)

    def _check(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> NormOfRows:
        """Check the parameters and say where they are."""
        gamma, beta = check_parameters(x, gamma, beta)
        norm = NormOfRows(gamma, beta, self._eps, self._rms, None, None, None, None, None, False)
        return norm._replace(native=_cpu.norm_args(core(), norm, x.dtype, x.shape[-1]))

    def _is_plain(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether a kernel can have x as it lies in memory, and nobody else wants to know."""
        if via_op(x) or forward_mode() or torch.is_grad_enabled():
            return False
        check_hidden("x", x)
        if residual is not None:
            check_same("residual", residual, "x", x)
            if not residual.is_contiguous() or residual.is_neg():
                return False
        return x.is_contiguous() and not x.is_neg() and choose("auto", x) != "reference"

    def _launch(
        self,
        norm: NormOfRows,
        x: Tensor,
        residual: Tensor | None,
        statistics: CheckedStatistics,
        of_input: bool,
        with_sum: bool,
    ) -> _Result:
        d, device = x.shape[-1], x.device
        n = x.numel() // d
        stats = statistics.call_of(n, d, device)
        y = torch.empty_like(x)
        s = torch.empty_like(x) if with_sum else None
        call = LayerNormCall(norm, x, residual, s, y)
        try:
            kernels(device.type).layer_norm(call, stats, of_input)
        except IndexError as error:
            raise row_error(stats.given) from error
        return y, s, statistics.state(stats)


def _place(tensor: Tensor | None) -> tuple[Any, ...]:
    """Where the values of a parameter lie, and how."""
    if tensor is None:
        return ()
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
