"""ops.unit_sums: against unit vectors added up in extended precision."""

from functools import cache

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


def oracle(hidden, segment, left_out=()):
    """[S, 4, D]: the sums, each row by its norm in long double."""
    h = hidden.double().numpy().astype(np.longdouble)
    rest = h.copy()
    rest[:, list(left_out)] = 0
    sums = np.zeros((S, 4, h.shape[1]), np.longdouble)
    for place, rows in ((0, h), (2, rest)):
        norm = np.sqrt((rows**2).sum(1, keepdims=True))
        unit = rows / np.where(norm > 0, norm, 1)
        for s in range(S):
            of = unit[segment.numpy() == s]
            sums[s, place], sums[s, place + 1] = of.sum(0), (of**2).sum(0)
    return sums


def left_out_of(d):
    return sorted({0, d // 2, d - 1})


@cache  # long double is slow, and every backend is held against the same
def of_the_oracle(n, d, dtype):
    hidden = hidden_states(n, d, dtype)
    return oracle(hidden, zipf_segments(n, S), left_out_of(d)).astype(np.float64)


def sums_of(hidden, segment, left_out=None, **options):
    left_out = None if left_out is None else torch.tensor(left_out, dtype=torch.int64)
    return ops.unit_sums(hidden, *ops.segments(segment, S), left_out=left_out, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_the_oracle(backend, n, d):
    """Relative to the number of rows: an error of a norm of D terms, and of a sum of N."""
    for dtype in dtypes(n, backend):
        hidden, segment = hidden_states(n, d, dtype), zipf_segments(n, S)
        found = sums_of(hidden, segment, left_out_of(d), backend=backend)
        expected = of_the_oracle(n, d, dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14 * max(n, 1))


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("d", [205, 256])
def test_any_number_of_threads_gives_the_same_bytes(dtype, d):
    """Of segments that are cut (2,500 rows) too; instruction sets may differ by rounding."""
    hidden, segment = hidden_states(3000, d, dtype), zipf_segments(3000, S)
    segment[100:2600] = 2
    expected = oracle(hidden, segment, [1]).astype(np.float64)
    for found in of_every_kernel(lambda: sums_of(hidden, segment, [1])):
        assert same_bytes(found[:1] * 2, found[1:])
        np.testing.assert_allclose(found[0], expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_rows_of_none(backend):
    """NaN around the rows and in rows of no segment is never looked at."""
    hidden, segment = hidden_states(64, 50), zipf_segments(64, S)
    hidden[segment < 0] = torch.nan
    hidden[segment >= S] = torch.inf
    margins = torch.full((66, 59), torch.nan)
    margins[1:65, 4:54] = hidden
    found = sums_of(margins[1:65, 4:54], segment, [7], backend=backend)
    assert bool(found.isfinite().all())
    assert same_bytes([found], [sums_of(hidden, segment, [7], backend=backend)])
    batch = sums_of(hidden.view(4, 16, 50), segment.view(4, 16), [7], backend=backend)
    assert same_bytes([found], [batch])
    columns = hidden.T.contiguous().T
    assert same_bytes([found], [sums_of(columns, segment, [7], backend=backend)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_hides_its_segment(backend, bad):
    hidden, segment = hidden_states(90, 40), torch.arange(90) % 3
    expected = sums_of(hidden, segment, [5], backend=backend)
    hidden[4, 5] = bad  # in segment 1, in what is left out
    hidden[8, 39] = bad  # in segment 2
    found = sums_of(hidden, segment, [5], backend=backend)
    np.testing.assert_array_equal(found[0], expected[0])
    assert bool(found[1, :2].isnan().all())
    np.testing.assert_allclose(found[1, 2:], expected[1, 2:], rtol=1e-15)
    kept = torch.arange(40) != 5
    assert bool(found[2][:, kept].isnan().all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_a_direction_count_as_zeros(backend):
    hidden = torch.zeros(3, 40)
    hidden[1, 7] = -3e38  # whose square float32 has not
    hidden[2, 8] = 1e-40  # nor that of a subnormal number
    found = sums_of(hidden, torch.tensor([0, 1, 2]), [7], backend=backend)
    assert found[0].abs().sum() == 0
    assert found[1].nonzero().tolist() == [[0, 7], [1, 7]]
    assert found[1, :2, 7].tolist() == [-1, 1]
    assert found[2, :, 8].tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_left_out_may_be_nearly_all(backend):
    """A difference of norms would be noise: the others are 1e-9 of the dimension left out."""
    hidden, segment = torch.randn(200, 33, generator=torch.Generator().manual_seed(0)), None
    hidden[:, 4] = 1e9
    segment = torch.arange(200) % S
    found = sums_of(hidden, segment, [4], backend=backend)
    expected = oracle(hidden, segment, [4]).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    hidden, (order, starts) = hidden_states(37, 20), ops.segments(zipf_segments(37, S), S)
    for left_out in (None, torch.tensor([2, 19])):
        torch.library.opcheck(
            torch.ops.outdim.unit_sums.default, (hidden, order, starts, left_out, backend)
        )
    compiled = torch.compile(
        lambda h: ops.unit_sums(h, order, starts, backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    eager = ops.unit_sums(hidden, order, starts, backend=backend)
    assert same_bytes([eager], [compiled(hidden)])


def arguments():
    return {
        "hidden": torch.ones(3, 2),
        "order": torch.tensor([0, 1, 2]),
        "starts": torch.tensor([0, 2, 3]),
    }


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(3, 2).long()}, DtypeError, "hidden: expected float32"),
        ({"order": torch.ones(3)}, DtypeError, "order: expected (M,) int64, got (3,) float32"),
        ({"starts": torch.zeros(0).long()}, ArgumentError, "starts: expected (S + 1,) int64"),
        ({"left_out": torch.ones(1)}, DtypeError, "left_out: expected (L,) int64, got (1,)"),
    ],
)
def test_errors(change, error, text):
    with pytest.raises(error) as caught:
        ops.unit_sums(**arguments() | change)
    assert text in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        {"order": torch.tensor([0, 1, 3])},
        {"order": torch.tensor([0, -1, 2])},
        {"starts": torch.tensor([0, 2, 4])},
        {"starts": torch.tensor([0, 3, 2])},
        {"left_out": torch.tensor([2])},
        {"left_out": torch.tensor([-1])},
    ],
)
def test_errors_of_values(backend, change):
    with pytest.raises(ArgumentError, match="order, starts or left_out"):
        ops.unit_sums(**arguments() | change, backend=backend)
