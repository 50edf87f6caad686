"""Intervals of shares: how often they hold the truth, and what they are where all agree."""

import numpy as np
import pytest
from outdim.stats.jackknife import BLOCKS, ratio
from outdim.stats.proportions import change_interval, proportion_interval, share_interval


def sums(hits, block):
    """Sums by block [blocks, T] of hits [T, documents], each in a block of its own try's."""
    blocks = np.eye(BLOCKS)[block]  # [T, documents, blocks]
    return np.moveaxis((blocks * hits[..., None]).sum(1), -1, 0)


@pytest.mark.parametrize(("share", "pieces"), [(0.5, 1), (0.9, 1), (0.9, 5), (0.97, 1)])
def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says(share, pieces):
    """12 documents of 1 or 5 sequences, all of which are alike."""
    rng = np.random.default_rng(0)
    hits = rng.random((2000, 12)) < share
    block = rng.integers(0, BLOCKS, hits.shape)
    found = ratio(sums(pieces * hits, block), sums(np.full(hits.shape, pieces), block))
    twelve = np.full(2000, 12.0)
    low, high = share_interval(found, pieces * twelve, twelve)
    assert np.mean((low <= share) & (share <= high)) > 0.93
    assert bool(((low <= found.value) & (found.value <= high) & (low < high)).all())
    low, high = found.interval()
    inside = np.mean((low <= share) & (share <= high))
    assert share < 0.9 or inside < 0.85  # the jackknife's, which is why there is another


def test_where_all_agree_it_is_that_of_the_documents():
    n = np.eye(12)
    found = ratio(n.sum(1)[:, None] * [3, 0], np.full((12, 2), 3.0))
    low, high = share_interval(found, np.full(2, 36.0), np.full(2, 12.0))
    np.testing.assert_allclose([low[0], high[0], low[1], high[1]], [0.735, 1, 0, 0.265], atol=1e-3)


def test_a_change_ends_at_1_and_has_a_width_where_all_change_alike():
    one, none = np.ones(12), np.zeros(12)
    most = np.where(np.arange(12) < 11, 1.0, 0)
    before = ratio(np.stack([one, one, none, one], 1), np.ones((12, 1)))
    after = ratio(np.stack([none, one, one, 1 - most], 1), np.ones((12, 1)))
    low, high = change_interval(before - after, np.full(4, 12.0))
    np.testing.assert_allclose(low[:3], [0.735, -0.265, -1], atol=1e-3)
    np.testing.assert_allclose(high[:3], [1, 0.265, -0.735], atol=1e-3)
    assert 0.7 < low[3] < 11 / 12 < high[3] == 1


def test_few_blocks_give_no_interval():
    found = ratio(np.ones((4, 1)), np.ones((4, 1)))
    for of in (
        share_interval(found, np.full(1, 4.0), np.full(1, 4.0)),
        change_interval(found - found, np.full(1, 4.0)),
    ):
        assert np.isnan(of).all()


def test_clopper_and_pearson():
    low, high = proportion_interval([0, 3, 12], [12, 12, 12])
    np.testing.assert_allclose(low, [0, 0.0549, 0.7354], atol=1e-4)
    np.testing.assert_allclose(high, [0.2646, 0.5719, 1], atol=1e-4)
