"""Screenings that are good, bad, or not known to be either, and bounds that hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outdim.errors import ArgumentError
from outdim.stats.verification import verify
from scipy.stats import binomtest, spearmanr


def screened(noise, *, outliers=3, worst=20, sample=100, population=576, seed=0):
    """A few candidates do harm, all others next to none; scores know of it up to their noise."""
    rng = np.random.default_rng(seed)
    damages = np.abs(rng.normal(0, 0.01, population))
    damages[:outliers] = rng.uniform(0.5, 3, outliers)
    scores = np.log(damages) + noise * rng.normal(size=population)
    order = np.argsort(-scores)
    first = order[:worst]
    others = rng.choice(order[worst:], sample, replace=False)
    found = verify((scores[first], damages[first]), (scores[others], damages[others]), population)
    return found, int((damages[order[worst:]] > found.highest).sum())


def test_a_screening_that_finds_three_outliers_passes_whatever_the_noise_of_the_others():
    """That a random one does more harm than most of the first is no fault: both do none."""
    for seed in range(20):
        found, _ = screened(0.5, seed=seed)
        assert found.ahead >= 3
        assert found.verdict == "passed"
        assert found.missed <= 20
        assert "not found wanting: at most" in found.words()[-1]


def test_scores_without_meaning_fail_where_a_random_one_is_the_worst():
    damages = np.full(100, 0.01)
    damages[7] = 3
    found = verify((np.arange(20.0, 0, -1), np.full(20, 0.1)), (np.zeros(100), damages), 576)
    assert (found.ahead, found.verdict) == (0, "failed")
    assert "found nothing" in found.words()[-1]


def test_a_small_sample_of_many_is_undecided_and_says_how_large_it_ought_to_be():
    """40 of 17,260: 7.2 % of them, 1,240, may do as much harm, and 20 were measured."""
    found, _ = screened(0.1, sample=40, population=30 * 576)
    assert found.verdict == "undecided"
    assert 1200 < found.missed < 1245
    assert "the sample is small" in found.words()[-1]
    enough, _ = screened(0.1, sample=found.needed, population=30 * 576)
    assert enough.missed <= 20
    assert enough.verdict == "passed"


def test_the_bound_holds_in_95_of_100_cases():
    cases = [screened(1.0, sample=60, population=500, seed=s) for s in range(200)]
    assert any(missed for _, missed in cases)
    broken = sum(missed > found.missed for found, missed in cases)
    assert broken <= 18  # P(Binomial(200, .05) > 18) = .005


@given(sample=st.integers(20, 200), others=st.integers(300, 20_000))
def test_the_bound_is_that_of_clopper_and_pearson_or_closer(sample, others):
    found = verify(([1.0], [1.0]), (np.zeros(sample), np.zeros(sample)), others + 1)
    high = binomtest(0, sample, alternative="less").proportion_ci(0.95, "exact").high
    assert found.missed_share <= high < 3 / sample
    if others > 100 * sample:
        assert found.missed_share == pytest.approx(high, rel=0.03, abs=1 / others)


def test_what_breaks_the_model_counts_as_the_worst():
    """Infinite damage of a random one is not hidden by that of the first."""
    first = (np.arange(20.0, 0, -1), np.array([np.inf] * 3 + [0.1] * 17))
    calm = verify(first, (np.zeros(100), np.full(100, 0.2)), 576)
    assert (calm.ahead, calm.highest, calm.verdict) == (3, 0.2, "passed")
    broken = np.full(100, 0.2)
    broken[50] = np.inf
    found = verify(first, (np.zeros(100), broken), 576)
    assert (found.ahead, found.highest, found.verdict) == (0, np.inf, "failed")


def test_where_all_is_measured_nothing_is_unknown():
    scores, damages = np.arange(20.0, 0, -1), np.arange(20.0)
    some = verify((scores[:5], damages[:5]), (scores[5:], damages[5:]), 20)
    assert (some.missed, some.ahead, some.verdict) == (0, 0, "failed")
    every = verify((scores, damages), ([], []), 20)
    assert (every.missed, every.missed_share, every.verdict) == (0, 0.0, "passed")
    assert every.words()[-1].endswith("nothing was left to be missed.")
    assert every.agreement_worst == pytest.approx(-1)
    assert np.isnan(every.agreement_random)


def test_agreement_is_that_of_ranks():
    rng = np.random.default_rng(0)
    scores, damages = rng.normal(size=(2, 30))
    found = verify(([9.0], [1.0]), (scores, damages), 50)
    assert found.agreement_random == pytest.approx(spearmanr(scores, damages).statistic)
    assert np.isnan(found.agreement_worst)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"worst": ([], [])}, "population: expected at least"),
        ({"population": 3}, "population: expected at least"),
        ({"random": ([5.0], [0.0])}, "random: expected none with a higher score"),
        ({"worst": ([1.0, 2.0], [1.0])}, "worst: expected a score and a damage"),
        ({"random": ([np.nan], [0.0])}, "random: expected numbers, got NaN"),
        ({"random": ([0.0], [np.nan])}, "random: expected numbers, got NaN"),
    ],
)
def test_bad_input(change, said):
    given = {"worst": ([3.0, 2.0], [1.0, 2.0]), "random": ([1.0, 1.0], [0.0, 0.0])}
    with pytest.raises(ArgumentError, match=said):
        verify(**{**given, "population": 9, **change})
