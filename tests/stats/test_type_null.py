"""The largest |r| by chance: against relabelled tokens; a uniform p, or a find where one is."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from outdim.errors import ArgumentError
from outdim.stats import type_null
from outdim.stats.type_intervals import correlations
from outdim.stats.type_null import exchange_null
from outdim.stats.type_units import TypeUnits
from scipy.stats import kstest
from stats.zipf_types import covariates, zipf_counts, zipf_units

FEW = {"types": 60, "tokens": 2000, "dims": 7, "buckets": None}


@pytest.mark.parametrize("of", ["h", "abs"])
@pytest.mark.parametrize("within", [False, True])
def test_exchanged_types_are_tokens_relabelled(of, within):
    """Given single types, a draw is r over tokens whose hidden states are those of other types."""
    units = zipf_units(np.random.default_rng(0), **FEW)
    donors = type_null._donors(units, 5, within, 3)
    expected = []
    for donor in donors:
        assert sorted(donor) == list(range(len(units.n)))
        given = units.sums["p"][donor] * (units.n / units.n[donor])[:, None, None]
        changed = TypeUnits.of_types(
            units.ids, units.n.astype(int), {"p": given}, covariates(zipf_counts(60))
        )
        expected.append(np.abs(correlations(changed, "p", of)).max(1))
    null = exchange_null(units, of=of, draws=5, within=within, seed=3)
    np.testing.assert_allclose(null.largest["p"], np.sort(expected, 0).T, atol=2e-6)
    np.testing.assert_array_equal(null.largest["p"], null.largest_of_all)


def test_within_exchanges_types_with_like_numbers_of_tokens():
    units = zipf_units(np.random.default_rng(0), types=2000, tokens=50_000, dims=1, buckets=256)
    groups = type_null._groups(units)
    assert [len(group) for group in groups[:2]] == [32, 64]
    assert sorted(np.concatenate(groups)) == list(range(len(units.n)))
    per_type = units.n / units.types
    for before, after in pairwise(groups):
        assert per_type[before].min() >= per_type[after].max()
    donors = type_null._donors(units, 3, True, 0)
    for group in groups:
        assert np.isin(donors[:, group], group).all()


def test_p_counts_the_draws_that_reach_r():
    units = zipf_units(np.random.default_rng(0), rho=0.3, **FEW)
    units.sums["q"] = units.sums["p"][:, :, :2] * 3
    null = exchange_null(units, draws=99, seed=1)
    for point in ("p", "q"):
        by_dim = {
            dim: exchange_null(_one(units, point, dim), draws=99, seed=1) for dim in range(7)
            if dim < units.width(point)
        }  # fmt: skip
        for k in range(2):
            size = np.abs(null.r[point][k])
            highest = 0.0
            for dim in np.argsort(-size):
                reached = _largest_of(units, point, size <= size[dim], k) >= size[dim]
                highest = max(highest, (1 + reached.sum()) / 100)
                assert null.p[point][k, dim] == highest
                assert null.p_all[point][k, dim] == (
                    1 + (null.largest_of_all[k] >= size[dim]).sum()
                ) / 100  # fmt: skip
                assert null.p[point][k, dim] <= null.p_all[point][k, dim]
                assert by_dim[dim].p[point][k, 0] <= null.p[point][k, dim]
    # Every point sees the same draws, whatever is asked for with it.
    alone = exchange_null(units, ["q"], draws=99, seed=1)
    np.testing.assert_array_equal(alone.largest["q"], null.largest["q"])
    np.testing.assert_allclose(null.quantile(0.5, "q"), np.median(null.largest["q"], 1))
    assert (null.quantile() >= null.quantile(point="q")).all()


def _one(units, point, dims):
    """The units with some dimensions of one point."""
    return replace(units, sums={point: units.sums[point][:, :, np.atleast_1d(dims)]})


def _largest_of(units, point, dims, k):
    """The largest |r| of chosen dimensions in each draw."""
    return exchange_null(_one(units, point, np.flatnonzero(dims)), draws=99, seed=1).largest[point][
        k
    ]


def test_a_planted_dimension_is_found_and_nothing_else():
    units = zipf_units(np.random.default_rng(4), types=3000, tokens=50_000, dims=60, buckets=256)
    x, n = units.x[1], units.n
    x = x / np.sqrt(n @ x**2 / n.sum())
    mean = units.sums["p"][:, 0, 7] / n
    units.sums["p"][:, 0, 7] += 3 * n * x
    units.sums["p"][:, 2, 7] += n * (6 * x * mean + 9 * x**2)
    for within in (False, True):
        p = exchange_null(units, of="h", draws=300, within=within).p["p"][1]
        assert p[7] < 0.02
        assert np.delete(p, 7).min() > 0.02


def test_dimensions_without_r_have_no_p_and_take_no_part():
    units = zipf_units(np.random.default_rng(0), **FEW)
    before = exchange_null(units, draws=20)
    sums = np.concatenate([units.sums["p"], np.zeros_like(units.sums["p"])], 2)
    sums[:, :, 8] = np.nan
    units.sums["p"] = sums
    after = exchange_null(units, draws=20)
    np.testing.assert_allclose(after.largest["p"], before.largest["p"])
    assert np.isnan(after.p["p"][:, 7:]).all()
    units.sums["p"] = sums[:, :, 7:]
    assert np.isnan(exchange_null(units, draws=20).p["p"]).all()


def test_errors():
    units = zipf_units(np.random.default_rng(0), **FEW)
    with pytest.raises(ArgumentError, match="draws: expected at least 1, got 0"):
        exchange_null(units, draws=0)
    with pytest.raises(ArgumentError, match="point: expected one of p, got 'q'"):
        exchange_null(units, ["q"])


def leaders(texts, within, **options):
    """p of the leading dimension of each text, [texts, K], where hidden states know nothing."""
    found = []
    for seed in range(texts):
        units = zipf_units(np.random.default_rng(seed), dims=20, **options)
        null = exchange_null(units, of="h", draws=199, within=within, seed=seed)
        found.append(null.p["p"].min(1))
    return np.array(found)


@pytest.mark.parametrize("within", [False, True])
def test_p_is_uniform(within):
    p = leaders(40, within, types=1000, tokens=10_000, buckets=128)
    assert (np.abs(p.mean(0) - 0.5) < 3 * np.sqrt(1 / 12 / 40)).all()
    assert all(kstest(p[:, k], "uniform").pvalue > 1e-3 for k in range(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("within", "buckets", "tokens"),
    [(False, 256, 20_000), (True, 256, 20_000), (True, 64, 20_000), (True, None, 5_000)],
)
def test_p_is_uniform_in_a_thousand_texts(within, buckets, tokens):
    p = leaders(1000, within, types=2000, tokens=tokens, buckets=buckets)
    for k in range(2):
        assert 0.025 <= (p[:, k] <= 0.05).mean() <= 0.075
        assert kstest(p[:, k], "uniform").statistic < 0.12
