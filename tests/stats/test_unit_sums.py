"""Cosines of all pairs and covariances from one pass: against every pair, in any split."""

import numpy as np
import pytest
import torch
from outdim.errors import DataError
from outdim.stats.covariance import PointCovariances
from outdim.stats.unit_sums import UnitSums

GROUPS = ("text", "special")
OUT = [2, 5]


def rows(n=120, dims=9, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dims, generator=generator, dtype=torch.float64) + 0.3
    hidden[:, 2] += 40
    group = torch.randint(0, 3, (n,), generator=generator, dtype=torch.uint8)
    return hidden.to(dtype), group, torch.arange(n) % 6


def units(hidden, group, block, batches=1):
    sums = UnitSums(["p"], GROUPS, 6, {"p": OUT})
    for part, of, at in zip(
        hidden.chunk(batches), group.chunk(batches), block.chunk(batches), strict=True
    ):
        sums.begin(of, of, at)
        sums.add("p", part[None])
        sums.commit()
    return sums


def all_pairs(hidden, left_out=()):
    """Mean of the contributions of each dimension to the cosine of every two different rows."""
    x = hidden.clone()
    x[:, list(left_out)] = 0
    u = x / x.norm(dim=1, keepdim=True)
    products = u[:, None] * u[None]
    return products[~torch.eye(len(u), dtype=torch.bool)].mean(0).numpy()


@pytest.mark.parametrize("groups", [["text"], ["text", "special"]])
@pytest.mark.parametrize(("left_out", "dims"), [(False, ()), (True, OUT)])
def test_every_pair_is_in_the_expected_cosine(groups, left_out, dims):
    hidden, group, block = rows()
    kept = torch.isin(group, torch.tensor([1 + GROUPS.index(g) for g in groups]))
    expected = all_pairs(hidden[kept], dims)
    found = units(hidden, group, block, batches=5).cosines("p", groups, left_out=left_out)
    assert found.n == int(kept.sum())
    np.testing.assert_allclose(found.contribution, expected, rtol=1e-10, atol=1e-14)
    assert found.value == pytest.approx(expected.sum(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_fewer_bits_are_as_exact_as_float32(dtype):
    hidden, group, block = rows(2000, dtype=dtype)
    expected = all_pairs(hidden[group == 1].double(), OUT)
    found = units(hidden, group, block).cosines("p", ["text"], left_out=True)
    np.testing.assert_allclose(found.contribution, expected, atol=1e-6)


def test_the_interval_is_the_jackknife_over_blocks():
    hidden, group, block = rows(200)
    kept = group == 1
    found = units(hidden, group, block).cosines("p", ["text"], left_out=False)
    without = [all_pairs(hidden[kept & (block != b)]).sum() for b in range(6)]
    spread = np.sqrt(5 / 6 * np.sum((without - np.mean(without)) ** 2))
    assert found.high - found.value == pytest.approx(2.570582 * spread, rel=1e-5)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_the_interval_covers_what_is_true_of_the_source():
    """Of 200 samples of 20 documents whose words lean one way, some 95 % hold the mean of all."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        lean = rng.normal(size=(20, 1, 4)) * 0.5 + [1, 0, 0, 0]
        hidden = torch.from_numpy((lean + rng.normal(size=(20, 10, 4))).reshape(-1, 4))
        sums = UnitSums(["p"], ["text"], 20, {})
        document = torch.arange(20).repeat_interleave(10)
        group = torch.ones(200, dtype=torch.uint8)
        sums.begin(group, group, document)
        sums.add("p", hidden)
        sums.commit()
        found.append(sums.cosines("p", ["text"], left_out=False))
    truth = np.mean([one.value for one in found])
    held = sum(one.low <= truth <= one.high for one in found)
    assert 178 <= held <= 198


def test_rows_of_zeros_and_padding():
    hidden, group, block = rows(40)
    hidden[group == 0] = torch.nan
    hidden[(group == 1).nonzero()[0]] = 0
    found = units(hidden, group, block).cosines("p", ["text"], left_out=False)
    assert np.isfinite(found.value)
    kept = hidden[group == 1][1:]
    n = len(kept) + 1
    expected = all_pairs(kept).sum() * (n - 1) * (n - 2) / (n * (n - 1))
    assert found.value == pytest.approx(expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_hides_its_own_group_only(bad):
    hidden, group, block = rows(200)
    expected = units(hidden, group, block, batches=4).cosines("p", ["text"], left_out=False)
    hidden[(group == 2).nonzero()[7], 3] = bad
    sums = units(hidden, group, block, batches=4)
    found = sums.cosines("p", ["text"], left_out=False)
    np.testing.assert_array_equal(found.contribution, expected.contribution)
    assert (found.low, found.high) == (expected.low, expected.high)
    for groups in (["special"], ["text", "special"]):
        for left_out in (False, True):
            assert np.isnan(sums.cosines("p", groups, left_out=left_out).value)


def test_what_is_not_finite_may_be_left_out():
    hidden, group, block = rows()
    expected = units(hidden, group, block).cosines("p", ["text"], left_out=True)
    hidden[(group == 1).nonzero()[3], OUT[0]] = torch.nan
    found = units(hidden, group, block).cosines("p", ["text"], left_out=True)
    assert found.value == pytest.approx(expected.value, rel=1e-12)


def test_nothing_and_single_blocks_have_no_interval():
    sums = UnitSums(["p"], GROUPS, 4, {})
    assert sums.cosines("p", ["text"], left_out=False) is None
    hidden, group, block = rows(30)
    found = units(hidden, group.clamp(1, 1), block * 0).cosines("p", ["text"], left_out=False)
    assert np.isnan(found.low)
    assert np.isfinite(found.value)


def test_splits_merges_and_failed_forwards():
    hidden, group, block = rows()
    whole = units(hidden, group, block)
    merged = units(hidden[:50], group[:50], block[:50])
    merged.merge(units(hidden[50:], group[50:], block[50:]).state_dict())
    merged.begin(group, group, block)
    merged.add("p", hidden)
    merged.discard()
    merged.commit()
    for name, expected in whole.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="state: expected"):
        merged.merge({"q": whole.state_dict()["p"]})


def covariances(hidden, group, batches=1):
    found = PointCovariances(["p"], GROUPS)
    for part, of in zip(hidden.chunk(batches), group.chunk(batches), strict=True):
        found.begin(torch.zeros(len(of), dtype=torch.int64), of)
        found.add("p", part[None])
        found.add("other", part[None])
        found.commit()
    return found


@pytest.mark.parametrize("groups", [["special"], ["text", "special"]])
def test_covariances_are_those_of_numpy(groups):
    hidden, group, _ = rows()
    kept = torch.isin(group, torch.tensor([1 + GROUPS.index(g) for g in groups]))
    for batches in (1, 6):
        found = covariances(hidden + 1000, group, batches).scatter("p", groups)
        expected = np.cov(hidden[kept].numpy().T, bias=True)
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-8, atol=1e-10)
        assert found.n == int(kept.sum())
    single = covariances(hidden.float(), group).scatter("p", groups)
    np.testing.assert_allclose(single.covariance, expected, rtol=1e-4, atol=1e-5)


def test_covariances_merge_and_forget_failed_forwards():
    hidden, group, _ = rows()
    whole = covariances(hidden, group).state_dict()
    merged = covariances(hidden[:70], group[:70])
    merged.merge(covariances(hidden[70:], group[70:]).state_dict())
    merged.begin(group.long(), group)
    merged.add("p", hidden)
    merged.discard()
    merged.commit()
    assert merged.state_dict().keys() == whole.keys()
    for name, expected in whole.items():
        torch.testing.assert_close(merged.state_dict()[name], expected, rtol=1e-10, atol=1e-10)
    assert PointCovariances(["p"], GROUPS).scatter("p", ["text"]) is None
    with pytest.raises(DataError, match="state: "):
        merged.merge({"q/text/n": torch.tensor(1)})
    small = covariances(hidden[:, :4], group).state_dict()
    with pytest.raises(DataError, match="damaged"):
        merged.merge(small)
