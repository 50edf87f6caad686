"""Histograms over the 65,536 patterns of a 16-bit type: counts and sums of frequency ranks.

`outdim.stats.RankHistogram` is the accumulator that grows the pages and computes Spearman's rho.
"""

from typing import Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import RankAddCall, RankTouchCall
from outdim.ops._check import (
    as_rows,
    as_tensors,
    as_vector,
    check_device,
    check_hidden,
    check_tensor,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register

PAGE_BINS = 256

_HALVES = (torch.float16, torch.bfloat16)


def rank_histogram_touch(
    hidden: Any,
    dims: Any,
    *,
    mask: Any = None,
    backend: Backend = "auto",
) -> Any:
    """Say which pages of 256 bins the rows of a batch need.

    Args:
        hidden: (..., D) float16 or bfloat16.
        dims: [S] int64, columns of hidden.
        mask: N values, bool, of any shape: False leaves the row out.
        backend: "auto", "cpu", "cuda" or "reference".

    Returns:
        [S, 256] uint8, 1 where a row has a value with that high byte.

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`.

    Example:
        >>> import torch
        >>> hidden = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], dtype=torch.bfloat16)
        >>> touched = rank_histogram_touch(hidden, torch.tensor([0]))
        >>> touched.nonzero().tolist()  # dimension 0: high bytes 0x3f (of 1.0) and 0xbf (of -1.0)
        [[0, 63], [0, 191]]
    """
    hidden, dims, mask = as_tensors(hidden=hidden, dims=dims, mask=mask)
    if via_op(hidden):
        return torch.ops.outdim.rank_histogram_touch(hidden.detach(), dims, mask, backend)
    return _touch(hidden, dims, mask, backend)


def rank_histogram_add(
    hidden: Any,
    dims: Any,
    ids: Any,
    double_rank: Any,
    page_index: Tensor,
    count: Tensor,
    rank_sum: Tensor,
    *,
    mask: Any = None,
    backend: Backend = "auto",
) -> None:
    """Add the rows of a batch to the pages, in place.

    Args:
        hidden: (..., D) float16 or bfloat16.
        dims: [S] int64, columns of hidden.
        ids: N token ids, int64, of any shape.
        double_rank: [V] int64, twice the mid-rank of each token's frequency.
        page_index: [S, 256] int32, page of each high byte, -1 where there is none. Every page
            that the rows need must exist: see `rank_histogram_touch`.
        count: [pages, 256] int64, number of rows by low byte, added to.
        rank_sum: [pages, 256] int64, sum of their double ranks, added to.
        mask: N values, bool, of any shape: False leaves the row out.
        backend: "auto", "cpu", "cuda" or "reference".

    Raises:
        ArgumentError, DtypeError, BackendError: As `moments`.
    """
    hidden, dims, ids, double_rank, mask = as_tensors(
        hidden=hidden, dims=dims, ids=ids, double_rank=double_rank, mask=mask
    )
    add = torch.ops.outdim.rank_histogram_add if via_op(hidden) else _add
    add(hidden.detach(), dims, ids, double_rank, page_index, count, rank_sum, mask, backend)


def _prepare(hidden: Tensor, dims: Any, mask: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Validate what both steps take; hidden as rows, dims and mask contiguous."""
    check_hidden("hidden", hidden)
    check_tensor("hidden", hidden, _HALVES, "(..., D)", lambda t: True)
    rows = as_rows(hidden)
    n = rows.shape[0]
    check_tensor("dims", dims, (torch.int64,), "(S,)", lambda t: t.dim() == 1)
    check_device("dims", dims, "hidden", rows.device)
    if mask is not None:
        check_tensor("mask", mask, (torch.bool,), f"{n} values", lambda t: t.numel() == n)
        check_device("mask", mask, "hidden", rows.device)
        mask = as_vector(mask)
    return rows, dims.contiguous(), mask


def _check_dims(dims: Tensor, d: int) -> None:
    if dims.device.type == "cpu" and dims.numel():
        low, high = (int(value) for value in dims.aminmax())
        if low < 0 or high >= d:
            raise ArgumentError(
                f"dims: expected columns in [0, {d}), got {low if low < 0 else high}"
            )


def _touch(hidden: Tensor, dims: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    rows, dims, mask = _prepare(hidden, dims, mask)
    _check_dims(dims, rows.shape[1])
    touched = torch.zeros(len(dims), PAGE_BINS, dtype=torch.uint8, device=rows.device)
    call = RankTouchCall(dims, mask, touched)
    kernels(choose(backend, rows)).rank_histogram_touch(rows, call)
    return touched


def _touch_fake(hidden: Tensor, dims: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    _prepare(hidden, dims, mask)
    return hidden.new_empty((dims.shape[0], PAGE_BINS), dtype=torch.uint8)


def _add(
    hidden: Tensor,
    dims: Tensor,
    ids: Tensor,
    double_rank: Tensor,
    page_index: Tensor,
    count: Tensor,
    rank_sum: Tensor,
    mask: Tensor | None,
    backend: str,
) -> None:
    rows, dims, mask = _prepare(hidden, dims, mask)
    _check_dims(dims, rows.shape[1])
    call = _check_tables(rows, dims, ids, double_rank, page_index, count, rank_sum, mask)
    try:
        kernels(choose(backend, rows)).rank_histogram_add(rows, call)
    except IndexError as error:
        raise ArgumentError(f"ids or page_index: {error}") from error


def _add_fake(*arguments: Any) -> None:
    hidden, dims, ids, double_rank, page_index, count, rank_sum, mask, _ = arguments
    rows, dims, mask = _prepare(hidden, dims, mask)
    _check_tables(rows, dims, ids, double_rank, page_index, count, rank_sum, mask)


def _check_tables(
    rows: Tensor,
    dims: Tensor,
    ids: Tensor,
    double_rank: Tensor,
    page_index: Tensor,
    count: Tensor,
    rank_sum: Tensor,
    mask: Tensor | None,
) -> RankAddCall:
    n = rows.shape[0]
    index_shape = (len(dims), PAGE_BINS)
    check_tensor("ids", ids, (torch.int64,), f"{n} values", lambda t: t.numel() == n)
    check_tensor("double_rank", double_rank, (torch.int64,), "(V,)", lambda t: t.dim() == 1)
    check_tensor(
        "page_index", page_index, (torch.int32,), str(index_shape),
        lambda t: t.shape == index_shape and t.is_contiguous(),
    )  # fmt: skip
    check_tensor(
        "count", count, (torch.int64,), f"contiguous (pages, {PAGE_BINS})",
        lambda t: t.dim() == 2 and t.shape[1] == PAGE_BINS and t.is_contiguous(),
    )  # fmt: skip
    check_tensor(
        "rank_sum", rank_sum, (torch.int64,), f"contiguous {tuple(count.shape)}",
        lambda t: t.shape == count.shape and t.is_contiguous(),
    )  # fmt: skip
    for name, tensor in (
        ("ids", ids),
        ("double_rank", double_rank),
        ("page_index", page_index),
        ("count", count),
        ("rank_sum", rank_sum),
    ):
        check_device(name, tensor, "hidden", rows.device)
    return RankAddCall(
        dims,
        mask,
        as_vector(ids),
        double_rank.contiguous(),
        page_index,
        count,
        rank_sum,
    )


register(
    "rank_histogram_touch(Tensor hidden, Tensor dims, Tensor? mask, str backend) -> Tensor",
    _touch,
    _touch_fake,
)
register(
    "rank_histogram_add(Tensor hidden, Tensor dims, Tensor ids, Tensor double_rank, "
    "Tensor page_index, Tensor(a!) count, Tensor(b!) rank_sum, Tensor? mask, str backend) -> ()",
    _add,
    _add_fake,
)
