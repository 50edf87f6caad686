"""ops.moments against long double sums of the same rounded values."""

import numpy as np
import pytest
import torch
from ops.oracles import (
    BACKENDS,
    KERNEL_DTYPES,
    SHAPES,
    VOCAB,
    assert_state_matches,
    frequency_table,
    hidden_states,
    needs_core,
    oracle,
    same_bytes,
    zipf_ids,
)
from outdim import ops
from outdim.errors import ArgumentError, BackendError, DtypeError
from outdim.ops import _dispatch
from outdim.ops._binding import core
from outdim.ops.moments import _float64_at_half, resolve_accum


def columns_of(d):
    """At most 40 columns, both ends among them: long double arithmetic is slow."""
    if d <= 40:
        return list(range(d))
    return [*range(8), *range(d // 2, d // 2 + 16), *range(d - 16, d)]


@needs_core
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_kernel_matches_oracle(n, d, dtype):
    h, ids, table = hidden_states(n, d, dtype), zipf_ids(n), frequency_table()
    position = torch.arange(n, dtype=torch.float64)[None] % 128
    state = ops.moments(h, ids=ids, table=table, rows=position, tau=1.5, backend="cpu")
    x = torch.cat([table[:, ids], position]).numpy()
    assert_state_matches(state.head[0], state.body[0], h, x, tau=1.5, columns=columns_of(d))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("n", "d"), [s for s in SHAPES if s != (4096, 4096)])
def test_reference_matches_oracle(n, d, dtype):
    n = 3000 if n == 4096 and d == 769 else min(n, 300)  # two blocks, or less for less time
    h, ids, table = hidden_states(n, d, dtype), zipf_ids(n), frequency_table()
    state = ops.moments(h, ids=ids, table=table, tau=1.5, backend="reference")
    x = table[:, ids].numpy()
    assert_state_matches(state.head[0], state.body[0], h, x, tau=1.5, columns=columns_of(d))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("d", [1, 65, 769])
def test_unit_sum(backend, d):
    h = hidden_states(100, d)
    h[3] = 0
    h[5, 0] = torch.inf
    h[6, 0] = 3e38  # finite, but its square is not in float32
    usable = h.double()
    usable[5] = 0
    want = torch.nan_to_num(usable / usable.norm(dim=1, keepdim=True)).sum(0)
    got = ops.moments(h, backend=backend).body[0, -2]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_select_rows_and_leave_out_nan(backend):
    h, ids, table = hidden_states(1000, 65), zipf_ids(1000), frequency_table()
    group = torch.randint(0, 4, (1000,), dtype=torch.uint8)
    h[group == 0] = torch.nan
    ids[group == 0] = -7  # not looked at either
    args = {"table": table, "group": group, "groups": 3, "backend": backend}
    state = ops.moments(h, ids=ids, **args)
    for g in range(3):
        rows = group == g + 1
        x = table[:, ids[rows]].numpy()
        assert_state_matches(state.head[g], state.body[g], h[rows], x)
    # What a row holds that is left out leaves no trace.
    again = ops.moments(h.nan_to_num(1e30), ids=ids, **args)
    assert same_bytes(state, again)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_of_no_rows_is_empty(backend):
    group = torch.zeros(10, dtype=torch.bool)
    state = ops.moments(hidden_states(10, 3), group=group, backend=backend)
    head, body = ops.empty_state(0, 3, True)
    assert same_bytes((state.head[0], state.body[0]), (head, body))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nonfinite_values_are_counted_and_confined(backend):
    h = hidden_states(600, 65)
    clean = ops.moments(h[:, 4:], backend=backend).body[0]
    h[100, 0], h[5, 1], h[300, 1], h[7, 2] = torch.nan, torch.inf, -torch.inf, torch.inf
    body = ops.moments(h, backend=backend).body[0]
    assert body[-1, :4].tolist() == [1, 2, 1, 0]
    assert body[:4, :3].isnan().all()
    assert body[-7:-5, :3].isnan().all()
    assert body[-5, 1:3].tolist() == [-torch.inf, h[:, 2].min()]
    assert body[-4, 1:3].tolist() == [torch.inf, torch.inf]
    assert body[-5, 0] == h[:, 0].nan_to_num(0).min()
    rest = [row for row in range(len(clean)) if row != len(clean) - 2]  # unit vectors are of rows
    torch.testing.assert_close(body[rest, 4:], clean[rest], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("accum", ["exact", "fast"])
@pytest.mark.parametrize("n", [2, 37, 5000])
@pytest.mark.parametrize("value", [0.1, -1e-33, 3e38])
def test_constants_have_no_variance_at_all(backend, accum, n, value):
    h = torch.full((n, 17), value)
    h[:, 1] = torch.randn(n)
    table = torch.tensor([[0.1, 5.0], [1e9 / 3, 0.0]], dtype=torch.float64)
    rows = torch.full((1, n), 1 / 3, dtype=torch.float64)
    ids = torch.zeros(n, dtype=torch.int64)
    state = ops.moments(h, ids=ids, table=table, rows=rows, accum=accum, backend=backend)
    constant = [0, *range(2, 17)]
    assert (state.body[0, 0, constant] == h[0, 0].double()).all()
    for row in (1, 3, *range(4, 10), 10, 11):
        assert (state.body[0, row, constant] == 0).all(), row
    assert state.head[0, 1:4].tolist() == [0.1, 1e9 / 3, 1 / 3]
    assert (state.head[0, 4:] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_tiny_values_keep_their_variance(backend):
    """gamma of 5e-33, as in real models, makes values of 1e-33 and variances of 1e-66."""
    h = torch.randn(3000, 8) * 5e-33
    ids, table = zipf_ids(3000), frequency_table()
    state = ops.moments(h, ids=ids, table=table, backend=backend)
    assert_state_matches(state.head[0], state.body[0], h, table[:, ids].numpy())
    assert (state.body[0, 1] > 1e-63).all()


@needs_core
@pytest.mark.parametrize(
    ("dtype", "accum", "offset", "bound"),
    [
        (torch.float32, "exact", 10, 1e-12),
        (torch.float32, "exact", 1e4, 1e-12),
        (torch.bfloat16, "exact", 100, 1e-12),
        (torch.float32, "fast", 1e4, 1e-12),  # only on a GPU is it another
        (torch.bfloat16, "auto", 100, 1e-12),
    ],
)
def test_error_of_r(dtype, accum, offset, bound):
    n = 16384
    ids, table = zipf_ids(n, 3), frequency_table()[1:]
    h = torch.randn(n, 24, generator=torch.Generator().manual_seed(4))
    h += 0.3 * table[0, ids].float()[:, None] * torch.linspace(-1, 1, 24)
    h[:, 8:16] += offset
    h[:, 16:] -= offset
    h = h.to(dtype)
    state = ops.moments(h, ids=ids, table=table, accum=accum, backend="cpu")
    want = oracle(h, table[:, ids])
    (m2, m2_abs, c, c_abs) = state.body[0, [1, 3, 4, 5]].numpy()
    x = np.sqrt(state.head[0, 2].numpy())
    assert np.abs(c / (x * np.sqrt(m2)) - want.pearson()[0]).max() <= bound
    assert np.abs(c_abs / (x * np.sqrt(m2_abs)) - want.pearson("abs")[0]).max() <= bound


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_views_and_numpy_give_the_same_bytes(backend):
    h, ids, table = hidden_states(60, 769), zipf_ids(60), frequency_table()
    mask = torch.rand(60) > 0.3
    want = ops.moments(h, ids=ids, table=table, group=mask, backend=backend)

    batch = {"ids": ids.view(4, 15), "group": mask.view(4, 15), "table": table, "backend": backend}
    assert same_bytes(want, ops.moments(h.view(4, 15, 769), **batch))

    margins = torch.full((60, 769 + 40), torch.nan)
    strided = margins[:, 16 : 16 + 769]
    strided.copy_(h)
    assert same_bytes(want, ops.moments(strided, ids=ids, table=table, group=mask, backend=backend))
    assert same_bytes(
        want, ops.moments(h.T.contiguous().T, ids=ids, table=table, group=mask, backend=backend)
    )

    array = h.numpy()
    array.flags.writeable = False
    got = ops.moments(
        array, ids=ids.numpy(), table=table.numpy(), group=mask.numpy(), backend=backend
    )
    assert isinstance(got.head, np.ndarray)
    assert same_bytes(want, got)


@pytest.mark.parametrize(
    ("capability", "accum"),
    [((8, 0), "exact"), ((9, 0), "exact"), ((8, 9), "fast"), ((12, 0), "fast"), ((10, 3), "fast")],
)
def test_auto_is_fast_where_a_gpu_has_slow_float64(monkeypatch, capability, accum):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    _float64_at_half.cache_clear()
    assert resolve_accum("auto", "cuda") == accum
    assert resolve_accum("exact", "cuda") == "exact"
    assert resolve_accum("auto", "cpu") == "exact"
    _float64_at_half.cache_clear()


@needs_core
@pytest.mark.parametrize("accum", ["exact", "fast"])
def test_bytes_do_not_depend_on_threads_or_repetition(accum):
    h, ids, table = hidden_states(4096, 769), zipf_ids(4096), frequency_table()
    group = torch.randint(0, 3, (4096,), dtype=torch.uint8)
    args = {
        "ids": ids,
        "table": table,
        "group": group,
        "groups": 2,
        "accum": accum,
        "backend": "cpu",
    }
    want = ops.moments(h, **args)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            assert same_bytes(want, ops.moments(h, **args))
    finally:
        torch.set_num_threads(threads)


@needs_core
@pytest.mark.parametrize("isa", core().isas() if core() else [])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_instruction_set(isa, dtype):
    before = core().isa()
    core().set_isa(isa)
    try:
        for d in (7, 65):
            h, ids, table = hidden_states(999, d, dtype), zipf_ids(999), frequency_table()
            state = ops.moments(h, ids=ids, table=table, backend="cpu")
            assert_state_matches(state.head[0], state.body[0], h, table[:, ids].numpy())
    finally:
        core().set_isa(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [True, False])
def test_shape_rows_are_optional(backend, shape):
    h = hidden_states(50, 9)
    full = ops.moments(h, backend=backend)
    state = ops.moments(h, shape=shape, backend=backend)
    assert state.body.shape == (1, 11 if shape else 4, 9)
    assert torch.equal(state.body[:, :4], full.body[:, :4])


def test_float64_takes_the_reference():
    h = hidden_states(20, 5, torch.float64)
    assert same_bytes(ops.moments(h), ops.moments(h, backend="reference"))


def example(**changes):
    arguments = {"hidden": torch.zeros(4, 3), "ids": torch.zeros(4, dtype=torch.int64)}
    arguments |= {"table": torch.zeros(1, 5, dtype=torch.float64)} | changes
    return arguments


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"hidden": torch.zeros(4, 3).long()}, DtypeError,
         "hidden: expected float32, float16, bfloat16 or float64, got (4, 3) int64"),
        ({"hidden": [1.0]}, DtypeError, "hidden: expected a tensor or NumPy array, got list"),
        ({"hidden": torch.tensor(1.0)}, ArgumentError, "hidden: expected (..., D) with D >= 1"),
        ({"hidden": torch.zeros(4, 0)}, ArgumentError, "hidden: expected (..., D) with D >= 1"),
        ({"hidden": np.zeros((4, 3), dtype=">f4")}, DtypeError, "native byte order"),
        ({"ids": None}, ArgumentError, "ids: expected N token ids, got None"),
        ({"ids": torch.zeros(3, dtype=torch.int64)}, ArgumentError,
         "ids: expected 4 values int64, got (3,) int64"),
        ({"ids": torch.zeros(4, dtype=torch.int32)}, DtypeError,
         "ids: expected 4 values int64, got (4,) int32"),
        ({"table": torch.zeros(1, 5)}, DtypeError, "table: expected (K, V) float64, got"),
        ({"table": torch.zeros(5).double()}, ArgumentError, "table: expected (K, V) float64"),
        ({"rows": torch.zeros(4).double()}, ArgumentError, "rows: expected (K, 4) float64"),
        ({"group": torch.zeros(4)}, DtypeError,
         "group: expected 4 values uint8 or bool, got (4,) float32"),
        ({"group": torch.tensor([0, 1, 3, 1], dtype=torch.uint8), "groups": 2}, ArgumentError,
         "group: expected values up to groups=2, got 3 in row 2"),
        ({"groups": 0}, ArgumentError, "groups: expected 1 to 255, got 0"),
        ({"accum": "double"}, ArgumentError, 'accum: expected "auto", "exact" or "fast"'),
        ({"backend": "gpu"}, ArgumentError, "backend: expected one of auto, cpu, cuda"),
        ({"backend": "cuda"}, DtypeError, 'backend: "cuda" works on cuda tensors'),
        ({"hidden": torch.zeros(4, 3).double(), "backend": "cpu"}, DtypeError,
         'backend: "cpu" has kernels for float32, float16 and bfloat16, got float64'),
        ({"ids": torch.zeros(4, dtype=torch.int64, device="meta")}, DtypeError,
         "ids: expected a tensor on cpu like hidden, got one on meta"),
    ],
)  # fmt: skip
def test_errors(changes, error, text):
    with pytest.raises(error) as caught:
        ops.moments(**example(**changes))
    assert text in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [VOCAB, -1, 2**40])
def test_an_id_outside_the_table_is_named(backend, bad):
    ids = zipf_ids(50)
    ids[13] = bad
    with pytest.raises(ArgumentError) as caught:
        ops.moments(torch.zeros(50, 3), ids=ids, table=frequency_table(), backend=backend)
    assert f"[0, {VOCAB}), the columns of `table`, got {bad} in row 13" in str(caught.value)
    state = ops.moments(
        torch.zeros(50, 3), ids=ids, table=frequency_table(), group=ids != bad, backend=backend
    )
    assert state.head[0, 0] == 49


def test_without_the_compiled_module(monkeypatch):
    monkeypatch.setattr(_dispatch, "core", lambda: None)
    h = hidden_states(10, 3)
    assert same_bytes(ops.moments(h), ops.moments(h, backend="reference"))
    with pytest.raises(BackendError, match="needs the compiled module") as caught:
        ops.moments(h, backend="cpu")
    assert 'backend="reference"' in str(caught.value)
