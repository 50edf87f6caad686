"""stats.RankHistogram against scipy and numpy on the same values."""

import numpy as np
import pytest
import scipy.stats
import torch
from ops.oracles import BACKENDS, VOCAB, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.stats import RankHistogram
from outdim.stats.ranks import double_mid_ranks

DIMS = [5, 0, 3]


def stream(n, dtype, seed=0):
    ids = zipf_ids(n, seed)
    h = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    h[:, 0] += 0.01 * ids
    h[:, 3] *= 100
    h[: n // 4, 5] = 0
    h[n // 4 : n // 3, 5] = -0.0
    return h.to(dtype), ids


def state_bytes(histogram):
    return {key: value.numpy().tobytes() for key, value in histogram.state_dict().items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [2, 37, 5000])
def test_equals_scipy_and_numpy(backend, dtype, n):
    h, ids = stream(n, dtype)
    counts = torch.bincount(ids, minlength=VOCAB)
    histogram = RankHistogram(DIMS, counts, backend=backend)
    for start in range(0, n, 1700):
        histogram.update(h[start : start + 1700], ids[start : start + 1700])
    result = histogram.compute()
    frequency = counts[ids].numpy()
    assert result.n == n
    for of in ("h", "abs"):
        values = h.double()[:, DIMS]
        values = (values.abs() if of == "abs" else values).numpy()
        for s in range(len(DIMS)):
            if len(set(frequency)) > 1 and len(set(values[:, s])) > 1:
                want = scipy.stats.spearmanr(values[:, s], frequency).statistic
                assert abs(result.spearman(of)[s] - want) <= 1e-12
        for q in (0, 0.05, 0.5, 0.77, 1):
            np.testing.assert_allclose(
                result.quantile(q, of), np.quantile(values, q, axis=0), rtol=1e-15, atol=1e-300
            )
    assert torch.equal(result.median, result.quantile(0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_more_dimensions_than_a_block_and_values_at_the_ends(dtype):
    n, d = 400, 35
    h = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    h = (h * torch.logspace(-5, 4, d)).to(dtype)
    h[::5, 16], h[1::5, 16] = torch.inf, -torch.inf
    h[7, 17] = -torch.tensor(torch.nan)  # the sign bit set: before all values, not after them
    h[:, 31] = torch.where(torch.arange(n) % 2 == 0, 0.0, -0.0)
    ids = zipf_ids(n)
    counts = torch.bincount(ids, minlength=VOCAB)
    result = RankHistogram(list(range(d)), counts).update(h, ids).compute()
    frequency = counts[ids].numpy()
    for of in ("h", "abs"):
        values = (h.abs() if of == "abs" else h).double().numpy()
        rho, middle = result.spearman(of), result.quantile(0.5, of)
        reasons = {s: text for s, text in enumerate(result.reason(of)) if text}
        assert reasons == {17: "nonfinite values", 31: "constant dimension"}
        for s in set(range(d)) - set(reasons):
            ranks = scipy.stats.rankdata(values[:, s]), scipy.stats.rankdata(frequency)
            assert abs(rho[s] - np.corrcoef(*ranks)[0, 1]) <= 1e-12
            assert middle[s] == np.median(values[:, s])
        assert rho[list(reasons)].isnan().all()
        assert middle[17].isnan()


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_order_of_merging_gives_the_same_bytes(backend):
    h, ids = stream(900, torch.bfloat16)
    mask = torch.arange(900) % 7 != 0
    h[~mask] = torch.nan
    counts = torch.bincount(ids[mask], minlength=VOCAB)

    def part(a, b):
        histogram = RankHistogram(torch.tensor(DIMS), counts, backend=backend)
        return histogram.update(h[a:b], ids[a:b], mask[a:b])

    whole = part(0, 900)
    backwards = part(600, 900).merge(part(0, 100)).merge(part(100, 600))
    assert state_bytes(backwards) == state_bytes(whole)
    backwards.merge(RankHistogram(DIMS, counts))
    late = RankHistogram(DIMS, counts).merge(whole)
    assert state_bytes(backwards) == state_bytes(late) == state_bytes(whole)
    values = h[mask][:, 3].double().numpy()
    want = scipy.stats.spearmanr(values, counts[ids[mask]].numpy()).statistic
    assert abs(late.compute().spearman()[2] - want) <= 1e-12


def test_states_round_trip():
    h, ids = stream(300, torch.float16)
    counts = torch.bincount(ids, minlength=VOCAB)
    one = RankHistogram(DIMS, counts).update(h[:200], ids[:200])
    two = RankHistogram(DIMS, counts).load_state_dict(one.state_dict())
    for histogram in (one, two):
        histogram.update(h[200:], ids[200:])
    assert state_bytes(one) == state_bytes(two)
    assert torch.equal(one.compute().spearman(), two.compute().spearman())


def test_mid_ranks_are_those_of_scipy():
    counts = torch.bincount(zipf_ids(2000), minlength=VOCAB + 3).numpy()
    ids = np.repeat(np.arange(len(counts)), counts)
    want = scipy.stats.rankdata(counts[ids])
    np.testing.assert_array_equal(double_mid_ranks(counts)[ids], 2 * want)


def test_reasons():
    h, ids = stream(100, torch.bfloat16)
    h[:, 0], h[3, 3] = 1, torch.nan
    h[:, 5] = torch.where(torch.arange(100) % 2 == 0, 1.0, -1.0)
    histogram = RankHistogram(DIMS, torch.bincount(ids, minlength=VOCAB)).update(h, ids)
    result = histogram.compute()
    assert result.reason() == ["", "constant dimension", "nonfinite values"]
    assert result.reason("abs") == ["constant dimension", "constant dimension", "nonfinite values"]
    assert result.spearman().isnan().tolist() == [False, True, True]
    assert result.median.isnan().tolist() == [False, False, True]
    flat = RankHistogram([1], torch.ones(100).long()).update(h, torch.arange(100))
    assert flat.compute().reason() == ["constant covariate"]
    nothing = RankHistogram([1], torch.zeros(5).long()).compute()
    assert nothing.reason() == ["fewer than two tokens"]
    assert nothing.median.isnan().all()


def test_counts_must_be_those_of_the_stream():
    h, ids = stream(100, torch.bfloat16)
    counts = torch.bincount(ids, minlength=VOCAB)
    counts[7] += 1
    histogram = RankHistogram(DIMS, counts).update(h, ids)
    with pytest.raises(DataError, match=r"expected those of the stream, 100 tokens, got 101; tok"):
        histogram.compute()


def test_errors():
    counts = torch.ones(5).long()
    with pytest.raises(ArgumentError, match=r"dims: expected each once, got \[1, 1\]"):
        RankHistogram([1, 1], counts)
    with pytest.raises(ArgumentError, match=r"dims: expected none below zero, got \[-1\]"):
        RankHistogram([-1], counts)
    with pytest.raises(ArgumentError, match=r"D >= 10 for the dims, got \(2, 3\) float16"):
        RankHistogram([9], counts).update(torch.zeros(2, 3).half(), torch.tensor([0, 1]))
    with pytest.raises(DtypeError, match=r"counts: expected \(V,\) int64"):
        RankHistogram([1], counts.float())
    with pytest.raises(ArgumentError, match="counts: expected none below zero"):
        RankHistogram([1], -counts)
    histogram = RankHistogram([1], counts)
    half, ids = torch.zeros(2, 3).half(), torch.tensor([0, 1])
    with pytest.raises(DtypeError, match=r"hidden: expected float16 or bfloat16, got .* cast it"):
        histogram.update(half.float(), ids)
    histogram.update(half, ids)
    with pytest.raises(DtypeError, match=r"hidden: expected torch\.float16 as before"):
        histogram.update(half.bfloat16(), ids)
    with pytest.raises(ArgumentError, match="ids: expected 2 values int64"):
        histogram.update(half, ids[:1])
    with pytest.raises(ArgumentError, match="ids or page_index"):
        histogram.update(half, ids + 5)
    with pytest.raises(ArgumentError, match="mask: expected 2 values bool"):
        histogram.update(half, ids, torch.ones(3).bool())
    with pytest.raises(ArgumentError, match="other: expected the same dims"):
        histogram.merge(RankHistogram([2], counts))
    with pytest.raises(ArgumentError, match="other: expected the same counts"):
        histogram.merge(RankHistogram([1], counts + 1))
    other = RankHistogram([1], counts).update(half.bfloat16(), ids)
    with pytest.raises(ArgumentError, match=r"other: expected torch\.float16"):
        histogram.merge(other)
    with pytest.raises(DataError, match="state: it has other counts"):
        histogram.load_state_dict(RankHistogram([1], counts + 1).state_dict())
    with pytest.raises(ArgumentError, match=r"dims: expected columns in \[0, 3\), got 3"):
        ops.rank_histogram_touch(half, torch.tensor([3]))
    result = RankHistogram([1], counts[:2]).update(half, ids).compute()
    with pytest.raises(ArgumentError, match=r"q: expected a number in \[0, 1\]"):
        result.quantile(2)
    for statistic in (result.spearman, result.reason, lambda of: result.quantile(0.5, of)):
        with pytest.raises(ArgumentError, match='of: expected "h" or "abs"'):
            statistic("|h|")


def test_a_result_does_not_change_with_what_is_added_later():
    h, ids = stream(500, torch.bfloat16)
    histogram = RankHistogram(DIMS, torch.bincount(ids, minlength=VOCAB)).update(h, ids)
    result, fresh = histogram.compute(), histogram.compute()
    histogram.update(h, ids)
    assert torch.equal(result.spearman(), fresh.spearman())
    assert torch.equal(result.quantile(0.9), fresh.quantile(0.9))
    assert result.n == 500
    assert result.sums[0].sum() == 500 * len(DIMS)


@pytest.mark.parametrize("ties", [3, 1000])
def test_frequencies_of_another_corpus_are_ranked_within_the_stream(ties):
    rng = np.random.default_rng(ties)
    ids = torch.from_numpy(rng.zipf(1.5, 4000) % 50)
    other = torch.from_numpy(rng.integers(0, ties, 50))
    hidden = torch.from_numpy(rng.normal(size=(4000, 2)) + other[ids].numpy()[:, None] / ties)
    hidden = hidden.bfloat16()
    counts = torch.bincount(ids, minlength=50)
    histogram = RankHistogram([0, 1], counts, frequencies=other).update(hidden, ids)
    found = histogram.compute().spearman("abs")
    for column, rho in enumerate(found.tolist()):
        values = hidden[:, column].double().abs().numpy()
        expected = scipy.stats.spearmanr(values, other[ids].numpy()).statistic
        assert rho == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ArgumentError, match="frequencies"):
        histogram.merge(RankHistogram([0, 1], counts).update(hidden, ids))
