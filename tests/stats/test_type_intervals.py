"""Jackknife and bootstrap over types: against plain loops, and by what they cover."""

import numpy as np
import pytest
from outdim.errors import ArgumentError
from outdim.stats.type_intervals import bootstrap, correlations, jackknife, without_each
from outdim.stats.type_units import TypeUnits
from stats.zipf_types import covariates, true_r, zipf_counts, zipf_units


def some_types(rho=0.6, seed=1, **options):
    options = {"types": 60, "tokens": 2000, "dims": 7, "buckets": None} | options
    return zipf_units(np.random.default_rng(seed), rho=rho, **options)


def taken(units, chosen):
    """The types at these places, of which one may come twice."""
    tokens = units.n[chosen].astype(np.int64)
    return TypeUnits.of_types(
        units.ids[chosen], tokens, {"p": units.sums["p"][chosen]}, covariates(zipf_counts(60))
    )


@pytest.mark.parametrize("of", ["h", "abs"])
def test_leaving_each_type_out_is_what_it_says(of):
    units = some_types()
    size = len(units.n)
    found = np.stack([without_each(units, units.profiles("p", of), k) for k in range(2)])
    among = np.arange(size) % 3 > 0
    among_found = without_each(units, units.profiles("p", of), 1, among)
    for u in range(size):
        rest = np.delete(np.arange(size), u)
        np.testing.assert_allclose(
            found[:, u], correlations(taken(units, rest), "p", of), atol=1e-9
        )
        rest = rest[among[rest]]
        if among[u]:
            np.testing.assert_allclose(
                among_found[u], correlations(taken(units, rest), "p", of)[1], atol=1e-9
            )


def test_jackknife_is_its_formula():
    units = some_types()
    found = jackknife(units, "p", "h", level=0.9)
    size = len(units.n)
    z = np.arctanh(without_each(units, units.profiles("p", "h"), 1))
    se = np.sqrt((size - 1) / size * ((z - z.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found.se[1], se)
    np.testing.assert_allclose(found.r, correlations(units, "p", "h"))
    half = np.arctanh(found.high) - np.arctanh(found.r)
    np.testing.assert_allclose(half, np.arctanh(found.r) - np.arctanh(found.low))
    np.testing.assert_allclose(found.worth, 3 + 1 / found.se**2)
    assert ((found.df >= 1) & (half > 1.6 * found.se)).all()
    # Many dimensions are taken in parts.
    wide = some_types(dims=600)
    one = jackknife(wide, "p", "h").low[:, 511:514]
    wide.sums["p"] = wide.sums["p"][:, :, 511:514]
    np.testing.assert_allclose(jackknife(wide, "p", "h").low, one)


def test_bootstrap_draws_types():
    units = some_types()
    found = bootstrap(units, "p", [5, 2], "abs", draws=400, seed=3)
    rng = np.random.default_rng(3)
    size = len(units.n)
    r = []
    for count in (128, 128, 128, 16):
        for drawn in rng.integers(size, size=(count, size)):
            twice = taken(units, drawn)
            r.append(correlations(twice, "p", "abs")[:, [5, 2]])
    np.testing.assert_allclose(found.low, np.quantile(r, 0.025, axis=0), atol=1e-9)
    np.testing.assert_allclose(found.high, np.quantile(r, 0.975, axis=0), atol=1e-9)
    np.testing.assert_allclose(found.r, correlations(units, "p", "abs")[:, [5, 2]])
    again = bootstrap(units, "p", [5, 2], "abs", draws=400, seed=3)
    np.testing.assert_array_equal(found.low, again.low)


def test_where_r_is_not_defined_there_is_no_interval():
    units = some_types()
    units.sums["p"][:, :, 3] = 0
    units.sums["p"][0, :, 4] = np.nan
    for found in (jackknife(units, "p"), bootstrap(units, "p", range(7), draws=50)):
        for values in (found.r, found.low, found.high, found.se, found.worth):
            assert np.isnan(values[:, 3:5]).all()
            assert np.isfinite(values[:, [0, 1, 2, 5, 6]]).all()
    two = taken(units, np.array([1, 2]))
    assert np.isnan(jackknife(two, "p").low).all()


def test_errors():
    units = some_types()
    for call in (
        lambda: jackknife(units, "q"),
        lambda: bootstrap(units, "q", [0]),
        lambda: bootstrap(units, "p", [7]),
        lambda: bootstrap(units, "p", [0], draws=1),
        lambda: jackknife(units, "p", level=1.0),
        lambda: bootstrap(units, "p", [0], level=0.0),
    ):
        with pytest.raises(ArgumentError, match=r"(point|dims|draws|level): expected"):
            call()


def coverage(dims, seeds, rho, of, **options):
    """Share of the 95 % intervals that hold the truth."""
    covered = []
    for seed in range(seeds):
        units = zipf_units(np.random.default_rng(seed), dims=dims, rho=rho, of=of, **options)
        found = jackknife(units, "p", "h")
        covered.append((found.low[of] <= true_r(rho)) & (true_r(rho) <= found.high[of]))
    return np.mean(covered)


@pytest.mark.parametrize("of", [0, 1])
def test_intervals_cover(of):
    """Fisher's interval over the 20,000 tokens covers 20 % of the time."""
    assert coverage(150, 2, 0.0, of, types=2000, tokens=20_000, buckets=128) >= 0.91


@pytest.mark.slow
@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize(
    "options",
    [
        {"types": 500, "tokens": 20_000, "buckets": None},
        {"types": 5000, "tokens": 100_000, "buckets": 64},
        {"types": 5000, "tokens": 100_000, "buckets": 256},
        {"types": 20_000, "tokens": 500_000, "buckets": 1024},
    ],
)
def test_intervals_cover_in_a_thousand_draws(options, rho, of):
    assert coverage(250, 4, rho, of, **options) >= 0.94
