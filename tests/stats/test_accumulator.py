"""stats.Moments: any split and merge, its results, its state on disk, its errors."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops.oracles import assert_state_matches, frequency_table, hidden_states, oracle, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.stats import Covariates, Moments

NAMES = ("count", "log1p_count")


def covariates(row_names=("position",)):
    return Covariates(frequency_table(), NAMES, row_names)


def stream(n, d=9, seed=0):
    h = hidden_states(n, d, seed=seed)
    return h, zipf_ids(n, seed), torch.arange(n) % 50


def accumulate(cuts, n=400, **options):
    """Moments of each part of a stream that is cut."""
    h, ids, position = stream(n)
    edges = [0, *sorted(cuts), n]
    return [
        Moments(covariates(), **options).update(h[a:b], ids[a:b], rows=position[a:b])
        for a, b in pairwise(edges)
    ]


def state_bytes(moments):
    return {key: value.numpy().tobytes() for key, value in moments.state_dict().items()}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 400), max_size=6), st.randoms(use_true_random=False))
def test_any_split_and_merge_order(cuts, random):
    """Parts in any order and any tree: within 1e-12; the same order: the same bytes."""
    parts = accumulate(cuts)
    order = list(range(len(parts)))
    random.shuffle(order)

    def merged():
        fresh = [accumulate(cuts)[i] for i in order]
        rng = np.random.default_rng(len(cuts))
        while len(fresh) > 1:
            i = int(rng.integers(len(fresh) - 1))
            fresh[i].merge(fresh.pop(i + 1))
        return fresh[0]

    one = merged()
    assert state_bytes(one) == state_bytes(merged())
    h, ids, position = stream(400)
    x = torch.cat([frequency_table()[:, ids], position[None].double()]).numpy()
    state = one.state_dict()
    assert_state_matches(state["head"], state["body"], h, x)


@settings(max_examples=60)
@given(
    st.integers(2, 60),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([1e-33, 1e-6, 1.0, 1e5]),
    st.integers(0, 2**31),
)
def test_pearson_against_long_double(n, mean, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    h = (torch.randn(n, 3, generator=generator) * scale + mean * scale).float()
    table = torch.randint(0, 10**9, (2, n), generator=generator).double()
    ids = torch.arange(n)
    result = Moments(Covariates(table, NAMES)).update(h, ids).compute()
    want = oracle(h, table)
    for k, name in enumerate(NAMES):
        for of in ("h", "abs"):
            m2 = want.m2 if of == "h" else want.m2_abs
            # |h| that is constant to seven digits while h changes sign is not resolved.
            usable = (m2 > 1e-9 * n * np.abs(h.double().numpy()).max(0) ** 2) | (of == "h")
            usable &= (m2 > 0) & (want.x_m2[k] > 0)
            got = result.pearson(name, of).numpy()
            error = np.abs(got - want.pearson(of)[k])[usable]
            assert np.all(error <= (1e-12 if of == "h" else 1e-9))


def test_results_against_numpy_and_scipy():
    h, ids, position = stream(500)
    mask = torch.arange(500) % 3 != 0
    h[~mask] = torch.nan
    result = Moments(covariates(), tau=1.0).update(h, ids, mask, position).compute()
    values = h[mask].double().numpy()
    want = {
        "mean": values.mean(0),
        "variance": values.var(0),
        "std": values.std(0),
        "mean_abs": np.abs(values).mean(0),
        "min": values.min(0),
        "max": values.max(0),
        "absmax": np.abs(values).max(0),
        "fraction_over": (np.abs(values) >= 1).mean(0),
        "unit_mean": (values / np.linalg.norm(values, axis=1, keepdims=True)).mean(0),
        "nonfinite": np.zeros(9),
    }
    for name, expected in want.items():
        np.testing.assert_allclose(getattr(result, name).numpy(), expected, rtol=1e-12, atol=1e-12)
    varying = [0, 1, *range(3, 9)]  # dimension 2 is constant
    for name, of_scipy in (("kurtosis", scipy.stats.kurtosis), ("skewness", scipy.stats.skew)):
        options = {"fisher": False} if name == "kurtosis" else {}
        got = getattr(result, name).numpy()
        expected = of_scipy(values[:, varying], 0, **options)
        np.testing.assert_allclose(got[varying], expected, rtol=1e-11, atol=1e-11)
        assert np.isnan(got[2])
    assert result.n == int(mask.sum())
    np.testing.assert_allclose(result.covariate_mean[2], position[mask].double().mean(), rtol=1e-14)
    np.testing.assert_allclose(
        result.covariate_std[2], position[mask].double().std(correction=0), rtol=1e-14
    )
    counts = frequency_table()[0, ids[mask]].numpy()
    for dim in varying:
        want_r = scipy.stats.pearsonr(counts, values[:, dim]).statistic
        assert abs(result.pearson("count")[dim] - want_r) < 1e-12


def test_reasons():
    h, ids, position = stream(100)
    h[5, 0] = torch.inf
    result = Moments(covariates()).update(h, ids, rows=torch.zeros(100)).compute()
    assert result.reason("count")[:5].tolist() == [
        "nonfinite values", "", "constant dimension", "", "",
    ]  # fmt: skip
    assert result.reason("count", "abs")[:5].tolist() == [
        "nonfinite values", "", "constant dimension", "constant dimension", "",
    ]  # fmt: skip
    assert set(result.reason("position")[1:]) == {"constant covariate"}
    for of in ("h", "abs"):
        nan = result.pearson("count", of).isnan().numpy()
        assert (nan == (result.reason("count", of) != "")).all()
    assert result.nonfinite.tolist() == [1] + [0] * 8
    one = Moments(covariates()).update(h[:1], ids[:1], rows=position[:1]).compute()
    assert set(one.reason("count")) == {"fewer than two tokens"}
    assert one.variance.tolist() == [0.0] * 9
    assert one.kurtosis.isnan().all()


def test_no_rows():
    moments = Moments(covariates())
    empty = moments.compute()
    assert (empty.n, empty.mean.shape) == (0, (0,))
    result = moments.update(torch.zeros(0, 9), torch.zeros(0).long(), rows=torch.zeros(0)).compute()
    for name in ("mean", "variance", "min", "max", "absmax", "kurtosis", "fraction_over"):
        assert getattr(result, name).isnan().all(), name
    assert result.covariate_mean.isnan().all()
    assert set(result.reason("count")) == {"fewer than two tokens"}
    assert result.pearson("count").isnan().all()


def test_tiny_values_are_not_constant():
    """A dimension disabled by gamma = 5e-33 still has a correlation."""
    _, ids, position = stream(300)
    h = torch.stack([position * 5e-33, torch.full((300,), 5e-33)], 1).float()
    result = Moments(covariates()).update(h, ids, rows=position).compute()
    assert abs(result.pearson("position")[0] - 1) < 1e-6
    assert result.reason("position").tolist() == ["", "constant dimension"]
    assert result.kurtosis[0] > 1


@pytest.mark.parametrize("shape", [True, False])
def test_magnitudes_that_are_constant_up_to_rounding(shape):
    n = 5000
    sign = torch.where(torch.randn(n) > 0, 1.0, -1.0)
    h = torch.stack([sign * 0.1, sign * (0.1 + 1e-4 * torch.randn(n)), torch.full((n,), 0.1)], 1)
    result = Moments(covariates(), shape=shape).update(h, zipf_ids(n), rows=torch.arange(n))
    for _ in range(2):  # also after a merge
        assert result.compute().reason("count", "abs").tolist() == [
            "constant dimension", "", "constant dimension",
        ]  # fmt: skip
        assert result.compute().reason("count").tolist() == ["", "", "constant dimension"]
        result.merge(Moments(covariates(), shape=shape).update(h[:999], zipf_ids(999),
                                                               rows=torch.arange(999)))  # fmt: skip


def test_a_constant_stays_constant_over_merges():
    h = torch.full((1000, 3), 0.1)
    moments = Moments(covariates(), shape=False)
    for start in range(0, 1000, 13):
        part = h[start : start + 13]
        moments.update(part, zipf_ids(len(part), start), rows=torch.full((len(part),), 1 / 3))
    assert (moments.state_dict()["body"][[1, 3]] == 0).all()
    assert set(moments.compute().reason("count")) == {"constant dimension"}
    assert set(moments.compute().reason("position")) == {"constant covariate"}


@pytest.mark.parametrize("shape", [True, False])
def test_an_empty_state_changes_no_byte(shape):
    h, ids, position = stream(50)
    h[0, 0] = torch.nan
    full = Moments(covariates(), shape=shape).update(h, ids, rows=position)
    before = state_bytes(full)
    nothing = torch.zeros(50, dtype=torch.bool)
    assert state_bytes(full.merge(Moments(covariates(), shape=shape))) == before
    assert state_bytes(full.update(h, ids, nothing, position)) == before
    late = Moments(covariates(), shape=shape).update(h, ids, nothing, position)
    assert state_bytes(late.merge(full)) == before
    assert state_bytes(Moments(covariates(), shape=shape).merge(full)) == before


def test_masks_and_shapes_of_rows():
    h, ids, position = stream(60)
    mask = torch.arange(60) % 4 != 0
    want = state_bytes(Moments(covariates()).update(h, ids, mask, position))
    batch = (h.view(4, 15, 9), ids.view(4, 15), mask.view(4, 15).long(), position.view(4, 15))
    assert state_bytes(Moments(covariates()).update(*batch)) == want
    arrays = [h.numpy(), ids.numpy(), mask.numpy(), position[None].numpy()]
    assert state_bytes(Moments(covariates()).update(*arrays)) == want


def test_absorb_takes_the_groups_of_one_pass():
    h, ids, position = stream(200)
    group = (1 + (ids < 3).long()).to(torch.uint8)
    state = ops.moments(
        h, ids=ids, table=frequency_table(), rows=position[None].double(), group=group, groups=2
    )
    text = Moments(covariates()).absorb(state.head[0], state.body[0])
    assert state_bytes(text) == state_bytes(
        Moments(covariates()).update(h, ids, group == 1, position)
    )
    both = text.merge(Moments(covariates()).absorb(state.head[1], state.body[1])).compute()
    want = Moments(covariates()).update(h, ids, rows=position).compute()
    torch.testing.assert_close(both.pearson("count"), want.pearson("count"), equal_nan=True)
    assert both.n == 200


def test_results_are_of_their_time():
    h, ids, position = stream(100)
    moments = Moments(covariates()).update(h[:50], ids[:50], rows=position[:50])
    first = moments.compute()
    assert moments.compute() is first
    moments.update(h[50:], ids[50:], rows=position[50:])
    assert (first.n, moments.compute().n) == (50, 100)


def test_saved_states_go_on(tmp_path):
    h, ids, position = stream(100)
    one = Moments(covariates(), tau=2.0).update(h[:70], ids[:70], rows=position[:70])
    path = tmp_path / "state.safetensors"
    one.save(path)

    alone = Moments.load(path)
    assert state_bytes(alone) == state_bytes(one)
    assert alone.covariates.all_names == ("count", "log1p_count", "position")
    assert torch.equal(alone.compute().kurtosis[3:], one.compute().kurtosis[3:])
    with pytest.raises(ArgumentError, match=r"pass covariates= to Moments\.load"):
        alone.update(h, ids, rows=position)

    resumed = Moments.load(path, covariates())
    for moments in (one, resumed):
        moments.update(h[70:], ids[70:], rows=position[70:])
    assert state_bytes(resumed) == state_bytes(one)
    assert state_bytes(alone.merge(resumed)) != state_bytes(one)
    assert alone.compute().n == 170

    again = Moments(covariates(), tau=2.0).load_state_dict(one.state_dict())
    assert state_bytes(again) == state_bytes(one)
    empty = Moments(covariates(), tau=2.0)
    assert again.load_state_dict(empty.state_dict()).compute().n == 0


def test_load_errors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not this")
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        Moments.load(path)
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        Moments.load(tmp_path / "absent")
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="does not hold moments"):
        Moments.load(path)
    save_file({"a": torch.zeros(1)}, path, {"format": "outdim.moments", "version": "99"})
    with pytest.raises(DataError, match="has version 99, this outdim reads 1"):
        Moments.load(path)
    Moments(covariates()).save(path)
    with pytest.raises(DataError, match="accumulated with other covariates or their table"):
        Moments.load(path, Covariates(frequency_table() + 1, NAMES, ("position",)))
    state = Moments(covariates()).state_dict()
    with pytest.raises(DataError, match="expected the keys"):
        Moments(covariates()).load_state_dict({"head": state["head"]})
    with pytest.raises(DataError, match="accumulated with other tau"):
        Moments(covariates(), tau=1.0).load_state_dict(state)
    with pytest.raises(DataError, match="damaged: head: expected"):
        Moments(covariates()).load_state_dict(
            state | {"head": torch.zeros(2).double(), "body": torch.zeros(17, 4).double()}
        )


def test_merge_errors():
    h, ids, position = stream(20)
    moments = Moments(covariates()).update(h, ids, rows=position)
    with pytest.raises(ArgumentError, match="with another table; merge states"):
        moments.merge(Moments(Covariates(frequency_table() * 2, NAMES, ("position",))))
    with pytest.raises(ArgumentError, match=r"expected the covariates .* got \(\)"):
        moments.merge(Moments())
    with pytest.raises(ArgumentError, match=r"other: expected tau=6\.0, got tau=5\.0"):
        moments.merge(Moments(covariates(), tau=5))
    with pytest.raises(ArgumentError, match="other: expected shape=True, got shape=False"):
        moments.merge(Moments(covariates(), shape=False))
    with pytest.raises(ArgumentError, match=r"hidden: expected D = 9 as before, got \(20, 4\)"):
        moments.update(h[:, :4], ids, rows=position)
    with pytest.raises(DtypeError, match=r"head: expected \(7,\) float64"):
        moments.absorb(torch.zeros(7), torch.zeros(17, 9))


def test_update_errors():
    h, ids, position = stream(20)
    with pytest.raises(DtypeError, match="hidden: expected a tensor or array, got list"):
        Moments().update([1.0])
    with pytest.raises(DtypeError, match="mask: expected bool or integers, one per row"):
        Moments().update(h, mask=torch.ones(20))
    with pytest.raises(ArgumentError, match="group: expected 20 values"):
        Moments().update(h, mask=torch.ones(19).bool())
    with pytest.raises(ArgumentError, match="ids: expected N token ids"):
        Moments(covariates()).update(h, rows=position)
    with pytest.raises(ArgumentError, match=r"rows: expected \(1, 20\) values of .*, got None"):
        Moments(covariates()).update(h, ids)
    with pytest.raises(ArgumentError, match=r"rows: expected \(2, 20\) values"):
        Moments(Covariates(row_names=("a", "b"))).update(h, rows=position)


def test_result_errors():
    result = Moments(covariates(), shape=False).update(*stream(9)[:2], rows=torch.ones(9)).compute()
    with pytest.raises(ArgumentError, match=r"covariate: expected one of \['count', .*'rank'"):
        result.pearson("rank")
    with pytest.raises(ArgumentError, match='of: expected "h" or "abs"'):
        result.pearson("count", of="|h|")
    with pytest.raises(ArgumentError, match="accumulated with shape=True"):
        _ = result.kurtosis


def test_covariate_errors():
    with pytest.raises(DtypeError, match=r"table: expected \(K, V\) float64, got \(1, 3\) int64"):
        Covariates(torch.zeros(1, 3).long(), ("count",))
    with pytest.raises(ArgumentError, match="names: expected one for each of the 2 rows"):
        Covariates(frequency_table(), ("count",))
    with pytest.raises(ArgumentError, match="names: expected each once"):
        Covariates(frequency_table(), NAMES, ("count",))
    with pytest.raises(ArgumentError, match="table: expected finite values"):
        Covariates(torch.tensor([[torch.nan]]).double(), ("count",))
