"""Gradients of layer_norm, and the ops under torch.compile and opcheck."""

from dataclasses import replace

import pytest
import torch
from ops.oracles import BACKENDS, frequency_table, needs_core, zipf_ids
from outdim import ops
from outdim.errors import DtypeError
from outdim.ops import Edit, StatisticsArgs


def inputs(dtype, n=5, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, d), (d,), (d,), (n, d)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def edit(n=5, d=6):
    scale = torch.ones(2, d)
    scale[1, 2], scale[1, 4] = 0, -2
    clip = torch.full((2, d), 10.0)
    clip[1, :2] = 0.05  # well inside: both values far from the bounds and clamped ones occur
    variant = torch.arange(n, dtype=torch.int32) % 2
    return Edit(scale, torch.full((2, d), 0.5), clip, variant)


OPTIONS = {
    "plain": {},
    "rms": {"rms": True},
    "mask": {"dim_mask": torch.arange(6) != 2},
    "edit": {"edit": edit(), "dim_mask": torch.arange(6) != 5},
    "each": {"edit": replace(edit(), variant=None, each=True)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck_in_float64(name):
    def call(x, gamma, beta, residual):
        return ops.layer_norm(x, gamma, beta, residual=residual, return_sum=True, **OPTIONS[name])

    assert torch.autograd.gradcheck(call, inputs(torch.float64))
    if name in ("rms", "edit"):  # the others are parts of these
        assert torch.autograd.gradgradcheck(call, inputs(torch.float64))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck_of_x_alone(name):
    x = inputs(torch.float64)[0]
    assert torch.autograd.gradcheck(lambda x: ops.layer_norm(x, **OPTIONS[name]), x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIONS)
def test_float32_gradients_match_float64(backend, name):
    grads = []
    for dtype in (torch.float32, torch.float64):
        x, gamma, beta, residual = values = inputs(dtype)
        y, s = ops.layer_norm(
            x, gamma, beta, residual=residual, return_sum=True, **OPTIONS[name],
            backend=backend if dtype == torch.float32 else "auto",
        )  # fmt: skip
        weight = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
        grads.append(torch.autograd.grad((y * weight).sum() + s.square().sum(), values))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_gradients_agree_with_torch():
    x, gamma, beta, _ = values = inputs(torch.float64, n=12)
    got = torch.autograd.grad(ops.layer_norm(x.view(3, 4, 6), gamma, beta).sin().sum(), values[:3])
    y = torch.nn.functional.layer_norm(x, (6,), gamma, beta)
    want = torch.autograd.grad(y.sin().sum(), values[:3])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("of", ["output", "input"])
def test_the_fused_op_with_gradients_is_the_pair(backend, of):
    x, gamma, beta, residual = inputs(torch.float32)
    statistics = StatisticsArgs(zipf_ids(5), frequency_table())
    call = {"statistics": statistics, "of": of, "residual": residual, "backend": backend}
    y, s, state = ops.layer_norm_moments(x, gamma, beta, **call)
    assert s is None
    y.sum().backward()
    assert beta.grad.tolist() == [5.0] * 6
    assert not state.body.requires_grad
    with torch.no_grad():
        alone_y, _, alone = ops.layer_norm_moments(x, gamma, beta, **call)
    assert torch.equal(y, alone_y)
    assert torch.equal(state.body, alone.body)


def test_moments_take_no_gradient():
    hidden = torch.randn(4, 3, requires_grad=True)
    assert not ops.moments(hidden).body.requires_grad


def test_edit_tables_take_no_gradient():
    scale = torch.ones(1, 6, requires_grad=True)
    with pytest.raises(DtypeError, match=r"edit\.scale: expected a table without gradient"):
        ops.layer_norm(inputs(torch.float32)[0], edit=Edit(scale, torch.zeros(1, 6)))


def every_op():
    x, gamma, beta, residual = (value.detach() for value in inputs(torch.float32))
    half = x.bfloat16()
    e, ids, table = edit(), zipf_ids(5), frequency_table()
    tables = (e.scale, e.shift, e.clip, e.variant, False)
    norm = (x, gamma, beta, 1e-5, False, residual, True, torch.arange(6) != 1, *tables)
    plain = (x, None, None, 1e-5, True, None, False, None, None, None, None, None, False)
    group = torch.tensor([1, 0, 2, 1, 2], dtype=torch.uint8)
    statistics = (ids, table, torch.ones(1, 5, dtype=torch.float64), group, 2, 6.0, True, True)
    before = tuple(ops.moments(x, ids=ids, table=table, rows=statistics[2], group=group, groups=2))
    statistics = (*statistics, *before)
    few = (None, None, None, None, 1, 6.0, False, False, None, None)
    dims = torch.tensor([0, 4])
    index = torch.arange(512, dtype=torch.int32).view(2, 256)
    pages = torch.zeros(2, 512, 256, dtype=torch.int64)
    mask = group != 0
    rank = torch.arange(500)
    return [
        ("layer_norm", norm),
        ("layer_norm", plain),
        (
            "layer_norm",
            (x, gamma, beta, 1e-5, False, residual, True, None, *tables[:3], None, True),
        ),
        ("layer_norm_moments", (*norm, *statistics, True)),
        ("layer_norm_moments", (*plain, *few, False)),
        ("moments", (x, *statistics)),
        ("moments", (x, *few)),
        ("rank_histogram_touch", (half, dims, mask)),
        ("rank_histogram_add", (half, dims, ids, rank, index, *pages, mask)),
    ]


@pytest.mark.parametrize("case", range(9))
def test_opcheck(case):
    name, arguments = every_op()[case]
    torch.library.opcheck(getattr(torch.ops.outdim, name).default, (*arguments, "auto"))


def test_opcheck_with_gradients():
    name, arguments = every_op()[0]
    arguments = tuple(
        value.clone().requires_grad_() if i in (0, 1, 2, 5) else value
        for i, value in enumerate(arguments)
    )
    torch.library.opcheck(getattr(torch.ops.outdim, name).default, (*arguments, "auto"))


def compiled_step(x, gamma, beta, residual, scale, shift, ids, table):
    y, s = ops.layer_norm(
        x * 2, gamma, beta, residual=residual, return_sum=True, edit=Edit(scale, shift)
    )
    z, _, state = ops.layer_norm_moments(
        y + s, gamma, statistics=StatisticsArgs(ids=ids, table=table), of="input"
    )
    alone = ops.moments(z + 1, ids=ids, table=table, shape=False)
    touched = ops.rank_histogram_touch(z.bfloat16(), torch.tensor([1]))
    return z, state.body, alone.head, touched


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of inductor itself
@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("gradient", [False, True])
def test_compile_fullgraph(compiler, gradient):
    x, gamma, beta, residual = values = inputs(torch.float32)
    more = torch.ones(1, 6), torch.zeros(1, 6), zipf_ids(5), frequency_table()
    compiled = torch.compile(compiled_step, fullgraph=True, backend=compiler)
    with torch.set_grad_enabled(gradient):
        got = compiled(x, gamma, beta, residual, *more)
        want = compiled_step(x, gamma, beta, residual, *more)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if gradient:
            for a, b in zip(
                torch.autograd.grad(got[0].sin().sum(), values),
                torch.autograd.grad(want[0].sin().sum(), values),
                strict=True,
            ):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@needs_core
def test_compile_with_dynamic_rows():
    compiled = torch.compile(
        lambda x: ops.moments(x).body, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n in (3, 8, 21):
        x = torch.randn(n, 4)
        assert torch.equal(compiled(x), ops.moments(x).body)
