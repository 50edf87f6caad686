"""Histograms of |h| and places of the extremes: against NumPy, in any split, failed forwards."""

import numpy as np
import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.stats import Extremes, Magnitudes, TokenShapes
from outdim.stats.magnitudes import RELATIVE_ERROR, bin_edges, magnitude_quantile, share_over

GROUPS = ("text", "special")


def rows(n, dims, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dims, generator=generator) * torch.logspace(-3, 3, dims)
    group = torch.randint(0, 3, (n,), generator=generator, dtype=torch.uint8)
    return hidden.to(dtype), group


def filled(kind, hidden, group, batches=1):
    counts = kind(["p"], GROUPS)
    for part, of in zip(hidden.chunk(batches), group.chunk(batches), strict=True):
        counts.begin(torch.zeros(len(of), dtype=torch.int64), of)
        counts.add("p", part[None])
        counts.commit()
    return counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("q", [0.0, 0.25, 0.5, 0.99, 1.0])
def test_quantiles_lie_within_their_bounds(dtype, q):
    hidden, group = rows(701, 9, dtype=dtype)
    counts = filled(Magnitudes, hidden, group).counts("p", ["text"])
    expected = np.quantile(hidden[group == 1].double().abs().numpy(), q, axis=0)
    found = magnitude_quantile(counts, q)
    assert (found.low <= expected).all()
    assert (expected <= found.high).all()
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    inside = (expected > 2.0**-15) & (expected < 2.0**16)
    assert inside.sum() > 5
    assert np.abs(found.value / expected - 1)[inside].max() <= RELATIVE_ERROR
    pooled = magnitude_quantile(counts.sum(0), q)
    whole = np.quantile(hidden[group == 1].double().abs().numpy(), q)
    assert pooled.low <= whole <= pooled.high


def test_values_outside_of_the_bins_and_nan_are_in_the_outermost():
    hidden = torch.tensor([[0.0, 1e-30, 2.0**-17, 2.0**16, 1e9, torch.inf, torch.nan, -1e9]]).T
    counts = filled(Magnitudes, hidden, torch.ones(8, dtype=torch.uint8)).counts("p", ["text"])
    assert counts[0, 0] == 3
    assert counts[0, -1] == 5
    edges = bin_edges()
    assert edges[:2].tolist() == [0.0, 2.0**-16 * (1 + 1 / 16)]
    assert np.isinf(edges[-1])
    assert (np.diff(edges)[1:-1] / edges[1:-2]).max() <= RELATIVE_ERROR


def test_no_token_has_no_quantile():
    assert np.isnan(
        magnitude_quantile(torch.zeros(2, Magnitudes.width, dtype=torch.int64), 0.5)
    ).all()
    with pytest.raises(ArgumentError, match="q: expected a number in"):
        magnitude_quantile(torch.zeros(1, Magnitudes.width, dtype=torch.int64), 1.5)


def test_shares_beyond_a_threshold_are_exact_at_the_ends_of_bins():
    hidden, group = rows(500, 6)
    counts = filled(Magnitudes, hidden, group).counts("p", GROUPS)
    kept = hidden[group > 0].abs()
    for threshold in (0.25, 1.0, 8.0, 1.0625):
        assert threshold in bin_edges()
        expected = (kept >= threshold).double().mean(0).numpy()
        np.testing.assert_allclose(share_over(counts, threshold), expected, atol=1e-12)
    between = share_over(counts, 1.03)
    assert (share_over(counts, 1.0625) <= between).all()
    assert (between <= share_over(counts, 1.0)).all()


def test_extremes_are_those_of_numpy():
    hidden, group = rows(300, 7)
    counts = filled(Extremes, hidden, group).counts("p", ["special"])
    kept = hidden[group == 2].numpy()
    expected = [np.bincount(f(kept, axis=1), minlength=7) for f in (np.argmin, np.argmax)]
    assert counts.T.tolist() == np.array(expected).tolist()


@pytest.mark.parametrize("kind", [Extremes, Magnitudes])
def test_every_split_and_merge_gives_the_same(kind):
    hidden, group = rows(256, 5)
    whole = filled(kind, hidden, group).state_dict()
    assert filled(kind, hidden, group, batches=7).state_dict()["p"].equal(whole["p"])
    merged = filled(kind, hidden[:100], group[:100])
    merged.merge(filled(kind, hidden[100:], group[100:]).state_dict())
    assert merged.state_dict()["p"].equal(whole["p"])
    assert kind(["p"], GROUPS).merge(whole).state_dict()["p"].equal(whole["p"])


@pytest.mark.parametrize("kind", [Extremes, Magnitudes])
def test_a_failed_forward_counts_for_nothing(kind):
    hidden, group = rows(64, 5)
    counts = filled(kind, hidden, group)
    before = counts.state_dict()["p"]
    counts.begin(torch.zeros(64, dtype=torch.int64), group)
    counts.add("p", hidden)
    counts.discard()
    counts.commit()
    assert counts.state_dict()["p"].equal(before)


def shapes_of(hidden, group, batches=1, failed=0):
    shapes = TokenShapes(["p"], GROUPS)
    for number, (part, of) in enumerate(
        zip(hidden.chunk(batches), group.chunk(batches), strict=True)
    ):
        shapes.begin(torch.zeros(len(of), dtype=torch.int64), of)
        shapes.add("p", part[None])
        if number < failed:
            shapes.discard()
            shapes.begin(torch.zeros(len(of), dtype=torch.int64), of)
            shapes.add("p", part)
        shapes.commit()
    return shapes


def test_shapes_of_tokens_are_those_of_numpy():
    hidden, group = rows(300, 7)
    hidden[5] = 0
    group[5] = 1
    shapes = shapes_of(hidden, group)
    assert shapes.state_dict()["extremes/p"].equal(
        filled(Extremes, hidden, group).state_dict()["p"]
    )
    x = hidden[group == 1].double().numpy()
    with np.errstate(invalid="ignore"):
        kurtosis = (x**4).mean(1) / (x**2).mean(1) ** 2 - 3
    found = shapes.kurtosis.moments("p", ["text"]).compute()
    assert found.n == len(x)
    assert found.nonfinite.tolist() == [1]  # the token of zeros
    hidden[5] = 1
    found = shapes_of(hidden, group).kurtosis.moments("p", ["text"]).compute()
    kurtosis[np.isnan(kurtosis)] = -2  # of a token of equal values
    np.testing.assert_allclose(found.mean, [kurtosis.mean()], rtol=1e-6)
    np.testing.assert_allclose(found.variance, [kurtosis.var()], rtol=1e-6)


def test_shapes_of_tokens_merge_and_fail_as_a_whole():
    hidden, group = rows(256, 5)
    whole = shapes_of(hidden, group).state_dict()
    merged = shapes_of(hidden[:100], group[:100])
    merged.merge(shapes_of(hidden[100:], group[100:]).state_dict())
    for other in (merged, shapes_of(hidden, group, batches=4, failed=2)):
        state = other.state_dict()
        assert state["extremes/p"].equal(whole["extremes/p"])
        torch.testing.assert_close(state["kurtosis/p/body"], whole["kurtosis/p/body"])


def test_padding_is_selected_out_whatever_it_holds():
    hidden, group = rows(64, 5)
    spoiled = hidden.clone()
    spoiled[group == 0] = torch.nan
    for kind in (Extremes, Magnitudes):
        one, other = (filled(kind, h, group).state_dict()["p"] for h in (hidden, spoiled))
        assert one.equal(other)


def test_states_of_others_are_refused():
    hidden, group = rows(16, 5)
    counts = filled(Extremes, hidden, group)
    for state in (
        {"q": counts.state_dict()["p"]},
        {"p": counts.state_dict()["p"][:, :3]},
        {"p": counts.state_dict()["p"].double()},
        filled(Magnitudes, hidden, group).state_dict(),
    ):
        with pytest.raises(DataError, match="state: expected"):
            counts.merge(state)
    assert counts.state_dict()["p"].sum() == 2 * (group > 0).sum()
