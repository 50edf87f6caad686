"""Screenings that are good, bad, or not known to be either, and bounds that hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outdim.errors import ArgumentError
from outdim.stats.screening import verify
from scipy.stats import binomtest, spearmanr


def screened(noise: float, *, worst=40, sample=80, population=2000, seed=0):
    """Damages are exponential; scores are their logarithms and noise."""
    rng = np.random.default_rng(seed)
    damages = rng.exponential(size=population) ** 2
    scores = np.log(damages) + noise * rng.normal(size=population)
    order = np.argsort(-scores)
    first = order[:worst]
    others = rng.choice(order[worst:], sample, replace=False)
    found = verify((scores[first], damages[first]), (scores[others], damages[others]), population)
    rest = damages[order[worst:]]
    return found, int((rest > found.mark).sum())


def test_a_good_screening_passes():
    found, missed = screened(0.05)
    assert found.verdict == "passed"
    assert missed == found.above == 0
    assert (found.top, found.overlap) == (10, 10)
    assert found.last <= 20
    assert found.agreement_random > 0.9
    assert "The worst are found" in found.words()[-1]


def test_scores_without_meaning_fail():
    found, missed = screened(100.0)
    assert found.verdict == "failed"
    assert missed > 10
    assert abs(found.agreement_random) < 0.4
    assert "not to be believed" in found.words()[-1]


def test_how_many_are_ahead_of_all_random_ones():
    """The third worst of the first is behind a random one."""
    found = verify(([9.0, 8, 7, 6], [5.0, 0.1, 4, 1]), ([1.0] * 50, [2.0, *[0.0] * 49]), 500, top=3)
    assert (found.mark, found.above, found.ahead, found.verdict) == (1.0, 1, 2, "failed")
    assert "2 of the first do more" in found.words()[-1]
    alone = verify(([9.0, 8.0], [1.0, 2.0]), ([], []), 2)
    assert alone.ahead == 2


@pytest.mark.parametrize(
    ("sample", "last", "said"),
    [(10, 1, "the random sample is too small"), (100, 20, "up to the end")],
)
def test_what_is_not_known_is_undecided(sample, last, said):
    damages = np.zeros(20)
    damages[[0, last - 1]] = 1
    given = (np.arange(20.0, 0, -1), damages)
    found = verify(given, (np.zeros(sample), np.zeros(sample)), 1000, top=1 + (last > 1))
    assert found.verdict == "undecided"
    assert said in found.words()[-1]


def test_the_bound_holds_in_95_of_100_cases():
    """Poor scores, so that some are missed: the bound is above the truth nearly always."""
    cases = [screened(1.0, sample=60, population=500, seed=s) for s in range(200)]
    assert any(missed for _, missed in cases)
    broken = sum(missed > found.missed for found, missed in cases)
    assert broken <= 18  # P(Binomial(200, .05) > 18) = .005


@given(above=st.integers(0, 5), sample=st.integers(20, 200), others=st.integers(300, 20_000))
def test_the_bound_is_that_of_clopper_and_pearson_or_closer(above, sample, others):
    damages = np.zeros(sample)
    damages[:above] = 2
    found = verify(([1.0], [1.0]), (np.zeros(sample), damages), others + 1)
    assert found.above == above
    interval = binomtest(above, sample, alternative="less").proportion_ci(0.95, "exact")
    assert above / others <= found.missed_share <= interval.high + 1 / others
    if others > 100 * sample:
        assert found.missed_share == pytest.approx(interval.high, rel=0.03, abs=1 / others)
    if not above:
        assert found.missed_share < 3 / sample


def test_where_all_is_measured_nothing_is_unknown():
    scores, damages = np.arange(20.0, 0, -1), np.arange(20.0)
    some = verify((scores[:5], damages[:5]), (scores[5:], damages[5:]), 20, top=1)
    assert some.missed == some.above == 15
    every = verify((scores, damages), ([], []), 20)
    assert (every.missed, every.missed_share, every.verdict) == (0, 0.0, "passed")
    assert every.words()[-1] == "Nothing was left to be missed."
    assert every.agreement_worst == spearmanr(scores, damages).statistic == -1
    assert np.isnan(every.agreement_random)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"worst": ([], [])}, "population: expected at least"),
        ({"population": 3}, "population: expected at least"),
        ({"random": ([5.0], [0.0])}, "random: expected none with a higher score"),
        ({"worst": ([1.0, 2.0], [1.0])}, "worst: expected a score and a damage"),
        ({"random": ([np.nan], [0.0])}, "random: expected numbers, got NaN"),
        ({"top": 3}, "top: expected 1 to 2"),
        ({"level": 1.0}, "level: "),
    ],
)
def test_bad_input(change, said):
    given = {"worst": ([3.0, 2.0], [1.0, 2.0]), "random": ([1.0, 1.0], [0.0, 0.0])}
    with pytest.raises(ArgumentError, match=said):
        verify(**{**given, "population": 9, **change})
