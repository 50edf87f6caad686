"""What the references share: dtype of arithmetic, blocks of rows, checks of what is looked up."""

import torch
from torch import Tensor

# Rows are reduced in blocks of about this many values, which bounds the memory of the float64
# temporaries (six of them) to about 100 MB whatever N is.
BLOCK_VALUES = 1 << 21


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic of a row: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def segment_sizes(order: Tensor, starts: Tensor) -> Tensor:
    """Rows of each segment; raises as the kernels do."""
    sizes = starts.diff()
    if (sizes < 0).any() or starts[0] < 0 or starts[-1] > len(order):
        raise IndexError("starts do not ascend within order")
    return sizes


def rows_of_segments(hidden: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that segments have, in their order, and the segment of each."""
    sizes = segment_sizes(order, starts)
    order = order[starts[0] : starts[-1]]
    check_index(order, len(hidden), "order is outside hidden")
    return order, torch.arange(len(sizes), device=hidden.device).repeat_interleave(sizes)


def check_index(index: Tensor, size: int, message: str) -> None:
    """Raise as the kernels do; torch would let a negative index wrap around."""
    if index.numel() and (index.min() < 0 or index.max() >= size):
        raise IndexError(message)
