"""Intervals of directions in use: they hold planted truths, and what would make them too narrow."""

import numpy as np
import pytest
import torch
from outdim.analysis.results.directions import NO_SAMPLE, Directions
from outdim.analysis.sampled import Sampled
from outdim.stats.covariance import Scatter
from outdim.stats.spectrum import effective_rank, isoscore, participation_ratio

D, DOCUMENTS, TOKENS = 16, 60, 6
EVERY = np.arange(D)


def drawn(rng, variances, common):
    """Tokens [N, D], a share of whose variance is their document's, and their blocks."""
    shape = DOCUMENTS, TOKENS, D
    own = rng.normal(size=shape)
    rows = np.sqrt(common) * rng.normal(size=shape[::2])[:, None] + np.sqrt(1 - common) * own
    block = np.repeat(rng.integers(0, 20, DOCUMENTS), TOKENS)
    order = rng.permutation(DOCUMENTS * TOKENS)
    return (rows * np.sqrt(variances)).reshape(-1, D)[order], block[order]


def truths(variances):
    ratio = float(participation_ratio(torch.from_numpy(variances)))
    rank = float(effective_rank(torch.from_numpy(variances)))
    return {"isoscore": isoscore(ratio, D), "participation_ratio": ratio, "effective_rank": rank}


def coverage(variances, *, blocks=lambda block, rng: block, sampled=200, times=60):
    """How often each interval holds the truth; all tokens count, some of them are sampled."""
    rng, true = np.random.default_rng(0), truths(variances)
    held = dict.fromkeys(true, 0)
    for _ in range(times):
        rows, block = drawn(rng, variances, common=0.7)
        sample = Sampled(rows[:sampled], blocks(block, rng)[:sampled])
        found = Directions(Scatter.of(torch.from_numpy(rows)), EVERY, sample)
        for name, one in found.numbers():
            held[name] += one.low <= true[name] <= one.high
    return {name: count / times for name, count in held.items()}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.5])
def test_intervals_hold_the_truth_of_documents_without_end(power):
    """From one variance for all, where every sample looks uneven, to few directions."""
    assert min(coverage((EVERY + 1.0) ** -power).values()) >= 0.9


def test_tokens_taken_for_documents_would_be_too_sure():
    wrong = coverage(
        (EVERY + 1.0) ** -1.5, blocks=lambda block, rng: rng.permutation(block), sampled=360
    )
    assert max(wrong.values()) < 0.85


def test_rare_tokens_that_a_sample_has_missed_add_to_the_reach():
    """The influences of all tokens average 0: what is left of it here is that of those missed."""
    even = Sampled(np.zeros((200, 1)), np.arange(200) % 20)
    assert even.reach(torch.full((200,), -0.3, dtype=torch.float64)) == pytest.approx(0.3)


def test_why_there_is_no_interval():
    rng = np.random.default_rng(0)
    rows, block = drawn(rng, np.ones(D), common=0.0)
    few, narrow = Scatter.of(torch.from_numpy(rows[:9])), Scatter.of(torch.from_numpy(rows))
    for scatter, sample, reason in (
        (narrow, None, NO_SAMPLE),
        (few, Sampled(rows, block), "an interval needs as many words as dimensions"),
        (narrow, Sampled(rows[:99], block[:99]), "an interval needs 100 sampled words, there are"),
        (narrow, Sampled(rows, block % 4), "in 4 blocks of documents, an interval needs 5"),
    ):
        for _, one in Directions(scatter, EVERY, sample).numbers():
            assert np.isfinite(one.value)
            assert np.isnan([one.low, one.high]).all()
            assert one.reason.startswith(reason)
