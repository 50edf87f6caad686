"""Leaving out blocks: against textbook formulas, and how often the interval holds the truth."""

import numpy as np
import pytest
from outdim.stats.jackknife import LeftOut, pearson, ratio
from scipy import stats


def sums_of(x, y, block, blocks):
    """What `pearson` takes, about zero, of columns x [N, K] and y [N, D]."""
    one_hot = np.eye(blocks)[block]
    n = one_hot.sum(0)
    by = lambda values: np.tensordot(one_hot, values, (0, 0))  # noqa: E731
    return (
        n, by(x)[..., None], by(y)[:, None], by(x * x)[..., None], by(y * y)[:, None],
        by(x[..., None] * y[:, None]),
    )  # fmt: skip


def test_r_and_its_left_out_values():
    rng = np.random.default_rng(0)
    x, y, block = rng.normal(size=(200, 3)), rng.normal(size=(200, 2)), rng.integers(0, 6, 200)
    found = pearson(*sums_of(x, y, block, 7))
    assert found.used.tolist() == [True] * 6 + [False]
    np.testing.assert_allclose(found.value, np.corrcoef(x.T, y.T)[:3, 3:], atol=1e-12)
    for b in range(6):
        rest = block != b
        want = np.corrcoef(x[rest].T, y[rest].T)[:3, 3:]
        np.testing.assert_allclose(found.without[b], want, atol=1e-12)


def test_a_constant_has_no_r():
    x, y = np.full((50, 1), 0.1), np.random.default_rng(0).normal(size=(50, 1))
    assert np.isnan(pearson(*sums_of(x, y, np.arange(50) % 5, 5)).value)


def test_the_interval_of_a_mean_is_that_of_the_block_means():
    values = np.random.default_rng(1).normal(size=(8, 10))
    found = ratio(values.sum(1), np.full(8, 10.0))
    low, high = found.interval()
    want = stats.t.interval(0.95, 7, values.mean(), stats.sem(values.mean(1)))
    np.testing.assert_allclose([low, high], want, atol=1e-12)


@pytest.mark.slow
def test_the_interval_of_r_holds_the_truth_as_often_as_it_says():
    rng, inside, tries = np.random.default_rng(2), 0, 400
    for _ in range(tries):
        x = rng.normal(size=(600, 1))
        y = 0.6 * x + 0.8 * rng.normal(size=(600, 1))
        low, high = pearson(*sums_of(x, y, np.arange(600) % 20, 20)).interval(correlation=True)
        inside += bool(low < 0.6 < high)
    assert 0.92 < inside / tries < 0.98


def test_few_blocks_give_no_interval():
    found = ratio(np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 0.0]))
    assert found.value == 0.75
    assert all(np.isnan(end) for end in found.interval())


def test_each_value_rests_on_its_own_blocks():
    rng = np.random.default_rng(4)
    values, there = rng.normal(size=(20, 5)), np.zeros((20, 5), bool)
    for cell, blocks in enumerate((0, 2, 4, 5, 20)):
        there[:blocks, cell] = True
    found = ratio(np.where(there, values, 0), there.astype(float))
    assert found.blocks.tolist() == [0, 2, 4, 5, 20]
    low, high = found.interval()
    assert np.isnan([low[:3], high[:3]]).all()
    for cell, blocks in ((3, 5), (4, 20)):
        own = values[:blocks, cell]
        want = stats.t.interval(0.95, blocks - 1, own.mean(), stats.sem(own))
        np.testing.assert_allclose([low[cell], high[cell]], want, atol=1e-12)


def test_a_difference_rests_on_the_blocks_that_both_have():
    there = np.ones((2, 8, 2))
    there[0, 6:, 0] = there[1, 2:, 1] = 0
    rng = np.random.default_rng(5)
    one, other = (ratio(rng.normal(size=(8, 2)) * own, own) for own in there)
    change = one - other
    assert change.blocks.tolist() == [6, 2]
    assert np.isfinite(change.interval()[0]).tolist() == [True, False]


@pytest.mark.parametrize("blocks", [5, 10, 20])
def test_the_interval_of_a_rare_cell_holds_the_truth_as_often_as_it_says(blocks):
    there = np.zeros((20, 4001))
    there[:blocks], there[:, -1] = 1, 1  # the last one is in every block
    values = np.random.default_rng(blocks).normal(size=there.shape) * there
    low, high = ratio(values, there).interval()
    assert 0.935 < np.mean((low < 0) & (high > 0)) < 0.965  # four standard errors


def test_a_difference_is_paired():
    rng = np.random.default_rng(3)
    level = rng.normal(size=10) * 5
    one, other = (ratio(level + shift, np.ones(10)) for shift in (1.0, 0.0))
    change = one - other
    assert isinstance(change, LeftOut)
    low, high = change.interval()
    assert (float(low), float(high)) == (pytest.approx(1.0), pytest.approx(1.0))
