"""stats.PointMoments: resident states, whole forwards only, merging."""

import pytest
import torch
from ops.oracles import assert_state_matches, frequency_table, hidden_states, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DataError
from outdim.stats import Covariates, Moments
from outdim.stats.point_moments import PointMoments

POINTS, GROUPS = ("embeddings", "block.0"), ("text", "special", "first")
NAMES = ("count", "log1p_count")


def covariates():
    return Covariates(frequency_table(), NAMES, ("position",))


def forwards(count=5, n=300, d=9):
    """Per forward: what `begin` takes, and the hidden states of each point."""
    for seed in range(count):
        ids = zipf_ids(n + seed, seed)
        group = torch.where(ids < 3, 2, 1).byte()
        group[::7], group[::11] = 3, 0
        ids = ids.masked_fill(group == 0, -100)
        rows = (torch.arange(n + seed) % 50)[None]
        hidden = {p: hidden_states(n + seed, d, seed=10 * seed + i) for i, p in enumerate(POINTS)}
        for h in hidden.values():
            h[group == 0] = torch.nan
        yield (ids, group, rows), hidden


def filled(given=None, **options):
    moments = PointMoments(POINTS, GROUPS, covariates(), **options)
    for begin, hidden in forwards() if given is None else given:
        moments.begin(*begin)
        for point, h in hidden.items():
            moments.add(point, h)
        moments.commit()
    return moments


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_against_long_double():
    moments = filled()
    for point in POINTS:
        for index, group in enumerate(GROUPS, 1):
            parts = [(ids, g, rows, h[point]) for (ids, g, rows), h in forwards()]
            ids, g, rows, h = (torch.cat(list(part), -1 if i == 2 else 0)
                               for i, part in enumerate(zip(*parts, strict=True)))  # fmt: skip
            chosen = g == index
            x = torch.cat([frequency_table()[:, ids[chosen]], rows[:, chosen].double()]).numpy()
            state = moments.moments(point, [group]).state_dict()
            assert_state_matches(state["head"], state["body"], h[chosen], x)


def test_groups_together_are_the_accumulators_merged():
    moments = filled()
    total = Moments(covariates())
    for group in ("special", "text"):
        total.merge(moments.moments("block.0", [group]))
    same(moments.moments("block.0", ["special", "text"]).state_dict(), total.state_dict())
    everything = moments.moments("block.0", GROUPS).compute()
    assert everything.n == sum(int((g > 0).sum()) for (_, g, _), _ in forwards())


def test_a_forward_that_fails_leaves_nothing_and_can_be_tried_again():
    moments = PointMoments(POINTS, GROUPS, covariates())
    for begin, hidden in forwards():
        moments.begin(*begin)
        moments.add("embeddings", hidden["embeddings"] * 2)
        before = moments.state_dict()
        moments.discard()
        same(moments.state_dict(), before)
        moments.begin(*begin)
        for point, h in hidden.items():
            moments.add(point, h)
        moments.commit()
    same(moments.state_dict(), filled().state_dict())


def test_two_states_a_point_serve_the_whole_stream():
    moments = PointMoments(POINTS, GROUPS, covariates())
    used = set()
    for begin, hidden in forwards(8):
        moments.begin(*begin)
        for point, h in hidden.items():
            arguments = moments.arguments(point)
            _, _, state = ops.layer_norm_moments(h, statistics=arguments, of="input")
            moments.absorb(point, state)
            used.add(state.body.data_ptr())
        moments.commit()
    assert len(used) == 2 * len(POINTS)
    same(moments.state_dict(), filled(forwards(8)).state_dict())


def test_states_merge_in_any_split():
    given = list(forwards(6))
    whole = filled(given).state_dict()
    merged = filled(given[:2]).merge(filled(given[2:3]).state_dict())
    merged.merge(PointMoments(POINTS, GROUPS, covariates()).state_dict())
    merged.merge(filled(given[3:]).state_dict())
    for key, value in merged.state_dict().items():
        torch.testing.assert_close(value, whole[key], rtol=1e-9, atol=1e-9, equal_nan=True)
    fresh = PointMoments(POINTS, GROUPS, covariates()).merge(whole)
    same(fresh.state_dict(), whole)
    assert fresh.state_dict()["block.0/body"].data_ptr() != whole["block.0/body"].data_ptr()


def test_states_of_something_else_are_refused_whole():
    moments = filled()
    before = moments.state_dict()
    other = PointMoments(POINTS, GROUPS, Covariates(frequency_table() + 1, NAMES, ("position",)))
    two_groups = PointMoments(POINTS, GROUPS[:2], covariates())
    two_groups.begin(torch.zeros(1).long(), torch.ones(1).byte(), torch.zeros(1, 1))
    two_groups.add("block.0", torch.zeros(1, 9))
    two_groups.commit()
    for state, text in (
        (other.state_dict(), "other covariates or another table"),
        (two_groups.state_dict(), r"block.0/head: expected \(3, 7\) float64 for the groups text"),
        (before | {"block.7/head": torch.zeros(1)}, "expected the points embeddings, block.0"),
        (before | {"block.0/body": before["block.0/body"][..., :4]}, r"body: expected .* 9\)"),
    ):
        with pytest.raises(DataError, match=text):
            moments.merge(state)
        same(moments.state_dict(), before)


def test_an_id_outside_the_table_is_named():
    moments = PointMoments(POINTS, GROUPS, covariates())
    with pytest.raises(ArgumentError, match=r"ids: expected values in \[0, 500\).* 500 in row 1"):
        moments.begin(torch.tensor([0, 500]), torch.tensor([1, 2]).byte(), torch.zeros(1, 2))
    with pytest.raises(ArgumentError, match=r"rows: expected \(1, N\) values"):
        moments.begin(torch.tensor([0]), torch.tensor([1]).byte())
    with pytest.raises(RuntimeError, match="begin was not called"):
        moments.add("block.0", torch.zeros(2, 3))
