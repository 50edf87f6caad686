"""stats.TokenSums: sums of every type, transactions, and what is made of them."""

import numpy as np
import torch
from ops.oracles import VOCAB, hidden_states, zipf_ids
from outdim.stats import TokenSums
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_intervals import jackknife
from outdim.stats.type_table import TypeTable
from outdim.stats.type_units import TypeUnits
from stats.zipf_types import covariates, zipf_counts

DIMS = [7, 0, 5]


def feed(sums, seeds):
    for seed in seeds:
        ids, group = zipf_ids(200, seed), (torch.arange(200) % 3).to(torch.uint8)
        sums.begin(ids, group, torch.zeros(1, 200))
        for shift, point in enumerate(("a", "b")):
            hidden = hidden_states(200, 9, seed=seed + shift)
            hidden[group != 1] = torch.nan
            sums.add(point, hidden.view(4, 50, 9))
        sums.commit()
    return sums


def test_sums_of_every_type():
    sums = feed(TokenSums(["a", "b"], DIMS), range(3))
    first, second = feed(TokenSums(["a", "b"], DIMS), range(1)), TokenSums(["a", "b"], DIMS)
    second.begin(zipf_ids(4), torch.ones(4, dtype=torch.uint8), torch.zeros(1, 4))
    second.add("a", torch.ones(4, 9))
    second.discard()
    first.merge(feed(second, range(1, 3)).state_dict())
    expected = np.zeros((3, VOCAB, 2, 3))
    tokens = np.zeros(VOCAB, np.int64)
    for seed in range(3):
        for row in range(1, 200, 3):
            i = zipf_ids(200, seed)[row]
            tokens[i] += 1
            for p in range(2):
                h = hidden_states(200, 9, seed=seed + p)[row, DIMS].double().numpy()
                expected[:, i, p] += np.stack([h, np.abs(h), h * h])
    for found in (sums, first):
        state = found.state_dict()
        ids = state["ids"].numpy()
        np.testing.assert_array_equal(ids, np.flatnonzero(tokens))
        np.testing.assert_array_equal(state["n"], tokens[ids])
        names = ("sums", "sums_abs", "sums_squares")
        for name, column, want in zip(
            names, ("sum", "sum_abs", "sum_squares"), expected, strict=True
        ):
            np.testing.assert_allclose(state[name], want[ids], rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(found.table()[column], state[name].reshape(-1))


def test_units_are_those_of_a_table_where_every_type_is_alone():
    sums = feed(TokenSums(["a", "b"], DIMS), range(3))
    buckets = TypeBuckets.of_counts(zipf_counts(VOCAB), VOCAB)
    table = feed(TypeTable(["a", "b"], buckets), range(3))
    chosen, all_dims = (
        sums.units(covariates(zipf_counts(VOCAB))),
        TypeUnits.of_table(table.state_dict(), buckets, covariates(zipf_counts(VOCAB))),
    )
    for point in ("a", "b"):
        a, b = jackknife(chosen, point), jackknife(all_dims, point)
        np.testing.assert_allclose(a.r, b.r[:, DIMS], atol=1e-12)
        np.testing.assert_allclose(a.low, b.low[:, DIMS], atol=1e-9)
