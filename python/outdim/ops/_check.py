"""Validation shared by the ops: arrays to tensors, rows of a batch, and the texts of errors.

A call on a few rows costs what its checks cost: a text is built only when a check has failed, and
an attribute of a tensor (50 to 500 ns) is read once where that is easy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outdim.errors import ArgumentError, DtypeError

KERNEL_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FLOATS = (*KERNEL_FLOATS, torch.float64)
FLOAT_NAMES = "float32, float16, bfloat16 or float64"


def dtype_name(dtype: torch.dtype) -> str:
    """Name a dtype without its module."""
    return str(dtype).removeprefix("torch.")


def describe(value: Any) -> str:
    """Say what came: shape, dtype and, off the CPU, device of a tensor; type of anything else."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}"
    if value.is_nested:
        return "a nested tensor"
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{tuple(value.shape)} {dtype_name(value.dtype)}{where}"


def as_tensor(name: str, value: Any) -> Any:
    """View a NumPy array as a tensor (copied when read-only or oddly strided); pass on the rest."""
    if not isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise DtypeError(
            f"{name}: expected a plain array, got a masked one, whose mask would be ignored; pass "
            "its .data, and the rows to leave out as `mask` or `group`"
        )
    if not value.flags.writeable or any(stride < 0 for stride in value.strides):
        value = value.copy()
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError) as error:
        raise DtypeError(
            f"{name}: expected an array of numbers in native byte order, got {value.dtype}; "
            "convert it with astype"
        ) from error


def as_tensors(**values: Any) -> tuple[Any, ...]:
    """Do what `as_tensor` does for each of the arguments of a call."""
    return tuple(as_tensor(name, value) for name, value in values.items())


def check_hidden(name: str, value: Any) -> torch.Size:
    """Check for a floating tensor (..., D) with D >= 1; returns its shape."""
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name}: expected a tensor or NumPy array, got {describe(value)}")
    if value.dtype not in FLOATS:
        raise DtypeError(
            f"{name}: expected {FLOAT_NAMES}, got {describe(value)}; convert it with .float()"
        )
    if value.layout is not torch.strided or value.is_nested:
        raise not_dense(name, value)
    shape = value.shape
    if not shape or shape[-1] == 0:
        raise ArgumentError(f"{name}: expected (..., D) with D >= 1, got {describe(value)}")
    return shape


def check_values(value: Any) -> None:
    """Check that hidden states are not on meta; fakes of the ops take those too."""
    if isinstance(value, Tensor) and value.is_meta:
        raise DtypeError("hidden: expected values, got a tensor on meta, which has none")


def not_dense(name: str, value: Tensor) -> Exception:
    """Build the error for a sparse or nested tensor."""
    kind = "a nested tensor" if value.is_nested else f"one of layout {value.layout}"
    return DtypeError(
        f"{name}: expected a dense tensor, got {kind}; make it one (.to_dense(), or "
        ".to_padded_tensor() with a mask)"
    )


def resolved(value: Tensor) -> Tensor:
    """Return the values in memory: a lazily negated view (z.conj().imag) has others there."""
    return value.resolve_neg() if value.is_neg() else value


def as_rows(value: Tensor) -> Tensor:
    """Flatten (..., D) to N rows with contiguous columns: a view where the strides allow it."""
    value = resolved(value)
    if value.dim() != 2:
        value = value.reshape(-1, value.shape[-1])
    if not value.is_contiguous() and value.stride(1) != 1 and value.shape[1] > 1:
        value = value.contiguous()
    return value


def as_vector(value: Tensor) -> Tensor:
    """Flatten to one contiguous dimension: the tensor itself where it is that already."""
    return resolved(value if value.dim() == 1 else value.reshape(-1)).contiguous()


def per_row(
    name: str, value: Any, dtypes: tuple[torch.dtype, ...], n: int, device: torch.device
) -> Tensor:
    """Check for N values of one of the dtypes on the device of hidden; return them as a vector."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes or value.numel() != n:
        raise unexpected(name, value, dtypes, f"{n} values")
    check_device(name, value, "hidden", device)
    return as_vector(value)


def group_per_row(group: Any, n: int, device: torch.device) -> Tensor | None:
    """Check for the groups of N rows, uint8 or bool; return them as a vector of uint8."""
    if group is None:
        return None
    return per_row("group", group, (torch.uint8, torch.bool), n, device).view(torch.uint8)


def check_segments(order: Any, starts: Any, device: torch.device) -> None:
    """Check for what `segments` gives, on the device of hidden."""
    check_tensor("order", order, (torch.int64,), "(M,)", lambda t: t.dim() == 1)
    check_tensor(
        "starts", starts, (torch.int64,), "(S + 1,)", lambda t: t.dim() == 1 and len(t) > 0
    )
    check_device("order", order, "hidden", device)
    check_device("starts", starts, "hidden", device)


def group_error(group: Tensor, groups: int) -> ArgumentError:
    """Build the error for a row of a group that there is not."""
    return ArgumentError(
        f"group: expected values up to groups={groups}, got {int(group.max())} in row "
        f"{int(group.argmax())}"
    )


def check_same(
    name: str, value: Any, like: str, other: Tensor, shape: tuple[int, ...] | None = None
) -> None:
    """Check for a tensor with the dtype, the device and, unless another is given, the shape."""
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name}: expected a tensor or NumPy array, got {describe(value)}")
    check_dtype(name, value, like, other.dtype)
    check_device(name, value, like, other.device)
    if value.shape != (other.shape if shape is None else shape):
        wanted = f"the shape of {like}, {tuple(other.shape)}" if shape is None else f"{shape}"
        raise ArgumentError(f"{name}: expected {wanted}, got {describe(value)}")


def check_dtype(name: str, value: Tensor, like: str, dtype: torch.dtype) -> None:
    """Check that a tensor has the dtype of another."""
    if value.dtype != dtype:
        raise DtypeError(
            f"{name}: expected the dtype of {like}, {dtype_name(dtype)}, "
            f"got {describe(value)}; convert one of them"
        )


def check_device(name: str, value: Tensor, like: str, device: torch.device) -> None:
    """Check that a tensor is on the device of another."""
    if value.device != device:
        raise DtypeError(
            f"{name}: expected a tensor on {device} like {like}, got one on "
            f"{value.device}; move it with .to({str(device)!r})"
        )


def check_tensor(
    name: str,
    value: Any,
    dtypes: tuple[torch.dtype, ...],
    shape: str,
    fits: Callable[[Tensor], bool],
) -> None:
    """Check dtype and, by `fits`, shape; `shape` is how the message says what was expected."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes or not fits(value):
        raise unexpected(name, value, dtypes, shape)


def unexpected(name: str, value: Any, dtypes: tuple[torch.dtype, ...], shape: str) -> Exception:
    """Build the error for a value that is no tensor of these dtypes, or one of another shape."""
    typed = isinstance(value, Tensor) and value.dtype in dtypes
    error: type[Exception] = ArgumentError if typed else DtypeError
    wanted = " or ".join(dtype_name(dtype) for dtype in dtypes)
    return error(f"{name}: expected {shape} {wanted}, got {describe(value)}")
