"""ops.comoments: against long double sums, and as a part of ops.moments."""

import numpy as np
import pytest
import torch
from ops.oracles import (
    BACKENDS,
    KERNEL_DTYPES,
    SHAPES,
    hidden_states,
    needs_core,
    of_every_kernel,
    oracle,
    same_bytes,
)
from outdim import ops
from outdim.errors import ArgumentError, DtypeError


def values_of(n, k=13):
    """Shares of attention: a few large, most small, one of them constant."""
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(k, n, dtype=torch.float64, generator=generator) ** 8
    x[-1] = 1 / 3
    return x


def assert_matches(head, body, h, x, tol=1e-12):
    """Every sum may be off by `tol` of the magnitudes of its terms."""
    k, n = x.shape
    assert head[0] == n
    if not n:
        assert not head.any()
        assert not body.any()
        return
    want = oracle(h, x)
    body, head = body.numpy(), head.numpy()
    size = h.double().abs().amax(0).numpy()
    assert np.all(np.abs(head[1 : 1 + k] - want.x_mean) <= tol)
    assert np.all(np.abs(head[1 + k :] - want.x_m2) <= tol * want.x_m2)
    assert np.all(np.abs(body[0] - want.mean_abs) <= tol * size)
    assert np.all(np.abs(body[1] - want.m2_abs) <= tol * want.m2_abs)
    norms = np.sqrt(want.x_m2)[:, None] * np.sqrt(want.m2_abs)[None]
    assert np.all(np.abs(body[2:] - want.c_abs) <= tol * norms)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("n", "d"), [s for s in SHAPES if s != (4096, 4096)])
@needs_core
def test_kernel_matches_oracle(n, d, dtype):
    h, x = hidden_states(n, d, dtype), values_of(n)
    head, body = ops.comoments(h, x, backend="cpu")
    some = list(range(d)) if d <= 40 else [*range(8), *range(d - 24, d)]
    assert_matches(head[0], body[0, :, some], h[:, some], x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 3, 4, 8, 12, 17, 32])
def test_any_number_of_values_is_a_part_of_all_moments(backend, k):
    h, x = hidden_states(700, 45), values_of(700, k)
    group = (torch.arange(700) % 5).byte()
    found = ops.comoments(h, x, group, 4, backend=backend)
    whole = ops.moments(h, rows=x, group=group, groups=4, shape=False, backend="reference")
    rows = [2, 3, *range(4 + k, 4 + 2 * k)]
    torch.testing.assert_close(found.head, whole.head, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found.body, whole.body[:, rows], rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_select_rows_and_leave_out_nan(backend):
    h, x = hidden_states(1000, 65), values_of(1000)
    group = torch.randint(0, 5, (1000,), generator=torch.Generator().manual_seed(1)).byte()
    group[group == 3] = 1  # group 3 has no rows
    h[group == 0], x[:, group == 0] = torch.nan, torch.inf
    found = ops.comoments(h, x, group, 4, backend=backend)
    for g in range(4):
        rows = group == g + 1
        assert_matches(found.head[g], found.body[g], h[rows], x[:, rows], tol=1e-11)
    again = ops.comoments(h.nan_to_num(1e30), x.nan_to_num(0, posinf=9), group, 4, backend=backend)
    assert same_bytes(found, again)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_where_it_is(backend):
    h, x = hidden_states(100, 40)[:, 5:], values_of(100, 4)
    group = (1 + torch.arange(100) % 2).byte()
    clean = ops.comoments(h, x, group, 2, backend=backend)
    h, x = h.clone(), x.clone()
    h[2, 3], x[1, 3] = torch.inf, torch.nan  # of group 1 and of group 2
    found = ops.comoments(h, x, group, 2, backend=backend)
    assert not found.body[0, :, 3].isfinite().any()
    assert found.body[1, 3].isnan().all()
    for state in (found, clean):
        state.body[0, :, 3], state.body[1, 3], state.head[1] = 0, 0, 0
    assert same_bytes(found, clean)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.1, -1e-33, 3e38])
def test_constants_have_no_variance_at_all(backend, value):
    for n in (2, 37, 5000):
        h, x = torch.full((n, 9), value), torch.full((5, n), 1 / 3).double()
        head, body = ops.comoments(h, x, backend=backend)
        assert not head[0, 6:].any()
        assert not body[0, 1:].any()
        assert torch.equal(body[0, 0], h[0].double().abs())


@needs_core
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_threads_do_not_show_in_the_bytes_and_instruction_sets_hardly(dtype):
    h, x = hidden_states(900, 205, dtype), values_of(900, 9)
    group = (torch.arange(900) % 3).byte()
    for one, *others in of_every_kernel(lambda: ops.comoments(h, x, group, 2)):
        for g in range(2):
            rows = group == g + 1
            assert_matches(one.head[g], one.body[g], h[rows], x[:, rows])
        assert all(same_bytes(one, other) for other in others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows_and_guarded_margins(backend):
    wide = torch.full((60, 200), torch.nan)
    wide[:, 30:97] = hidden_states(60, 67)
    x = values_of(60)
    found = ops.comoments(wide[:, 30:97], x, backend=backend)
    assert same_bytes(found, ops.comoments(wide[:, 30:97].contiguous(), x, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_merged_parts_are_the_whole(backend):
    h, x = hidden_states(900, 33), values_of(900)
    group = (torch.arange(900) // 300 + 1).byte()  # of three; a part lacks some
    whole = ops.comoments(h, x, group, 3, backend=backend)
    total = None
    for part in (slice(0, 200), slice(200, 650), slice(650, 651), slice(651, 900)):
        found = ops.comoments(h[part], x[:, part], group[part], 3, backend=backend)
        before = found if total is None else ops.merge_comoments(total, found)
        if total is None:
            none = ops.comoments(h[:0], x[:, :0], group[:0], 3, backend=backend)
            assert same_bytes(ops.merge_comoments(none, found), found)
            assert same_bytes(ops.merge_comoments(found, none), found)
        total = before
    torch.testing.assert_close(total.head, whole.head, rtol=1e-12, atol=1e-14)
    scale = whole.body.abs().amax(1, keepdim=True)
    assert bool(((total.body - whole.body).abs() <= 1e-12 * scale).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    h, x, group = hidden_states(20, 6), values_of(20, 3), torch.ones(20, dtype=torch.uint8)
    torch.library.opcheck(torch.ops.outdim.comoments.default, (h, x, group, 2, backend))
    compiled = torch.compile(
        lambda h: ops.comoments(h, x, group, 2, backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    assert same_bytes(compiled(h), ops.comoments(h, x, group, 2, backend=backend))
    found = ops.comoments(h.numpy(), x.numpy(), group.numpy(), 2, backend=backend)
    assert same_bytes(found, compiled(h))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"hidden": torch.ones(5, 3).long()}, DtypeError, "hidden: expected float32"),
        ({"hidden": torch.ones(5, 3, device="meta")}, DtypeError, "hidden: expected values, got a"),
        ({"rows": None}, DtypeError, "rows: expected (K, 5) float64, got None"),
        ({"rows": torch.ones(2, 5)}, DtypeError, "rows: expected (K, 5) float64, got (2, 5)"),
        ({"rows": torch.ones(2, 4).double()}, ArgumentError, "rows: expected (K, 5)"),
        ({"rows": torch.ones(0, 5).double()}, ArgumentError, "rows: expected at least one value"),
        ({"group": torch.ones(5)}, DtypeError, "group: expected 5 values"),
        ({"group": torch.full((5,), 3).byte()}, ArgumentError, "up to groups=2, got 3 in row 0"),
        ({"groups": 256}, ArgumentError, "groups: expected 1 to 255, got 256"),
        ({"backend": "gpu"}, ArgumentError, "backend: expected one of"),
    ],
)
def test_errors(change, error, text):
    given = {"hidden": torch.ones(5, 3), "rows": torch.ones(2, 5).double(), "groups": 2}
    with pytest.raises(error) as caught:
        ops.comoments(**given | change)
    assert text in str(caught.value)
