"""Accumulators of points on a GPU that begin with a state of the CPU."""

import pytest
from stats.test_point_accumulators import KINDS, assert_same, begin, forward

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["comoments", "magnitudes", "extremes", "units", "covariances"])
def test_a_state_merged_on_the_cpu_grows_on_a_gpu(device, kind):
    first = forward(KINDS[kind](), 0).state_dict()
    mine, expected = (KINDS[kind]().merge(first) for _ in range(2))
    for accumulator, where in ((mine, device), (expected, "cpu")):
        begin(accumulator, 1, device=where)
        accumulator.commit()
    assert_same(mine, expected)
