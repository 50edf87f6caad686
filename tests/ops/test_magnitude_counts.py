"""ops.magnitude_counts_*: bins of |h| against a search among the ends of the bins, to the count."""

import numpy as np
import pytest
import torch
from ops.oracles import BACKENDS, DTYPES, dtypes, hidden_states, needs_core, of_every_kernel
from outdim import ops
from outdim.errors import ArgumentError, DtypeError
from outdim.ops.layout import MAGNITUDE_BINS
from outdim.stats.magnitudes import bin_edges

SHAPES = [(0, 64), (1, 1), (1, 769), (37, 1), (37, 64), (37, 1023), (700, 205)]
GROUPS = 3


def groups_of(n):
    return torch.randint(0, GROUPS + 1, (n,), generator=torch.Generator().manual_seed(n)).byte()


def searched(hidden, group):
    """Counts [G, D, B] by binary search in float64; what is not finite is in the last bin."""
    h = hidden.float().double().abs().numpy()
    bins = np.searchsorted(bin_edges()[1:-1], np.where(np.isfinite(h), h, np.inf), side="right")
    cells = (
        group.numpy()[:, None].astype(int) * h.shape[1] + np.arange(h.shape[1])
    ) * MAGNITUDE_BINS
    size = (GROUPS + 1, h.shape[1], MAGNITUDE_BINS)
    return np.bincount((cells + bins).ravel(), minlength=np.prod(size)).reshape(size)[1:]


def added(hidden, group, **options):
    fresh = ops.magnitude_counts_empty(GROUPS, hidden.shape[-1])
    ops.magnitude_counts_add(hidden, fresh, group=group, **options)
    return fresh[..., :MAGNITUDE_BINS]


def odd_values(n, d, dtype=torch.float32):
    """Values of every size, the ends of bins and their neighbours, NaN and infinity among them."""
    h = hidden_states(n, d, dtype).double()
    h *= torch.logspace(-7, 7, d, dtype=torch.float64)
    ends = torch.from_numpy(bin_edges()[:-1]).float()
    below = torch.nextafter(ends, torch.zeros(()))
    special = torch.cat(
        [ends, below, torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-42])]
    )
    flat = h.view(-1)
    flat[: len(special)] = special.double()[: h.numel()]
    return h.to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_counts_are_those_of_a_search_among_the_ends(backend, n, d):
    for dtype in dtypes(n, backend):
        hidden, group = odd_values(n, d, dtype), groups_of(n)
        assert np.array_equal(added(hidden, group, backend=backend), searched(hidden, group))


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_every_instruction_set_and_thread_counts_the_same(dtype):
    hidden, group = odd_values(300, 205, dtype), groups_of(300)
    want = torch.from_numpy(searched(hidden, group))
    for found in of_every_kernel(lambda: added(hidden, group)):
        assert all(one.equal(want.int()) for one in found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_rows_left_out(backend):
    """What lies around the rows, and in rows of group 0, is never counted."""
    hidden, group = odd_values(64, 50), groups_of(64)
    margins = torch.full((66, 59), 7.0)
    margins[1:65, 4:54] = hidden
    margins[1:65][group == 0] = 7.0
    found = added(margins[1:65, 4:54], group, backend=backend)
    assert found.equal(added(hidden, group, backend=backend))
    assert found.equal(added(hidden.view(4, 16, 50), group.view(4, 16), backend=backend))
    assert found.equal(added(hidden.T.contiguous().T, group, backend=backend))
    assert added(hidden, torch.zeros_like(group), backend=backend).sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_groups_every_row_counts_and_calls_add_up(backend):
    hidden, fresh = odd_values(40, 33), ops.magnitude_counts_empty(1, 33)
    ops.magnitude_counts_add(hidden, fresh, backend=backend)
    ops.magnitude_counts_add(hidden, fresh, backend=backend)
    want = 2 * searched(hidden, torch.ones(40, dtype=torch.uint8))[:1]
    assert np.array_equal(fresh[..., :MAGNITUDE_BINS], want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_core), False])
@pytest.mark.parametrize("n", [0, 3, 300])
def test_batches_are_moved_whole_and_leave_zeros(n, compiled, backend, monkeypatch):
    if not compiled:
        monkeypatch.setattr("outdim.ops.magnitude_counts.core", lambda: None)
    fresh = ops.magnitude_counts_empty(GROUPS, 70)
    shape = (GROUPS, 70, MAGNITUDE_BINS)
    counts = torch.randint(0, 2**40, shape, generator=torch.Generator().manual_seed(1))
    want = counts.clone()
    for part in range(3):
        hidden, group = odd_values(n, 70) * (1 + part), groups_of(n)
        ops.magnitude_counts_add(hidden, fresh, group=group, backend=backend)
        ops.magnitude_counts_add(-hidden, fresh, group=group, backend=backend)
        ops.magnitude_counts_move(fresh, counts)
        want += 2 * torch.from_numpy(searched(hidden, group))
        assert counts.equal(want)
        assert not fresh.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    hidden, group = hidden_states(37, 20), groups_of(37)
    for of in (group, None):
        torch.library.opcheck(
            torch.ops.outdim.magnitude_counts_add.default,
            (hidden, ops.magnitude_counts_empty(GROUPS, 20), of, backend),
        )
    compiled = torch.compile(
        lambda h, fresh: ops.magnitude_counts_add(h, fresh, group=group, backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    traced = ops.magnitude_counts_empty(GROUPS, 20)
    compiled(hidden, traced)
    assert traced[..., :MAGNITUDE_BINS].equal(added(hidden, group, backend=backend))


def test_arrays_are_taken():
    hidden, group = hidden_states(37, 20), groups_of(37)
    assert added(hidden.numpy(), group.numpy()).equal(added(hidden, group))


def arguments():
    return {"hidden": torch.ones(3, 2), "fresh": ops.magnitude_counts_empty(1, 2)}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(3, 2).long()}, DtypeError, "hidden: expected float32"),
        ({"hidden": torch.ones(3, 4)}, ArgumentError, "fresh: expected contiguous (G, 4, 528)"),
        ({"fresh": torch.zeros(1, 2, 528)}, DtypeError, "fresh: expected contiguous (G, 2, 528)"),
        (
            {"fresh": torch.zeros(1, 2, 512).int()},
            ArgumentError,
            "fresh: expected contiguous (G, 2, 528)",
        ),
        (
            {"fresh": torch.zeros(0, 2, 528).int()},
            ArgumentError,
            "fresh: expected contiguous (G, 2, 528)",
        ),
        ({"group": torch.ones(3)}, DtypeError, "group: expected 3 values uint8 or bool"),
        ({"group": torch.ones(4).bool()}, ArgumentError, "group: expected 3 values"),
    ],
)
def test_errors(change, error, text):
    with pytest.raises(error) as caught:
        ops.magnitude_counts_add(**arguments() | change)
    assert text in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_that_there_is_not_counts_nothing(backend):
    given = arguments() | {"group": torch.tensor([1, 2, 1]).byte()}
    with pytest.raises(ArgumentError, match="group: expected values up to groups=1, got 2 in row"):
        ops.magnitude_counts_add(**given, backend=backend)
    assert given["fresh"].sum() == 0


def test_errors_of_moving():
    fresh = ops.magnitude_counts_empty(1, 2)
    with pytest.raises(ArgumentError, match="counts: expected contiguous"):
        ops.magnitude_counts_move(fresh, torch.zeros(1, 3, MAGNITUDE_BINS).long())
    with pytest.raises(DtypeError, match="counts: expected contiguous"):
        ops.magnitude_counts_move(fresh, fresh)
