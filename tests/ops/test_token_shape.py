"""ops.token_shape: places against NumPy, the kurtosis against extended precision."""

import numpy as np
import pytest
import torch
from ops.oracles import (
    BACKENDS,
    DTYPES,
    dtypes,
    hidden_states,
    needs_core,
    of_every_kernel,
    same_bytes,
)
from outdim import ops
from outdim.errors import ArgumentError, DtypeError

SHAPES = [(0, 64), (1, 1), (1, 4096), (37, 1), (37, 64), (37, 1023), (700, 769)]


def check(found, hidden):
    """As NumPy says it: argmin and argmax take the first of equal values, and NaN as both."""
    h = hidden.double().numpy()
    np.testing.assert_array_equal(found.smallest, h.argmin(1))
    np.testing.assert_array_equal(found.largest, h.argmax(1))
    x = h.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        kurtosis = (x**4).mean(1) / (x**2).mean(1) ** 2 - 3
    # Sums of D terms that do not cancel, each rounded to 2^-53.
    error = h.shape[1] * 2.0**-51 * (np.abs(kurtosis) + 3)
    finite = np.isfinite(kurtosis)
    given = np.asarray(found.kurtosis)
    np.testing.assert_array_equal(np.isfinite(given), finite)
    assert (np.abs(given - kurtosis)[finite] <= error[finite]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_numpy(backend, n, d):
    for dtype in dtypes(n, backend):
        hidden = hidden_states(n, d, dtype)
        check(ops.token_shape(hidden, backend=backend), hidden)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_ties_zeros_and_values_that_are_not_finite(backend, dtype):
    """At every place of a row, in whole groups of columns and behind them."""
    d = 45
    rows = []
    for place in range(d):
        for value in (torch.nan, torch.inf, -torch.inf, 3.0, -3.0, 0.0):
            row = torch.ones(d) if place % 2 else -torch.ones(d)
            row[place] = value
            row[-1 - place] = value  # the same value twice
            rows.append(row)
    rows += [torch.zeros(d), -torch.zeros(d), torch.full((d,), -torch.inf), torch.ones(d)]
    rows += [torch.full((d,), torch.nan), torch.full((d,), 6e4), torch.full((d,), 6e-5)]
    hidden = torch.stack(rows).to(dtype)
    check(ops.token_shape(hidden, backend=backend), hidden)
    for width in (1, 7):
        check(ops.token_shape(hidden[:, :width], backend=backend), hidden[:, :width])


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_that_float32_could_not_square(backend):
    hidden = torch.tensor(
        [[1e30, 1e30, -1e30, 0.0], [1e-30, 0.0, 0.0, 0.0], [3e38, 3e38, 0, 1e-40]]
    )
    check(ops.token_shape(hidden, backend=backend), hidden)


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_every_instruction_set_agrees_and_threads_give_the_same_bytes(dtype):
    hidden = hidden_states(300, 205, dtype)
    for found in of_every_kernel(lambda: ops.token_shape(hidden)):
        check(found[0], hidden)
        assert all(same_bytes(found[0], other) for other in found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_rows_left_out(backend):
    hidden = hidden_states(64, 50)
    group = (torch.arange(64) % 5).byte()
    margins = torch.full((66, 59), torch.nan)
    margins[1:65, 4:54] = hidden
    margins[1:65][group == 0] = torch.nan
    found = ops.token_shape(margins[1:65, 4:54], group=group, backend=backend)
    left = group == 0
    check(ops.TokenShape(*(part[~left] for part in found)), hidden[~left])
    assert (found.smallest[left] == -1).all()
    assert (found.largest[left] == -1).all()
    assert found.kurtosis[left].isnan().all()
    for other in (hidden.view(4, 16, 50), hidden.T.contiguous().T):
        given = group.view(other.shape[:-1])
        assert same_bytes(found, ops.token_shape(other, group=given, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    hidden, group = hidden_states(37, 20), (1 + torch.arange(37) % 3).byte()
    for of in (group, None):
        torch.library.opcheck(torch.ops.outdim.token_shape.default, (hidden, of, backend))
    compiled = torch.compile(
        lambda h: tuple(ops.token_shape(h, group=group, backend=backend)),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    assert same_bytes(compiled(hidden), ops.token_shape(hidden, group=group, backend=backend))


def test_arrays_in_arrays_out():
    hidden = hidden_states(37, 20)
    found = ops.token_shape(hidden.numpy())
    assert all(isinstance(part, np.ndarray) for part in found)
    assert same_bytes([torch.from_numpy(part) for part in found], ops.token_shape(hidden))


def test_errors():
    with pytest.raises(DtypeError, match="hidden: expected float32"):
        ops.token_shape(torch.ones(3, 2).int())
    with pytest.raises(ArgumentError, match="hidden: expected"):
        ops.token_shape(torch.ones(3, 0))
    with pytest.raises(DtypeError, match="group: expected 3 values uint8 or bool"):
        ops.token_shape(torch.ones(3, 2), group=torch.ones(3))
