"""What all accumulators of points keep: they can be copied, and go on outside of inference mode."""

import copy
import pickle

import pytest
import torch
from ops.oracles import frequency_table, hidden_states
from outdim.stats import (
    Covariates,
    Extremes,
    Magnitudes,
    PointComoments,
    PointMoments,
    TokenShapes,
)
from outdim.stats.covariance import PointCovariances, Scatter
from outdim.stats.point_ranks import PointRanks
from outdim.stats.token_sums import TokenSums
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_table import TypeTable
from outdim.stats.unit_sums import UnitSums
from torch.utils import _pytree

POINTS, GROUPS, N, DIMS = ("a", "b"), ("text", "special"), 60, 7
BUCKETS = TypeBuckets.of_counts(torch.ones(500, dtype=torch.int64).numpy())
KINDS = {
    "moments": lambda: PointMoments(POINTS, GROUPS, Covariates(frequency_table(), ("x", "y"))),
    "comoments": lambda: PointComoments(POINTS, GROUPS, 1),
    "magnitudes": lambda: Magnitudes(POINTS, GROUPS),
    "extremes": lambda: Extremes(POINTS, GROUPS),
    "token_shapes": lambda: TokenShapes(POINTS, GROUPS),
    "units": lambda: UnitSums(POINTS, GROUPS, 4, {"a": [2]}),
    "covariances": lambda: PointCovariances(POINTS, GROUPS),
    "ranks": lambda: PointRanks(POINTS, [1, 3], torch.full((500,), 9), [1]),
    "token_sums": lambda: TokenSums(POINTS, [1, 3]),
    "types": lambda: TypeTable(POINTS, BUCKETS),
}


@pytest.fixture(params=KINDS)
def empty(request):
    return KINDS[request.param]


@pytest.fixture(params=["kernel", "reference"])
def path(request, monkeypatch):
    """With the compiled module, and without."""
    if request.param == "reference":
        for module in ("_dispatch", "checked", "magnitude_counts"):
            monkeypatch.setattr(f"outdim.ops.{module}.core", lambda: None)


def values(accumulator, seed):
    # Products of float32 depend on which rows are taken at once.
    single = not isinstance(accumulator, PointCovariances)
    return hidden_states(N, DIMS, torch.float32 if single else torch.float64, seed=seed)


def begin(accumulator, seed, points=POINTS, device="cpu"):
    """A forward up to `commit`."""
    place = torch.arange(N, device=device)
    rows = (place + seed) % 4
    if isinstance(accumulator, PointMoments):
        rows = None
    elif not isinstance(accumulator, UnitSums):
        rows = rows[None].double()
    accumulator.begin((place + seed) % 500, (place % 3).byte(), rows)
    for point in points:
        accumulator.add(point, values(accumulator, seed + ord(point))[None].to(device))


def forward(accumulator, seed):
    begin(accumulator, seed)
    accumulator.commit()
    return accumulator


def assert_same(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("other", [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_copy_in_the_midst_of_a_forward_goes_its_own_way(empty, other):
    mine = forward(forward(empty(), 0), 1)
    begin(mine, 2, points=POINTS[:1])
    before = mine.state_dict()
    its = other(mine)
    for accumulator in (its, mine):
        assert all(torch.equal(part, before[name]) for name, part in mine.state_dict().items())
        accumulator.add("b", values(accumulator, 2 + ord("b")))
        accumulator.commit()
    assert_same(its, mine)
    assert_same(mine, forward(forward(forward(empty(), 0), 1), 2))


def test_what_inference_mode_has_filled_goes_on_outside_of_it(empty, path):
    other = forward(empty(), 2).state_dict()
    with torch.inference_mode():
        mixed = forward(forward(empty(), 0), 1)
        begin(mixed, 7)
    mixed.discard()
    mixed.merge(other)
    forward(mixed, 3)
    with torch.inference_mode():
        forward(mixed, 4)
    begin(mixed, 5)
    with torch.inference_mode():
        mixed.commit()
    expected = empty()
    for seed in range(6):
        forward(expected, seed)
    assert_same(mixed, expected)


def elsewhere(given):
    return _pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), given)


@pytest.mark.parametrize("kind", ["magnitudes", "extremes", "units"])
def test_a_merged_state_follows_the_hidden_states_to_their_device(kind):
    mine = KINDS[kind]().merge(forward(KINDS[kind](), 0).state_dict())
    begin(mine, 1)
    for name in ("_pending", "_pending_counts", "_fresh", "_cells"):
        if name in vars(mine):
            setattr(mine, name, elsewhere(getattr(mine, name)))
    mine.commit()
    for name in ("_counts", "_sums"):
        for tensor in _pytree.tree_leaves(vars(mine).get(name, [])):
            assert tensor.is_meta


def test_a_scatter_follows_later_rows_to_their_device():
    rows = torch.randn(9, 4)
    found = Scatter.of(rows).with_later(Scatter.of(rows.to("meta")))
    assert found.n == 18
    assert found.mean.is_meta
    assert found.products.is_meta
