"""ops.layer_norm against float64 on the same rounded values, and the fused op against the pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ops.oracles import (
    BACKENDS,
    KERNEL_DTYPES,
    SHAPES,
    frequency_table,
    hidden_states,
    needs_core,
    same_bytes,
    zipf_ids,
)
from outdim import ops
from outdim.errors import ArgumentError, BackendError, DtypeError
from outdim.ops import Edit, StatisticsArgs, _dispatch
from outdim.ops._binding import core

EPSILON = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def parameters(d, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    gamma = torch.rand(d, generator=generator) + 0.5
    beta = torch.randn(d, generator=generator)
    gamma[0] = 20
    return gamma.to(dtype), beta.to(dtype)


def edit_for(n, d, clip=True):
    generator = torch.Generator().manual_seed(2)
    scale = torch.randn(3, d, generator=generator)
    scale[1, ::3] = 0
    scale[0] = 1
    return Edit(
        scale,
        torch.randn(3, d, generator=generator),
        torch.rand(3, d, generator=generator) * 2 if clip else None,
        torch.randint(0, 3, (n,), generator=generator, dtype=torch.int32),
    )


def expected(x, gamma, beta, eps=1e-5, *, rms=False, residual=None, dim_mask=None, edit=None):
    """Return y in float64 and, per value, the sum of the magnitudes that went into it."""
    s = (x if residual is None else x + residual).double()
    centred = s if rms else s - s.mean(-1, keepdim=True)
    z = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    keep = 1.0 if dim_mask is None else dim_mask.double()
    size = z.abs() * gamma.double().abs() + beta.double().abs()
    z = z * gamma.double() * keep + beta.double() * keep
    if edit is not None:
        rows = edit.variant.long()
        if edit.clip is not None:
            z = z.clamp(-edit.clip[rows].double(), edit.clip[rows].double())
        scale, shift = edit.scale[rows].double(), edit.shift[rows].double()
        z, size = z * scale + shift, size * scale.abs() + shift.abs()
    return z, size


def assert_close(y, x, want, size, dtype, rms=False):
    """Two roundings of the result, and those of a float32 row that is centred first."""
    s = x.double()
    spread = (s if rms else s - s.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    condition = 1 + s.abs().amax(-1, keepdim=True) / (spread + 1e-5)
    tolerance = 1.0 * EPSILON[dtype] * size + 4 * 2**-23 * condition * (size + 1)
    assert ((y.double() - want).abs() <= tolerance).all()


VARIANTS = ["plain", "rms", "residual", "mask", "edit"]


def arguments_of(variant, n, d, dtype):
    return {
        "plain": {},
        "rms": {"rms": True},
        "residual": {"residual": hidden_states(n, d, dtype, seed=7)},
        "mask": {"dim_mask": torch.arange(d) % 5 != 1},
        "edit": {"edit": edit_for(n, d), "dim_mask": torch.arange(d) % 5 != 1},
    }[variant]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_matches_float64(backend, dtype, n, d):
    if backend == "reference" and n == 4096 and d > 769:
        n = 100
    variant = VARIANTS[(n + d) % len(VARIANTS)]
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(d)).mul(3).add(1).to(dtype)
    gamma, beta = parameters(d)
    more = arguments_of(variant, n, d, dtype)
    y = ops.layer_norm(x, gamma, beta, backend=backend, **more)
    assert y.dtype == dtype
    rows = torch.arange(0, n, 1 if n < 100 else 61)  # every row is computed, some are compared
    if "residual" in more:
        x, more["residual"] = x[rows], more["residual"][rows]
        s = x + more["residual"]
    else:
        s = x = x[rows]
    if "edit" in more:
        e = more["edit"]
        more["edit"] = Edit(e.scale, e.shift, e.clip, e.variant[rows])
    want, size = expected(x, gamma, beta, **more)
    assert_close(y[rows], s, want, size, dtype, more.get("rms", False))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(backend, dtype, variant):
    n, d = 37, 769
    x = hidden_states(n, d, dtype)
    more = arguments_of(variant, n, d, dtype)
    for parameter_dtype in (torch.float32, dtype):
        gamma, beta = parameters(d, parameter_dtype)
        want, size = expected(x, gamma, beta, **more)
        s = x + more["residual"] if "residual" in more else x
        y = ops.layer_norm(x, gamma, beta, backend=backend, **more)
        assert_close(y, s, want, size, dtype, more.get("rms", False))
    ones, zeros = torch.ones(d), torch.zeros(d)
    assert torch.equal(
        ops.layer_norm(x, backend=backend, **more),
        ops.layer_norm(x, ones, zeros, backend=backend, **more),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mean", [1000.0, 1e5])
def test_a_large_mean_does_not_eat_the_variance(backend, mean):
    x = torch.randn(64, 768) + mean
    want, _ = expected(x, torch.ones(768), torch.zeros(768))
    y = ops.layer_norm(x, backend=backend).double()
    assert (y - want).abs().max() <= 4 * 2**-23 * mean


@needs_core
@pytest.mark.parametrize("isa", core().isas() if core() else [])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_instruction_set(isa, dtype):
    before = core().isa()
    core().set_isa(isa)
    try:
        for variant in VARIANTS:
            for d in (5, 1023):
                x, (gamma, beta) = hidden_states(37, d, dtype), parameters(d)
                more = arguments_of(variant, 37, d, dtype)
                want, size = expected(x, gamma, beta, **more)
                s = x + more["residual"] if "residual" in more else x
                y = ops.layer_norm(x, gamma, beta, backend="cpu", **more)
                assert_close(y, s, want, size, dtype, more.get("rms", False))
                stats = StatisticsArgs()
                fused = ops.layer_norm_moments(
                    x, gamma, beta, statistics=stats, backend="cpu", **more
                )
                assert torch.equal(fused[0], y)
                assert same_bytes(fused[2], ops.moments(y, backend="cpu"))
    finally:
        core().set_isa(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_sum_is_that_of_torch(backend, dtype):
    x, residual = hidden_states(37, 65, dtype), hidden_states(37, 65, dtype, seed=3)
    y, s = ops.layer_norm(x, residual=residual, return_sum=True, backend=backend)
    assert torch.equal(s, x + residual)
    assert torch.equal(y, ops.layer_norm(x + residual, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_dimensions_are_zero_and_edits_hide_nan(backend):
    x = torch.randn(6, 64)
    x[2] = torch.nan
    gamma, beta = parameters(64)
    y = ops.layer_norm(x, gamma, beta, dim_mask=torch.arange(64) != 3, backend=backend)
    assert (y[[0, 1, 3, 4, 5], 3] == 0).all()
    assert y[2].isnan().all()  # gamma and beta are zeroed, as by hand
    scale = torch.ones(1, 64)
    scale[0, 3] = 0
    edit = Edit(scale, torch.full((1, 64), 0.25), torch.full((1, 64), 1.0))
    y = ops.layer_norm(x, gamma, beta, edit=edit, backend=backend)
    assert (y[:, 3] == 0.25).all()
    assert y[2, 4:].isnan().all()
    assert not y[[0, 1, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_variant_per_sequence(backend):
    x = torch.randn(2, 5, 64)
    edit = Edit(torch.tensor([[1.0], [0.0]]).expand(2, 64), torch.zeros(2, 64))
    per_sequence = Edit(edit.scale, edit.shift, None, torch.tensor([[1], [0]], dtype=torch.int32))
    y = ops.layer_norm(x, edit=per_sequence, backend=backend)
    assert (y[0] == 0).all()
    assert torch.equal(y[1], ops.layer_norm(x[1], backend=backend))
    flat = Edit(edit.scale, edit.shift, None, torch.tensor([1] * 5 + [0] * 5, dtype=torch.int32))
    assert torch.equal(y, ops.layer_norm(x, edit=flat, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("d", [64, 769])
def test_strided_rows_and_out_leave_the_margins(backend, dtype, d):
    """Margins of NaN would spread if they were read, and change if they were written."""

    def guarded(values):
        buffer = torch.full((len(values), values.shape[1] + 37), torch.nan, dtype=dtype)
        view = buffer[:, 18 : 18 + values.shape[1]]
        view.copy_(values)
        return buffer, view

    x, residual = hidden_states(37, d, dtype), hidden_states(37, d, dtype, seed=3)
    want = ops.layer_norm(x, residual=residual, backend=backend)
    buffer, out = guarded(torch.zeros(37, d))
    got = ops.layer_norm(guarded(x)[1], residual=guarded(residual)[1], out=out, backend=backend)
    assert got is out
    assert torch.equal(out, want)
    assert buffer[:, :18].isnan().all()
    assert buffer[:, 18 + d :].isnan().all()
    row = x[:1].expand(5, d)
    assert torch.equal(
        ops.layer_norm(row, backend=backend), ops.layer_norm(row.contiguous(), backend=backend)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_numpy_in_numpy_out(backend):
    x, (gamma, beta) = hidden_states(12, 65), parameters(65)
    want = ops.layer_norm(x, gamma, beta, residual=x, backend=backend).numpy()
    out = np.empty((3, 4, 65), dtype=np.float32)
    array = x.view(3, 4, 65).numpy()
    y, s = ops.layer_norm(
        array, gamma.numpy(), beta.numpy(), residual=array, return_sum=True, out=out,
        backend=backend,
    )  # fmt: skip
    assert y is out
    np.testing.assert_array_equal(y.reshape(12, 65), want)
    np.testing.assert_array_equal(s, array + array)
    y, s, state = ops.layer_norm_moments(
        array, gamma.numpy(), beta.numpy(), statistics=StatisticsArgs(), backend=backend
    )
    assert s is None
    assert same_bytes(state, ops.moments(y, backend=backend))
    assert isinstance(ops.layer_norm(array.astype(np.float64)), np.ndarray)


@pytest.mark.parametrize(
    ("backend", "accum"),
    [
        pytest.param("cpu", "exact", marks=needs_core),
        pytest.param("cpu", "fast", marks=needs_core),
        ("reference", "exact"),
    ],
)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("n", "d"), [(37, 769), (1500, 65)])
def test_fused_is_the_pair_bit_for_bit(backend, accum, dtype, variant, n, d):
    if variant == "plain":
        n, d = {37: (1, 1), 1500: (0, 7)}[n]
    x, (gamma, beta) = hidden_states(n, d, dtype), parameters(d)
    more = arguments_of(variant, n, d, dtype)
    statistics = {
        "ids": zipf_ids(n),
        "table": frequency_table(),
        "group": torch.randint(0, 3, (n,), dtype=torch.uint8),
        "groups": 2,
        "accum": accum,
    }
    y = ops.layer_norm(x, gamma, beta, backend=backend, **more)
    s = x + more["residual"] if "residual" in more else x
    for of, observed in (("output", y), ("input", s)):
        fused_y, fused_s, state = ops.layer_norm_moments(
            x, gamma, beta, statistics=StatisticsArgs(**statistics), of=of,
            return_sum="residual" in more, backend=backend, **more,
        )  # fmt: skip
        assert torch.equal(fused_y, y)
        assert fused_s is None or torch.equal(fused_s, s)
        assert same_bytes(state, ops.moments(observed, backend=backend, **statistics))


@needs_core
def test_bytes_do_not_depend_on_threads_or_repetition():
    x, (gamma, beta) = hidden_states(3000, 769), parameters(769)
    args = {"statistics": StatisticsArgs(zipf_ids(3000), frequency_table()), "residual": x}
    want = ops.layer_norm_moments(x, gamma, beta, backend="cpu", **args)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y, _, state = ops.layer_norm_moments(x, gamma, beta, backend="cpu", **args)
            assert torch.equal(y, want[0])
            assert same_bytes(state, want[2])
    finally:
        torch.set_num_threads(threads)


def example(**changes):
    return {"x": torch.randn(4, 3), "gamma": torch.ones(3), "beta": torch.zeros(3)} | changes


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"x": torch.zeros(4, 3).int()}, DtypeError,
         "x: expected float32, float16, bfloat16 or float64, got (4, 3) int32"),
        ({"gamma": torch.ones(4)}, ArgumentError,
         "gamma: expected (3,) float32 or float16 or bfloat16, got (4,) float32"),
        ({"gamma": torch.ones(3).double()}, DtypeError, "gamma: expected (3,) float32 or"),
        ({"beta": torch.zeros(3).half()}, DtypeError,
         "beta: expected the dtype of gamma, float32, got (3,) float16"),
        ({"residual": torch.zeros(4, 2)}, ArgumentError,
         "residual: expected the shape of x, (4, 3), got (4, 2) float32"),
        ({"residual": torch.zeros(4, 3).half()}, DtypeError, "residual: expected the dtype of x"),
        ({"residual": 3}, DtypeError, "residual: expected a tensor or NumPy array, got int"),
        ({"return_sum": True}, ArgumentError, "return_sum: needs `residual`"),
        ({"dim_mask": torch.ones(3)}, DtypeError, "dim_mask: expected (3,) bool, got (3,) float"),
        ({"dim_mask": torch.ones(2).bool()}, ArgumentError, "dim_mask: expected (3,) bool"),
        ({"edit": Edit(torch.ones(1, 2), torch.ones(1, 2))}, ArgumentError,
         "scale: expected (M >= 1, 3) float32, got (1, 2) float32"),
        ({"edit": Edit(torch.ones(1, 3), torch.ones(1, 3),
                        variant=torch.zeros(5, dtype=torch.int32))}, ArgumentError,
         "variant: expected (4,) or a shape that broadcasts to (4,), got (5,)"),
        ({"out": torch.zeros(4, 3).half()}, DtypeError, "out: expected the dtype of x"),
        ({"out": torch.zeros(3, 4).T}, ArgumentError, "out: expected rows of one stride"),
        ({"gamma": torch.ones(3, device="meta")}, DtypeError,
         "gamma: expected a tensor on cpu like x, got one on meta"),
    ],
)  # fmt: skip
def test_errors(changes, error, text):
    with pytest.raises(error) as caught:
        ops.layer_norm(**example(**changes))
    assert text in str(caught.value)


def test_out_must_be_its_own():
    x = torch.randn(8, 3)
    for out in (x, x.view(-1)[3:].view(7, 3)):
        with pytest.raises(ArgumentError, match="out: expected memory of its own, got some of x's"):
            ops.layer_norm(x[: len(out)], out=out)
    read_only = np.zeros((8, 3), dtype=np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ArgumentError, match="out: expected a writable array"):
        ops.layer_norm(x.numpy(), out=read_only)
    with pytest.raises(ArgumentError, match="out: expected None where gradients are taken"):
        ops.layer_norm(x.requires_grad_(), out=torch.zeros(8, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.ones(2, 3).double(), torch.ones(2, 3)), DtypeError, "scale: expected (M >= 1, D)"),
        ((torch.ones(3), torch.ones(3)), ArgumentError, "scale: expected (M >= 1, D) float32"),
        ((torch.ones(2, 3), None), DtypeError, "shift: expected (2, 3) float32, got NoneType"),
        ((torch.ones(2, 3), torch.ones(1, 3)), ArgumentError, "shift: expected (2, 3) float32"),
        ((torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4)), ArgumentError, "clip: expected"),
        ((torch.ones(2, 3), torch.ones(2, 3), -torch.ones(2, 3)), ArgumentError,
         "clip: expected bounds >= 0"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, torch.tensor([0, 2], dtype=torch.int32)),
         ArgumentError, "variant: expected values in [0, 2), the rows of `scale`, got 2"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, torch.tensor([0, 1])), DtypeError,
         "variant: expected one per row int32, got (2,) int64"),
    ],
)  # fmt: skip
def test_edit_errors(arguments, error, text):
    with pytest.raises(error) as caught:
        Edit(*arguments)
    assert text in str(caught.value)


def test_fused_errors():
    with pytest.raises(ArgumentError, match='of: expected "output" or "input", got \'sum\''):
        ops.layer_norm_moments(**example(), statistics=StatisticsArgs(), of="sum")
    wrong = StatisticsArgs(torch.tensor([0, 9, 0, 0]), torch.zeros(1, 9, dtype=torch.float64))
    with pytest.raises(ArgumentError, match=r"got 9 in row 1"):
        ops.layer_norm_moments(**example(), statistics=wrong)


def test_without_the_compiled_module(monkeypatch):
    monkeypatch.setattr(_dispatch, "core", lambda: None)
    x = torch.randn(3, 4)
    assert torch.equal(ops.layer_norm(x), ops.layer_norm(x, backend="reference"))
    with pytest.raises(BackendError, match="needs the compiled module"):
        ops.layer_norm(x, backend="cpu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("n", "d"), [(0, 8), (1, 1), (37, 769), (130, 64)])
def test_every_variant_of_every_row_is_what_one_at_a_time_gives(backend, dtype, clip, n, d):
    x, residual = hidden_states(n, d, dtype), hidden_states(n, d, dtype, seed=5)
    e, (gamma, beta) = edit_for(n, d, clip), parameters(d, dtype)
    whole = torch.full((3 * n + 2, d + 8), 7.0, dtype=dtype)
    out = whole[1:-1].view(3, n, d + 8)[..., 4 : d + 4]
    options = {"residual": residual, "return_sum": True, "backend": backend}
    y, s = ops.layer_norm(x, gamma, beta, edit=replace(e, variant=None, each=True), **options)
    assert y.shape == (3, n, d)
    given = ops.layer_norm(
        x, gamma, beta, edit=replace(e, variant=None, each=True), out=out, **options
    )[0]
    assert given is out
    assert torch.equal(out, y)
    for m in range(3):
        one = replace(e, variant=torch.full((n,), m, dtype=torch.int32))
        want, sum_of_one = ops.layer_norm(x, gamma, beta, edit=one, **options)
        assert torch.equal(y[m], want)
        assert torch.equal(s, sum_of_one)
    whole[1:-1, 4 : d + 4] = 7.0
    assert bool((whole == 7.0).all())


def test_every_variant_keeps_the_leading_dimensions():
    scale = torch.ones(2, 5)
    e = Edit(scale, scale * 0, each=True)
    y = ops.layer_norm(torch.randn(3, 4, 5), edit=e)
    assert y.shape == (2, 3, 4, 5)
    with pytest.raises(ArgumentError, match="variant: expected None with each=True"):
        Edit(scale, scale, variant=torch.zeros(3, dtype=torch.int32), each=True)
    with pytest.raises(ArgumentError, match="edit: expected one variant a row for statistics"):
        ops.layer_norm_moments(torch.randn(3, 5), edit=e, statistics=StatisticsArgs())
    with pytest.raises(ArgumentError, match=r"out: expected \(2, 3, 5\), got \(3, 5\)"):
        ops.layer_norm(torch.randn(3, 5), edit=e, out=torch.zeros(3, 5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("clip", [None, torch.inf, 2.0])
def test_only_a_scale_of_zero_is_stronger_than_nan(backend, dtype, clip):
    x = hidden_states(3, 40, dtype)
    x[1, 7] = torch.nan
    scale, shift = torch.ones(1, 40), torch.full((1, 40), 0.5)
    scale[0, 4], scale[0, 5], scale[0, 6] = 0, -0.0, -1
    gamma = torch.ones(40)
    gamma[8], gamma[4] = 0, torch.inf
    bound = None if clip is None else torch.full((1, 40), clip)
    y = ops.layer_norm(x, gamma, edit=Edit(scale, shift, bound), backend=backend)
    assert (y[:, 4:6] == 0.5).all()
    y[1, 4:6] = torch.nan
    assert y.isnan().all(1).tolist() == [False, True, False]
    assert not y[[0, 2]].isnan().any()
