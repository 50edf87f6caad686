"""stats.TypeUnits: the r of single types is that over tokens, the r of buckets nearly."""

import numpy as np
import pytest
import torch
from ops.oracles import VOCAB, hidden_states, zipf_ids
from outdim.errors import ArgumentError, DataError
from outdim.stats import Covariates
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_intervals import correlations, effective_types
from outdim.stats.type_table import TypeTable
from outdim.stats.type_units import TypeUnits
from stats.zipf_types import NAMES, covariates, zipf_counts, zipf_units

N, D = 3000, 12


def stream():
    """Hidden states of the oracles, constant ones among them, and others that follow frequency."""
    h, ids = hidden_states(N, D), zipf_ids(N)
    log = torch.from_numpy(np.log1p(zipf_counts(VOCAB)))[ids, None].float()
    h[:, 5:] += torch.linspace(-1, 1, D - 5) * log
    return h, ids


def units_of(size, table=None, change=None):
    """Units of a stream, through a TypeTable."""
    counts = zipf_counts(VOCAB)
    buckets = TypeBuckets.of_counts(counts, size)
    types = TypeTable(["p"], buckets)
    h, ids = stream()
    if change is not None:
        change(h)
    types.begin(ids, torch.ones(N, dtype=torch.uint8))
    types.add("p", h)
    types.commit()
    return TypeUnits.of_table(types.state_dict(), buckets, table or covariates(counts))


def over_tokens(h, x):
    h = h.double().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([np.corrcoef(x, column)[0, 1] for column in h.T])


@pytest.mark.parametrize("of", ["h", "abs"])
def test_r_of_single_types_is_that_over_tokens(of):
    h, ids = stream()
    other = np.random.default_rng(0).random(VOCAB)  # any frequencies by id
    table = Covariates(np.stack([zipf_counts(VOCAB).astype(float), other]), ("count", "other"))
    r = correlations(units_of(VOCAB, table), "p", of)
    values = h if of == "h" else h.abs()
    for k, row in enumerate(table.table):
        want = over_tokens(values, row.numpy()[ids])
        want[2] = np.nan  # constant
        if of == "abs":
            want[3] = np.nan
        # Dimension 1 has |mean| / std = 1000: sums of squares lose six digits there.
        np.testing.assert_allclose(r[k], want, atol=1e-9)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_r_of_buckets_is_off_by_what_the_covariate_varies_within_them(size):
    exact, units = units_of(VOCAB), units_of(size)
    assert len(units.n) <= size
    assert units.n.sum() == N
    assert units.types.sum() == len(exact.n)
    assert (exact.lost < 1e-12).all()
    assert (units.lost < {32: 0.02, 64: 0.01, 128: 0.002}[size]).all()
    for of in ("h", "abs"):
        error = np.abs(correlations(units, "p", of) - correlations(exact, "p", of))
        assert np.nanmax(error) < 0.03


def test_types_of_a_unit():
    units, ids = units_of(64), zipf_ids(N).numpy()
    alone = units.ids >= 0
    assert (alone == (units.types == 1)).all()
    tokens = np.bincount(ids, minlength=VOCAB)
    np.testing.assert_array_equal(tokens[units.ids[alone]], units.n[alone])
    np.testing.assert_allclose(units.effective[alone], 1)
    np.testing.assert_allclose(units.inverse[alone], 1 / units.n[alone])
    rest = np.flatnonzero(~alone)
    assert ((units.effective[rest] > 1) & (units.effective[rest] <= units.types[rest] + 1e-9)).all()
    assert (units.inverse[rest] >= 1 / units.n[rest]).all()


def test_effective_types():
    """Equal leverage on both sides counts every type; one that has it all counts as one."""
    size = 8
    ids, tokens = np.arange(size), np.full(size, 5)
    table = np.stack([np.repeat([0.0, 1.0], size // 2), np.eye(size)[0] * 1e9, np.ones(size)])
    sums = np.ones((size, 3, 1))
    units = TypeUnits.of_types(ids, tokens, {"p": sums}, Covariates(table, ("a", "b", "c")))
    found = effective_types(units)
    np.testing.assert_allclose(found[0], size)
    leverage = np.array([(1 - 1 / size) ** 2] + [1 / size**2] * (size - 1))
    np.testing.assert_allclose(found[1], leverage.sum() ** 2 / (leverage**2).sum())
    assert np.isnan(found[2])
    # Buckets of many types with the same sums count as many types.
    buckets = zipf_units(np.random.default_rng(0), buckets=128, dims=1)
    single = zipf_units(np.random.default_rng(0), buckets=None, dims=1)
    np.testing.assert_allclose(effective_types(buckets), effective_types(single), rtol=0.02)


def test_why_an_r_is_not_defined():
    def change(h):
        h[7, 5], h[8, 6] = torch.nan, torch.inf

    units = units_of(64, change=change)
    reason = units.profiles("p", "h").reason
    assert reason[[0, 2, 5, 6]].tolist() == [
        "", "constant dimension", "nonfinite values", "nonfinite values",
    ]  # fmt: skip
    assert units.profiles("p", "abs").reason[3] == "constant dimension"
    assert np.isnan(correlations(units, "p", "h")[:, [2, 5, 6]]).all()
    assert np.isfinite(correlations(units, "p", "h")[:, [0, 4, 7]]).all()
    constant = Covariates(np.ones((1, VOCAB)), ("one",))
    assert np.isnan(correlations(units_of(64, constant), "p")).all()


def test_a_table_of_no_tokens():
    buckets = TypeBuckets.of_counts(zipf_counts(VOCAB), 64)
    state = TypeTable(["p"], buckets).state_dict()
    units = TypeUnits.of_table(state, buckets, covariates(zipf_counts(VOCAB)))
    assert correlations(units, "p").shape == (2, 0)
    assert units.n.sum() == 0


def test_errors():
    units = units_of(64)
    with pytest.raises(ArgumentError, match="point: expected one of p, got 'q'"):
        units.profiles("q")
    with pytest.raises(ArgumentError, match='of: expected "h" or "abs", got \'x\''):
        units.profiles("p", "x")
    with pytest.raises(ArgumentError, match="dims: expected 0 to 11, got 12"):
        units.profiles("p", "h", [0, 12])
    with pytest.raises(ArgumentError, match="covariate: expected one of count, log1p_count"):
        units.index("rank")
    assert [units.index(name) for name in NAMES] == [0, 1]
    with pytest.raises(ArgumentError, match="covariates: expected a column for each of the"):
        units_of(64, Covariates(np.ones((1, 9)), ("short",)))
    buckets = TypeBuckets.of_counts(zipf_counts(VOCAB), 64)
    state = TypeTable(["p"], buckets).state_dict()
    with pytest.raises(DataError, match="other buckets"):
        TypeUnits.of_table(
            state, TypeBuckets.of_counts(zipf_counts(VOCAB), 32), covariates(zipf_counts(VOCAB))
        )
