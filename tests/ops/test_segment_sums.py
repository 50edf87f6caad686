"""ops.segment_sums: against chains of additions in NumPy, to the bit."""

import numpy as np
import pytest
import torch
from ops.oracles import (
    BACKENDS,
    DTYPES,
    SHAPES,
    dtypes,
    hidden_states,
    needs_core,
    of_every_kernel,
    same_bytes,
    zipf_segments,
)
from outdim import ops
from outdim.errors import ArgumentError, DtypeError

S = 11  # segments


def chains(hidden, segment, start):
    """sums [S, 3, D] after adding the rows one by one."""
    h = hidden.double().numpy()
    sums = start.numpy().copy()
    for i, s in enumerate(segment.tolist()):
        if 0 <= s < len(sums):
            sums[s] += np.stack([h[i], np.abs(h[i]), h[i] * h[i]])
    return sums


def start_of(d):
    return torch.randn(S, 3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def added(hidden, segment, sums, **options):
    sums = sums.clone()
    ops.segment_sums(hidden, *ops.segments(segment, S), sums, **options)
    return sums


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_chains_of_additions_to_the_bit(backend, n, d):
    for dtype in dtypes(n, backend):
        hidden, segment, start = hidden_states(n, d, dtype), zipf_segments(n, S), start_of(d)
        found = added(hidden, segment, start, backend=backend)
        np.testing.assert_array_equal(found, chains(hidden, segment, start))


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_every_instruction_set_and_thread_gives_the_same_bytes(dtype):
    hidden, segment, start = hidden_states(900, 205, dtype), zipf_segments(900, S), start_of(205)
    segment[100:700] = 2  # one long segment, which is cut by columns
    want = chains(hidden, segment, start)
    for found in of_every_kernel(lambda: added(hidden, segment, start)):
        for one in found:
            np.testing.assert_array_equal(one, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_any_split_gives_the_same_bytes(backend, dtype):
    hidden, segment = hidden_states(300, 70, dtype), zipf_segments(300, S)
    whole = added(hidden, segment, start_of(70), backend=backend)
    for cuts in ([1, 299], [37, 150], [128]):
        parts = start_of(70)
        sizes = np.diff([0, *cuts, 300]).tolist()
        for h, s in zip(hidden.split(sizes), segment.split(sizes), strict=True):
            parts = added(h, s, parts, backend=backend)
        assert same_bytes([whole], [parts])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_rows_of_none(backend):
    """NaN around the rows and in rows of no segment is never looked at."""
    hidden, segment = hidden_states(64, 50), zipf_segments(64, S)
    hidden[segment < 0] = torch.nan
    hidden[segment >= S] = torch.inf
    margins = torch.full((66, 59), torch.nan)
    margins[1:65, 4:54] = hidden
    found = added(margins[1:65, 4:54], segment, start_of(50), backend=backend)
    assert bool(found.isfinite().all())
    assert same_bytes([found], [added(hidden, segment, start_of(50), backend=backend)])
    batch = added(hidden.view(4, 16, 50), segment.view(4, 16), start_of(50), backend=backend)
    assert same_bytes([found], [batch])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nonfinite_values_stay_in_their_segment_and_dimension(backend):
    hidden, segment = torch.ones(3, 40), torch.tensor([0, 1, 2])
    hidden[0, 1], hidden[1, 39], hidden[2, 0] = torch.nan, torch.inf, -torch.inf
    found = added(hidden, segment, torch.zeros(S, 3, 40, dtype=torch.float64), backend=backend)
    assert (~found.isfinite()).all(1).nonzero().tolist() == [[0, 1], [1, 39], [2, 0]]
    assert found[2, :, 0].tolist() == [-torch.inf, torch.inf, torch.inf]


@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_one_row_and_writing_another_keeps_the_state_before(backend):
    hidden, segment = hidden_states(200, 33), zipf_segments(200, S)
    order, starts = ops.segments(segment, S)
    table = torch.full((2 * S, 3, 33), torch.nan, dtype=torch.float64)
    table[:S] = start_of(33)
    read = torch.arange(S)
    read[5] = -1
    ops.segment_sums(hidden, order, starts, table, read=read, write=S + torch.arange(S),
                     backend=backend)  # fmt: skip
    assert same_bytes([table[:S]], [start_of(33)])
    before = start_of(33)
    before[5] = 0
    before[3] = torch.nan  # no rows: not even written
    np.testing.assert_array_equal(table[S:], chains(hidden, segment, before))


def test_segments_are_sorted_stably():
    order, starts = ops.segments(torch.tensor([[2, 0, 5], [2, -7, 0]]), 3)
    assert order.tolist() == [1, 5, 0, 3, 2, 4]
    assert starts.tolist() == [0, 2, 2, 4]
    order, starts = ops.segments(np.zeros(0, np.int64), 2)
    assert order.tolist() == []
    assert starts.tolist() == [0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    hidden, (order, starts) = hidden_states(37, 20), ops.segments(zipf_segments(37, S), S)
    shifted = (torch.arange(S) + 1) % S
    for read, write in ((None, None), (shifted, shifted)):
        torch.library.opcheck(
            torch.ops.outdim.segment_sums.default,
            (hidden, order, starts, start_of(20), read, write, backend),
        )
    compiled = torch.compile(
        lambda h, sums: ops.segment_sums(h, order, starts, sums, backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    eager, traced = start_of(20), start_of(20)
    ops.segment_sums(hidden, order, starts, eager, backend=backend)
    compiled(hidden, traced)
    assert same_bytes([eager], [traced])


def arguments():
    return {
        "hidden": torch.ones(3, 2),
        "order": torch.tensor([0, 1, 2]),
        "starts": torch.tensor([0, 2, 3]),
        "sums": torch.zeros(2, 3, 2, dtype=torch.float64),
    }


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(3, 2).long()}, DtypeError, "hidden: expected float32"),
        ({"order": torch.ones(3)}, DtypeError, "order: expected (M,) int64, got (3,) float32"),
        ({"starts": torch.zeros(0).long()}, ArgumentError, "starts: expected (S + 1,) int64"),
        ({"sums": torch.zeros(2, 3, 2)}, DtypeError, "sums: expected contiguous (R, 3, 2) float64"),
        ({"sums": torch.zeros(2, 2, 2).double()}, ArgumentError, "sums: expected contiguous"),
        ({"sums": torch.zeros(1, 3, 2).double()}, ArgumentError, "sums: expected a row for each"),
        ({"read": torch.zeros(3).long()}, ArgumentError, "read: expected (2,) int64, got (3,)"),
        ({"write": torch.zeros(2)}, DtypeError, "write: expected (2,) int64, got (2,) float32"),
    ],
)  # fmt: skip
def test_errors(change, error, text):
    with pytest.raises(error) as caught:
        ops.segment_sums(**arguments() | change)
    assert text in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        {"order": torch.tensor([0, 1, 3])},
        {"order": torch.tensor([0, -1, 2])},
        {"starts": torch.tensor([0, 2, 4])},
        {"starts": torch.tensor([0, 3, 2])},
        {"read": torch.tensor([0, -2])},
        {"write": torch.tensor([0, 2])},
        {"write": torch.tensor([1, 1])},
        {"write": torch.tensor([1, 0])},
    ],
)
def test_errors_of_values(backend, change):
    with pytest.raises(ArgumentError, match="order, starts, read or write"):
        ops.segment_sums(**arguments() | change, backend=backend)


def test_errors_of_segments():
    with pytest.raises(DtypeError, match="segment: expected N values int64, got"):
        ops.segments(torch.zeros(3), 2)
    with pytest.raises(ArgumentError, match="count: expected a number of segments, got -1"):
        ops.segments(torch.zeros(3).long(), -1)
