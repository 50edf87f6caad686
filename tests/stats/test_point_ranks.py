"""stats.PointRanks is a RankHistogram per point, and looks at a batch once for all of them."""

from collections import Counter

import pytest
import torch
from ops.oracles import frequency_table, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.stats import Covariates, PointMoments, PointRanks, RankHistogram, TypeTable
from outdim.stats.type_buckets import TypeBuckets

V, N, D, DIMS, GROUPS = 500, 90, 9, [7, 0, 4], [1, 3]
DTYPES = {"a": torch.float32, "b": torch.float16, "c": torch.bfloat16}
BATCHES = range(5)


@pytest.fixture(params=[False, True], ids=["pages as needed", "all pages at once"])
def dense(request, monkeypatch):
    """As on a CPU, and as on a GPU."""
    monkeypatch.setattr(RankHistogram, "_dense", property(lambda histogram: request.param))


def batch(seed):
    group = (torch.arange(N) + seed) % 4
    ids = zipf_ids(N, seed) % V
    ids[group == 0] = -7  # padding may be anything
    return ids, group.byte()


def values(seed, point):
    noise = torch.randn(1, N, D, generator=torch.Generator().manual_seed(1000 * seed + ord(point)))
    return (noise * 10.0 ** (seed - 2)).to(DTYPES[point])


def stream_counts(seeds=BATCHES):
    counts = torch.zeros(V, dtype=torch.int64)
    for ids, group in map(batch, seeds):
        counts += torch.bincount(ids[torch.isin(group, torch.tensor(GROUPS))], minlength=V)
    return counts


def forward(ranks, seed, points=DTYPES):
    ranks.begin(*batch(seed), None)
    for point in points:
        ranks.add(point, values(seed, point))


def point_ranks(seeds, points=DTYPES):
    ranks = PointRanks(points, DIMS, stream_counts(), GROUPS)
    for seed in seeds:
        forward(ranks, seed, points)
        ranks.commit()
    return ranks


def state_bytes(state):
    return {name: (part.dtype, part.shape, part.numpy().tobytes()) for name, part in state.items()}


@pytest.mark.usefixtures("dense")
def test_state_and_results_are_those_of_a_histogram_per_point():
    ranks = point_ranks([0, 1]).merge(point_ranks([]).state_dict())
    forward(ranks, 4, ["a"])
    ranks.discard()
    forward(ranks, 2)
    ranks.commit()
    ranks.merge(point_ranks([3, 4]).state_dict())
    expected, results = {}, ranks.compute()
    for point in DTYPES:
        alone = RankHistogram([0, 1, 2], stream_counts())
        for seed in BATCHES:
            ids, group = batch(seed)
            hidden = values(seed, point)[0][:, DIMS]
            half = hidden.bfloat16() if hidden.dtype == torch.float32 else hidden
            alone.update(half, ids, torch.isin(group, torch.tensor(GROUPS)))
        state = alone.state_dict()
        for name in ("dims", "counts", "frequencies", "seen"):
            expected[name] = state.pop(name)
        expected |= {f"{point}/{name}": part for name, part in state.items()}
        result, found = alone.compute(), results[point]
        assert found.dtype == result.dtype
        assert found.n == int(stream_counts().sum())
        for of in ("h", "abs"):
            assert torch.equal(found.spearman(of), result.spearman(of))
            assert torch.equal(found.quantile(0.3, of), result.quantile(0.3, of))
    state = ranks.state_dict()
    assert list(state) == list(expected)
    assert state_bytes(state) == state_bytes(expected)
    again = point_ranks([]).merge(state)
    assert state_bytes(again.state_dict()) == state_bytes(state)


def test_what_it_refuses_leaves_it_as_it_was():
    ranks = point_ranks([0])
    before = ranks.state_dict()
    ranks.begin(*batch(1), None)
    ranks.add("a", values(1, "a"))
    with pytest.raises(DtypeError, match=r"expected torch\.float16 as before at b, got torch\.bf"):
        ranks.add("b", values(1, "b").bfloat16())
    with pytest.raises(RuntimeError, match="no hidden states at b, c"):
        ranks.commit()
    ranks.discard()
    others = point_ranks([1]).state_dict()
    index = others["c/page_index"]
    for wrong, error, message in (
        ({"c/page_index": index + 1}, DataError, "damaged: page_index"),
        ({"c/count": others["c/count"][:, :7]}, DataError, "damaged: count"),
        ({"b/dtype": torch.tensor(2)}, ArgumentError, r"expected torch\.float16 at b, got"),
        ({"dims": torch.arange(4)}, DataError, "other dims"),
        ({"counts": others["counts"] + 1}, DataError, "other counts"),
        ({"d/count": others["c/count"]}, DataError, "expected the keys"),
    ):
        with pytest.raises(error, match=message):
            ranks.merge(others | wrong)
    assert state_bytes(ranks.state_dict()) == state_bytes(before)


def test_a_batch_is_looked_up_once_however_many_points_there_are(monkeypatch):
    calls = Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(Covariates, "look_up")
    for name in ("_see", "_grow"):
        counted(RankHistogram, name)
    for name in ("rank_histogram_touch", "rank_histogram_add"):
        counted(ops, name)
    monkeypatch.setitem(DTYPES, "d", torch.float32)
    found = []
    for points in ("a", "abcd"):
        parts = (
            PointMoments(points, ["text"], Covariates(frequency_table(), ("x", "y"))),
            PointRanks(points, DIMS, stream_counts(), GROUPS),
            TypeTable(points, TypeBuckets.of_counts(stream_counts().numpy())),
        )
        calls.clear()
        for part in parts:
            ids, group = batch(0)
            part.begin(ids, (group == 1).byte(), None)
            for point in points:
                part.add(point, values(0, point))
            part.commit()
        found.append(dict(calls))
    once = ("look_up", "_see", "_grow", "rank_histogram_touch", "rank_histogram_add")
    assert found == [dict.fromkeys(once, 1)] * 2
