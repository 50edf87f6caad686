"""Hadamard matrices: orthogonal, of the widths that models have."""

import numpy as np
import pytest
from outdim.stats.hadamard import hadamard


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 28, 36, 40, 44, 60, 64, 76, 384, 576, 768, 960])
def test_rows_are_orthogonal_signs(size):
    found = hadamard(size)
    assert set(np.unique(found)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(found @ found.T, size * np.eye(size))


@pytest.mark.parametrize("size", [3, 6, 13, 50, 92])
def test_others_are_not_made(size):
    assert hadamard(size) is None


def test_what_stands_in_one_dimension_is_spread_evenly():
    spread = hadamard(576) / 24 @ np.eye(576)[7]
    np.testing.assert_allclose(np.abs(spread), 1 / 24)
