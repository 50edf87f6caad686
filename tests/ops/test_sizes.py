"""ops.sizes: the largest to the bit, squares against extended precision."""

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
)
from outdim import ops
from outdim.errors import ArgumentError, DtypeError

S = 7


def segment_ids(n):
    """Sequences side by side, some rows of none, sequence 3 empty."""
    segment = torch.arange(n) * S // max(n, 1)
    segment[segment == 3] = -1
    segment[::5] = -1
    return segment


def oracle(hidden, segment, rms):
    h = hidden.double().numpy()
    largest = np.stack([np.abs(h[segment.numpy() == s]).max(0, initial=0) for s in range(S)])
    long = h.astype(np.longdouble)
    mean = np.zeros((len(h), 1)) if rms else long.mean(1, keepdims=True)
    squares = np.concatenate([mean, ((long - mean) ** 2).sum(1, keepdims=True)], 1)
    squares[segment.numpy() < 0] = 0
    return largest, squares.astype(np.float64)


@cache  # long double is slow, and every backend is held against the same
def of_the_oracle(n, d, dtype, rms):
    return oracle(hidden_states(n, d, dtype), segment_ids(n), rms)


def sizes_of(hidden, segment, squares="layer_norm", **options):
    return ops.sizes(hidden, *ops.segments(segment, S), squares=squares, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_the_oracle(backend, n, d):
    for dtype in dtypes(n, backend):
        hidden, segment = hidden_states(n, d, dtype), segment_ids(n)
        for squares in ("layer_norm", "rms_norm"):
            found = sizes_of(hidden, segment, squares, backend=backend)
            largest, expected = of_the_oracle(n, d, dtype, squares == "rms_norm")
            np.testing.assert_array_equal(found.largest, largest)
            size = float(hidden.double().abs().max()) if n else 0
            np.testing.assert_allclose(found.squares, expected, rtol=1e-12, atol=1e-12 * size)


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_threads_and_instruction_sets(dtype):
    """A sequence that is cut too: the largest to the bit, squares to rounding between sets."""
    hidden, segment = hidden_states(3000, 205, dtype), segment_ids(3000)
    segment[100:2600] = 2
    hidden[2400, 7] = torch.nan
    largest, expected = oracle(hidden, segment, False)
    largest[2, 7] = np.nan
    for found in of_every_kernel(lambda: sizes_of(hidden, segment)):
        assert all(same_bytes(found[0], one) for one in found)
        np.testing.assert_array_equal(found[0].largest, largest)
        np.testing.assert_allclose(found[0].squares, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_what_is_not_finite_goes_its_way(backend, dtype):
    for place in (3, 39):  # in a whole vector, and at the end of a row
        hidden = torch.ones(4, 40, dtype=dtype)
        hidden[0, place], hidden[1, place], hidden[2, place] = torch.nan, -torch.inf, -2
        hidden[3, place] = torch.nan
        found = sizes_of(hidden, torch.tensor([0, 0, 1, 2]), backend=backend)
        assert bool(found.largest[[0, 2], place].isnan().all())
        assert found.largest[1, place] == 2
        assert float(found.largest[:2].nan_to_num(0).sum()) == 39 * 2 + 2
        assert found.squares[:, 1].isnan().tolist() == [True, True, False, True]
        alone = sizes_of(hidden, torch.tensor([-1, 0, 1, -1]), "rms_norm", backend=backend)
        assert alone.largest[0, place] == torch.inf
        assert alone.squares[:, 1].tolist() == [0, torch.inf, 43, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_rows_of_none(backend):
    hidden, segment = hidden_states(64, 50), segment_ids(64)
    hidden[segment < 0] = torch.nan
    margins = torch.full((66, 59), torch.nan)
    margins[1:65, 4:54] = hidden
    found = sizes_of(margins[1:65, 4:54], segment, backend=backend)
    assert bool(found.largest.isfinite().all())
    assert bool(found.squares.isfinite().all())
    assert same_bytes(found, sizes_of(hidden, segment, backend=backend))
    batch = sizes_of(hidden.view(4, 16, 50), segment.view(4, 16), backend=backend)
    assert same_bytes(found, batch)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_mean_takes_nothing_from_the_squares(backend):
    hidden = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) + 1000
    found = sizes_of(hidden, torch.zeros(20, dtype=torch.int64), backend=backend)
    expected = hidden.double().var(1, correction=0) * 300
    np.testing.assert_allclose(found.squares[:, 1], expected, rtol=1e-12)


def test_only_what_was_asked_for_is_there():
    hidden, segment = hidden_states(10, 8), segment_ids(10)
    assert sizes_of(hidden, segment, None).squares is None
    order, starts = ops.segments(segment, S)
    found = ops.sizes(hidden, order, starts, largest=False, squares="rms_norm")
    assert found.largest is None
    assert same_bytes([found.squares], [sizes_of(hidden, segment, "rms_norm").squares])


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    hidden, (order, starts) = hidden_states(37, 20), ops.segments(segment_ids(37), S)
    for largest, squares in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            torch.ops.outdim.sizes.default,
            (hidden, order, starts, largest, squares, False, backend),
        )
    compiled = torch.compile(
        lambda h: ops.sizes(h, order, starts, squares="rms_norm", backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    eager = ops.sizes(hidden, order, starts, squares="rms_norm", backend=backend)
    assert same_bytes(eager, compiled(hidden))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(3, 2).long()}, DtypeError, "hidden: expected float32"),
        ({"order": torch.ones(3)}, DtypeError, "order: expected (M,) int64, got (3,) float32"),
        ({"starts": torch.zeros(0).long()}, ArgumentError, "starts: expected (S + 1,) int64"),
        ({"squares": "rms"}, ArgumentError, 'squares: expected "layer_norm", "rms_norm" or None'),
        ({"order": torch.tensor([0, 1, 3])}, ArgumentError, "order or starts: "),
        ({"starts": torch.tensor([0, 3, 2])}, ArgumentError, "order or starts: "),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_errors(backend, change, error, text):
    given = {
        "hidden": torch.ones(3, 2),
        "order": torch.tensor([0, 1, 2]),
        "starts": torch.tensor([0, 2, 3]),
        "backend": backend,
    }
    with pytest.raises(error) as caught:
        ops.sizes(**given | change)
    assert text in str(caught.value)
