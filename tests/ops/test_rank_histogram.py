"""ops.rank_histogram_*: counts and rank sums of 16-bit patterns against plain loops."""

import numpy as np
import pytest
import torch
from ops.oracles import BACKENDS, hidden_states, same_bytes, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DtypeError


def tables(touched):
    """An index with a page for each one touched, and room for them."""
    index = torch.full(touched.shape, -1, dtype=torch.int32)
    index[touched.bool()] = torch.arange(int(touched.sum()), dtype=torch.int32)
    pages = torch.zeros(2, int(touched.sum()), 256, dtype=torch.int64)
    return index, pages


def expected(hidden, dims, ids, rank, mask):
    """Dense counts and rank sums [2, S, 65536]."""
    dense = np.zeros((2, len(dims), 1 << 16), dtype=np.int64)
    patterns = hidden.view(torch.int16).numpy().view(np.uint16)
    for s, dim in enumerate(dims):
        for row in np.flatnonzero(mask):
            dense[0, s, patterns[row, dim]] += 1
            dense[1, s, patterns[row, dim]] += int(rank[ids[row]])
    return dense


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(0, 4), (1, 1), (37, 20), (1300, 65)])
def test_matches_a_loop(backend, dtype, n, d):
    hidden = hidden_states(n, d, dtype)
    if n > 3:
        hidden[1, 0], hidden[2, 0], hidden[3, 0] = torch.nan, torch.inf, -0.0
    dims = torch.randperm(d)[: min(d, 11)]
    ids, mask = zipf_ids(n), torch.arange(n) % 5 != 4
    rank = torch.arange(500) * 3 + 1
    touched = ops.rank_histogram_touch(hidden, dims, mask=mask, backend=backend)
    index, pages = tables(touched)
    for _ in range(2):  # added to, not written
        ops.rank_histogram_add(hidden, dims, ids, rank, index, *pages, mask=mask, backend=backend)
    want = expected(hidden, dims, ids, rank, mask)
    np.testing.assert_array_equal(
        touched.numpy(), want[0].reshape(len(dims), 256, 256).any(2).astype(np.uint8)
    )
    dense = torch.zeros(2, len(dims), 256, 256, dtype=torch.int64)
    dense[:, touched.bool()] = pages[:, index[touched.bool()].long()]
    np.testing.assert_array_equal(dense.view(2, len(dims), -1), 2 * want)

    # Strided rows give the same.
    margins = torch.full((n, d + 9), torch.nan, dtype=dtype)
    margins[:, 4 : 4 + d] = hidden
    again = torch.zeros_like(pages)
    for _ in range(2):
        ops.rank_histogram_add(
            margins[:, 4 : 4 + d], dims, ids, rank, index, *again, mask=mask, backend=backend
        )
    assert same_bytes([pages], [again])


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_of_values(backend):
    hidden = torch.ones(3, 2).half()
    dims, ids, rank = torch.tensor([0, 1]), torch.tensor([0, 1, 2]), torch.arange(3)
    index, pages = tables(ops.rank_histogram_touch(hidden, dims, backend=backend))
    with pytest.raises(ArgumentError, match="ids or page_index"):
        ops.rank_histogram_add(hidden, dims, ids + 1, rank, index, *pages, backend=backend)
    for bad in (index - 1, index + 1):
        with pytest.raises(ArgumentError, match=r"ids or page_index: .*page"):
            ops.rank_histogram_add(hidden, dims, ids, rank, bad, *pages, backend=backend)
    with pytest.raises(ArgumentError, match=r"dims: expected columns in \[0, 2\), got 2"):
        ops.rank_histogram_add(hidden, dims + 1, ids, rank, index, *pages, backend=backend)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(3, 2)}, DtypeError, "hidden: expected (..., D) float16 or bfloat16"),
        ({"dims": torch.zeros(2)}, DtypeError, "dims: expected (S,) int64, got (2,) float32"),
        ({"ids": torch.zeros(2).long()}, ArgumentError, "ids: expected 3 values int64"),
        ({"double_rank": torch.zeros(2, 2).long()}, ArgumentError, "double_rank: expected (V,)"),
        ({"page_index": torch.zeros(1, 256).int()}, ArgumentError,
         "page_index: expected (2, 256) int32"),
        ({"count": torch.zeros(3, 255).long()}, ArgumentError,
         "count: expected contiguous (pages, 256) int64"),
        ({"rank_sum": torch.zeros(4, 256).long()}, ArgumentError,
         "rank_sum: expected contiguous (3, 256) int64"),
        ({"mask": torch.ones(3)}, DtypeError, "mask: expected 3 values bool"),
    ],
)  # fmt: skip
def test_errors(change, error, text):
    arguments = {
        "hidden": torch.ones(3, 2).half(),
        "dims": torch.tensor([0, 1]),
        "ids": torch.tensor([0, 1, 2]),
        "double_rank": torch.arange(3),
        "page_index": torch.zeros(2, 256, dtype=torch.int32),
        "count": torch.zeros(3, 256, dtype=torch.int64),
        "rank_sum": torch.zeros(3, 256, dtype=torch.int64),
    }
    with pytest.raises(error) as caught:
        ops.rank_histogram_add(**arguments | change)
    assert text in str(caught.value)
