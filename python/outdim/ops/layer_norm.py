"""[residual add +] LayerNorm or RMSNorm + edit of dimensions [+ moments of its input or output]."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from outdim.errors import ArgumentError
from outdim.ops import _layer_norm_op as op
from outdim.ops._check import as_tensor, check_tensor
from outdim.ops._dispatch import Backend, transformed, via_op
from outdim.ops._layer_norm_call import NormArguments
from outdim.ops.moments import MomentsState, StatisticsArgs, deliver

if TYPE_CHECKING:
    from outdim.ops.checked import CheckedStatistics


@dataclass(frozen=True)
class Edit:
    """An edit of dimensions per row: y = clamp(z, -clip, clip) * scale + shift.

    Row m of the tables is one variant of the edit; `variant` says which one each row of x gets,
    so that one batch can hold many. scale 0 gives shift whatever z is. Zeroing a dimension is
    scale 0 and shift 0, mean ablation is scale 0 and shift mean.

    With `each`, every row of x is written with every variant, and read once: what lies below the
    first edit of a sweep runs once for all of them.

    Args:
        scale: [M, D] float32.
        shift: [M, D] float32.
        clip: [M, D] float32, bounds >= 0, or None.
        variant: int32, rows of the tables: one for each row of x, in a shape that broadcasts to
            that of x without D, or [N]. None: row 0 for all.
        each: Every row of x with every variant, y of the shape (M, ..., D); without `variant`.

    Raises:
        ArgumentError: Tables of different shapes or without a row, a negative bound, a variant
            outside [0, M). A variant that is changed afterwards is checked again in each call
            (a CUDA kernel, for which raising would mean to wait, makes the row NaN instead).
        DtypeError: Another dtype.

    Example:
        >>> import torch
        >>> keep, zero = torch.ones(4), torch.tensor([1.0, 0.0, 1.0, 1.0])
        >>> edit = Edit(torch.stack([keep, zero]), torch.zeros(2, 4),
        ...             variant=torch.tensor([[0], [1]], dtype=torch.int32))
        >>> y = layer_norm(torch.randn(2, 3, 4), edit=edit)  # the second sequence loses dimension 1
        >>> bool((y[1, :, 1] == 0).all()), bool((y[0, :, 1] == 0).any())
        (True, False)

        >>> layer_norm(torch.randn(3, 4), edit=Edit(torch.stack([keep, zero]), torch.zeros(2, 4),
        ...                                         each=True)).shape
        torch.Size([2, 3, 4])
    """

    scale: Any
    shift: Any
    clip: Any = None
    variant: Any = None
    each: bool = False

    def __post_init__(self) -> None:
        for name in ("scale", "shift", "clip", "variant"):
            object.__setattr__(self, name, as_tensor(name, getattr(self, name)))
        check_tensor(
            "scale", self.scale, (torch.float32,), "(M >= 1, D)",
            lambda t: t.dim() == 2 and len(t) > 0,
        )  # fmt: skip
        expected = tuple(self.scale.shape)
        for name in ("shift", "clip"):
            table = getattr(self, name)
            if table is not None or name == "shift":
                check_tensor(
                    name, table, (torch.float32,), str(expected), lambda t: t.shape == expected
                )
        if self.variant is not None:
            check_tensor("variant", self.variant, (torch.int32,), "one per row", lambda t: True)
        if self.each and self.variant is not None:
            raise ArgumentError("variant: expected None with each=True, got a tensor")
        # Values are looked at here, once, and not in each call: on a GPU that waits for the device.
        if not torch.compiler.is_compiling():
            self._check_values()

    def _check_values(self) -> None:
        if self.clip is not None and bool((self.clip < 0).any()):
            raise ArgumentError("clip: expected bounds >= 0, got negative ones")
        if self.variant is not None and self.variant.numel():
            low, high = (int(value) for value in self.variant.aminmax())
            if low < 0 or high >= self.scale.shape[0]:
                raise ArgumentError(
                    f"variant: expected values in [0, {self.scale.shape[0]}), the rows of `scale`, "
                    f"got {low if low < 0 else high}"
                )


def layer_norm(
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    eps: float = 1e-5,
    *,
    rms: bool = False,
    residual: Any = None,
    return_sum: bool = False,
    dim_mask: Any = None,
    edit: Edit | None = None,
    out: Any = None,
    backend: Backend = "auto",
) -> Any:
    """Normalise rows, optionally after a residual add, and edit dimensions on the way out.

    With s = x + residual, rounded to the dtype of x as the separate addition would be:

        z = (s - mean s) / sqrt(var s + eps) * gamma + beta      LayerNorm (var: mean of squares)
        z = s / sqrt(mean s^2 + eps) * gamma + beta              RMSNorm, `rms`
        y = clamp(z, -clip, clip) * scale + shift                `edit`

    `dim_mask` zeroes gamma and beta at the dimensions where it is False.

    Args:
        x: (..., D) float32, float16, bfloat16 or float64. Rows may be strided.
        gamma: [D] weight, or None for ones; any of these dtypes.
        beta: [D] bias, or None for zeros; dtype of gamma.
        eps: Added to the variance.
        rms: RMSNorm instead of LayerNorm.
        residual: Shape and dtype of x, added first.
        return_sum: Also return s; needs `residual`.
        dim_mask: [D] bool.
        edit: Edit with tables of width D.
        out: Tensor or array like x that receives y, rows may be strided; not with gradients, nor
            under torch.compile. It must not overlap itself or another argument.
        backend: "auto", "cpu", "cuda" or "reference". Float64 takes the reference, which is plain
            torch; arithmetic within a row is float32 for the other dtypes.

    Returns:
        y of the shape (with `each` in the edit: M times), dtype and kind of x (contiguous, or
        `out`), or (y, s) with `return_sum`.
        Differentiable, any number of times, in x, residual, gamma and beta.

    Raises:
        ArgumentError: A wrong shape or value.
        DtypeError: A wrong dtype or device.
        BackendError: The backend asked for is not there.

    Sources: Ba, Kiros and Hinton, "Layer Normalization" (2016); Zhang and Sennrich, "Root Mean
    Square Layer Normalization" (2019).

    Example:
        >>> import numpy as np
        >>> layer_norm(np.array([[1.0, 2.0, 3.0, 6.0]], dtype=np.float32), eps=0.0).round(3)
        array([[-1.069, -0.535,  0.   ,  1.604]], dtype=float32)
        >>> import torch
        >>> y = layer_norm(torch.randn(2, 8), torch.ones(8), torch.ones(8),
        ...                dim_mask=torch.arange(8) != 3)
        >>> y[:, 3].tolist()
        [0.0, 0.0]
    """
    if return_sum and residual is None:
        raise ArgumentError("return_sum: needs `residual`; without one the sum is x itself")
    arguments = _flatten(x, gamma, beta, eps, rms, residual, return_sum, dim_mask, edit)
    if isinstance(x, np.ndarray):
        y, s = op.run(arguments, backend, _writable(out))
        result = y.numpy() if out is None else out
        return (result, s.numpy()) if s is not None else result
    composed = transformed()
    if composed or via_op(x) or op.needs_gradient(arguments):
        if out is not None:
            raise ArgumentError(
                "out: expected None where gradients are taken or the call is compiled, got "
                "a tensor; use the returned tensor"
            )
        y, s = (
            op.run_composed(arguments)
            if composed
            else torch.ops.outdim.layer_norm(*arguments, backend)
        )
    else:
        y, s = op.run(arguments, backend, out)
    return (y, s) if return_sum else y


def layer_norm_moments(
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    eps: float = 1e-5,
    *,
    statistics: "StatisticsArgs | CheckedStatistics",
    of: Literal["output", "input"] = "output",
    rms: bool = False,
    residual: Any = None,
    return_sum: bool = False,
    dim_mask: Any = None,
    edit: Edit | None = None,
    backend: Backend = "auto",
) -> tuple[Any, Any, MomentsState]:
    """Normalise as `layer_norm` and take the moments of y or of s while they are in cache.

    y and s are bit for bit those of `layer_norm`, and the state that of `moments` on the stored
    tensor; but CUDA kernels add the squares of a row up in another order here, which may change
    the last bits of sums of unit vectors.

    Args:
        x: As in `layer_norm`, like gamma, beta, eps, rms, residual, return_sum, dim_mask, edit
            and backend.
        gamma: See `layer_norm`.
        beta: See `layer_norm`.
        eps: See `layer_norm`.
        statistics: StatisticsArgs, the arguments of `moments`.
        of: "output" for the moments of y (the hidden state of post-LN models), "input" for those
            of s (the residual stream of pre-LN models).
        rms: See `layer_norm`.
        residual: See `layer_norm`.
        return_sum: See `layer_norm`.
        dim_mask: See `layer_norm`.
        edit: See `layer_norm`.
        backend: See `layer_norm`.

    Returns:
        (y, s or None, MomentsState). Where a gradient is asked for, the two ops run one after
        the other; none flows through the state.

    Raises:
        ArgumentError, DtypeError, BackendError: As `layer_norm` and `moments`.

    Example:
        >>> import torch
        >>> from outdim.ops import moments
        >>> x, ids = torch.randn(5, 8), torch.tensor([0, 1, 1, 0, 1])
        >>> counts = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
        >>> y, _, state = layer_norm_moments(x, statistics=StatisticsArgs(ids=ids, table=counts))
        >>> alone = moments(y, ids=ids, table=counts)
        >>> torch.equal(state.body, alone.body)
        True
    """
    if of not in ("output", "input"):
        raise ArgumentError(f'of: expected "output" or "input", got {of!r}')
    if return_sum and residual is None:
        raise ArgumentError("return_sum: needs `residual`; without one the sum is x itself")
    arguments = _flatten(x, gamma, beta, eps, rms, residual, return_sum, dim_mask, edit)
    of_input, is_array = of == "input", isinstance(x, np.ndarray)
    if not is_array and (op.needs_gradient(arguments) or transformed()):
        y, s, *found = op.run_pair(arguments, statistics.flatten(x), of_input, backend)
        state = deliver(MomentsState(*found), statistics.out)
    elif via_op(x):
        y, s, *found = torch.ops.outdim.layer_norm_moments(
            *arguments, *statistics.flatten(x), of_input, backend
        )
        state = deliver(MomentsState(*found), statistics.out)
    else:
        y, s, call = op.run_moments(arguments, statistics.call, of_input, backend)
        state = statistics.state(call)
    s = s if return_sum else None
    if not is_array:
        return y, s, state
    state = MomentsState(*(part.numpy() for part in state))
    return y.numpy(), None if s is None else s.numpy(), state


def _writable(out: Any) -> Any:
    """View an array as a tensor that shares its memory."""
    tensor = as_tensor("out", out)
    if isinstance(out, np.ndarray) and out.size and tensor.data_ptr() != out.ctypes.data:
        raise ArgumentError("out: expected a writable array without negative strides, got another")
    return tensor


def _flatten(
    x: Any,
    gamma: Any,
    beta: Any,
    eps: float,
    rms: bool,
    residual: Any,
    return_sum: bool,
    dim_mask: Any,
    edit: Edit | None,
) -> NormArguments:
    """List the arguments as the registered ops take them, NumPy arrays as tensors."""
    tables: tuple[Any, ...] = None, None, None, None, False
    if edit is not None:
        tables = edit.scale, edit.shift, edit.clip, edit.variant, edit.each
    return NormArguments(
        as_tensor("x", x),
        as_tensor("gamma", gamma),
        as_tensor("beta", beta),
        eps,
        rms,
        as_tensor("residual", residual),
        return_sum,
        as_tensor("dim_mask", dim_mask),
        *tables,
    )
