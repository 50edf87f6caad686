"""The types that carry an r, planted."""

import numpy as np
import pytest
from outdim.errors import ArgumentError
from outdim.stats.type_drivers import drivers
from outdim.stats.type_intervals import correlations
from outdim.stats.type_units import TypeUnits
from stats.zipf_types import covariates, zipf_counts, zipf_units


def test_two_types_that_carry_an_r_are_named():
    units = zipf_units(np.random.default_rng(0), types=300, tokens=30_000, dims=3, buckets=None)
    at = [int(np.flatnonzero(units.ids == i)[0]) for i in (0, 2)]
    n, sums = units.n[at], units.sums["p"]
    sums[at, :, 1] = n[:, None] * np.array([6.0, 6.0, 36.5])
    found = drivers(units, "p", "count", 1, "h", number=4)
    assert set(found.ids[:2].tolist()) == {0, 2}
    np.testing.assert_allclose(found.r, correlations(units, "p", "h")[0, 1])
    assert found.r > 0.4
    assert abs(found.without_all[1]) < 0.2

    def without(ids):
        kept = ~np.isin(units.ids, ids)
        rest = TypeUnits.of_types(
            units.ids[kept], units.n[kept].astype(int), {"p": sums[kept]},
            covariates(zipf_counts(300)),
        )  # fmt: skip
        return correlations(rest, "p", "h")[0, 1]

    for m, i in enumerate(found.ids):
        np.testing.assert_allclose(found.without[m], without([i]), atol=1e-9)
        np.testing.assert_allclose(found.without_all[m], without(found.ids[: m + 1]), atol=1e-9)


def test_only_single_types_have_a_name():
    units = zipf_units(np.random.default_rng(0), types=300, tokens=30_000, dims=2, buckets=16)
    single = (units.ids >= 0).sum()
    found = drivers(units, "p", "log1p_count", 0, number=50)
    assert (found.ids >= 0).all()
    assert len(found.ids) == len(set(found.ids.tolist())) == single


def test_errors_and_nothing_to_find():
    units = zipf_units(np.random.default_rng(0), types=100, tokens=1000, dims=2, buckets=None)
    for change in ({"covariate": "rank"}, {"dim": 2}, {"point": "q"}, {"number": -1}):
        with pytest.raises(ArgumentError, match=f"({'|'.join(change)}|dims): expected"):
            drivers(**{"units": units, "point": "p", "covariate": "count", "dim": 0} | change)
    assert len(drivers(units, "p", "count", 0, number=0).ids) == 0
    units.sums["p"][:] = 0
    nothing = drivers(units, "p", "count", 0)
    assert np.isnan(nothing.r)
    assert len(nothing.ids) == 0
