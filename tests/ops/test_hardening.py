"""Calls that must fail or agree with the plain one: bad tables, views, tracers, transforms."""

import numpy as np
import pytest
import torch
from ops.oracles import BACKENDS, frequency_table, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DtypeError
from outdim.ops import Edit, StatisticsArgs
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

# torch's own forward-mode formulas are scripts.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def rows(n=6, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def edit(m=2, d=8, n=6):
    scale = torch.ones(m, d)
    scale[-1, 2] = 0
    return Edit(scale, torch.zeros(m, d), variant=torch.arange(n, dtype=torch.int32) % m)


def raw(x, **changes):
    """The registered op with an edit, its arguments as given."""
    e = edit()
    given = {"scale": e.scale, "shift": e.shift, "clip": None, "variant": e.variant} | changes
    return torch.ops.outdim.layer_norm(
        x, None, None, 1e-5, False, None, False, None, *given.values(), False, "auto"
    )[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [2, -1, 2**30])
def test_a_variant_changed_after_the_edit_was_made(backend, bad):
    e = edit()
    e.variant[4] = bad
    message = rf"variant: expected values in \[0, 2\), .* got {bad} in row 4"
    with pytest.raises(ArgumentError, match=message):
        ops.layer_norm(rows(), edit=e, backend=backend)
    with pytest.raises(ArgumentError, match=message):
        ops.layer_norm_moments(rows(), edit=e, statistics=StatisticsArgs(), backend=backend)


def test_a_numpy_buffer_that_is_used_again():
    variant = np.zeros(6, dtype=np.int32)
    e = Edit(np.ones((2, 8), np.float32), np.zeros((2, 8), np.float32), variant=variant)
    variant[:] = 7
    with pytest.raises(ArgumentError, match="variant: expected values in"):
        ops.layer_norm(rows().numpy(), edit=e)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"variant": torch.full((6,), 2, dtype=torch.int32)}, ArgumentError, "variant: expected"),
        ({"variant": torch.zeros(6, dtype=torch.int64)}, DtypeError, "variant: expected one per"),
        ({"variant": torch.zeros(5, dtype=torch.int32)}, ArgumentError, "variant: expected (6,)"),
        ({"scale": torch.ones(2, 8).double()}, DtypeError, "scale: expected (M >= 1, 8)"),
        ({"scale": torch.ones(0, 8)}, ArgumentError, "scale: expected (M >= 1, 8)"),
        ({"scale": torch.ones(8)}, ArgumentError, "scale: expected (M >= 1, 8)"),
        ({"scale": None}, ArgumentError, "scale: expected a table, since shift, variant came"),
        ({"shift": None}, DtypeError, "shift: expected a tensor"),
        ({"shift": torch.ones(1, 8)}, ArgumentError, "shift: expected the shape of scale"),
        ({"shift": torch.ones(2, 8).half()}, DtypeError, "shift: expected the dtype of scale"),
        ({"clip": torch.ones(2, 7)}, ArgumentError, "clip: expected the shape of scale"),
    ],
)  # fmt: skip
def test_the_registered_op_checks_the_tables(changes, error, text):
    with pytest.raises(error) as caught:
        raw(rows(), **changes)
    assert text in str(caught.value)


def test_tables_without_a_row():
    with pytest.raises(ArgumentError, match=r"scale: expected \(M >= 1, D\) float32"):
        Edit(torch.ones(0, 8), torch.ones(0, 8))


def test_a_bad_variant_under_compile():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x, variant):
        return ops.layer_norm(x, edit=Edit(torch.ones(2, 8), torch.zeros(2, 8), variant=variant))

    with pytest.raises(ArgumentError, match="variant: expected values in"):
        step(rows(), torch.full((6,), 2, dtype=torch.int32))


def test_out_shares_no_memory():
    x, whole = rows(), torch.zeros(20, 8)
    with pytest.raises(ArgumentError, match=r"out: .* apart in memory"):
        ops.layer_norm(x, out=torch.zeros(1, 8).expand(6, 8))
    with pytest.raises(ArgumentError, match=r"out: .* apart in memory"):
        ops.layer_norm(x, out=torch.zeros(100).as_strided((6, 8), (5, 1)))
    for name, other in {"gamma": whole[3], "beta": whole[2], "residual": whole[5:11]}.items():
        with pytest.raises(ArgumentError, match=f"out: .* of its own, got some of {name}'s"):
            ops.layer_norm(x, **{name: other}, out=whole[:6])
    e = Edit(torch.ones(2, 8), whole[5:7])
    with pytest.raises(ArgumentError, match="got some of shift's"):
        ops.layer_norm(x, edit=e, out=whole[:6])
    assert bool((whole == 0).all())


def test_masked_arrays_are_refused():
    array = np.ma.masked_array(rows().numpy(), mask=np.zeros((6, 8), bool))
    for call in (ops.moments, ops.layer_norm):
        with pytest.raises(DtypeError, match="expected a plain array, got a masked one"):
            call(array)


def negated(like):
    """The same values as a view that is negated lazily."""
    stored = torch.view_as_complex(torch.stack([torch.zeros_like(like), -like], -1))
    view = stored.conj().imag
    assert view.is_neg()
    assert torch.equal(view, like)
    return view


def test_negated_views_are_read_as_what_they_are():
    x, gamma = rows(), rows(1)[0]
    want = ops.layer_norm(x, gamma, x[0], residual=x * 2, edit=edit())
    e = edit()
    got = ops.layer_norm(
        negated(x), negated(gamma), negated(x[0]), residual=negated(x * 2),
        edit=Edit(negated(e.scale), negated(e.shift), variant=e.variant),
    )  # fmt: skip
    assert torch.equal(got, want)
    table, by_row, ids = frequency_table(), rows(2, 6).double(), zipf_ids(6)
    want = ops.moments(x, ids=ids, table=table, rows=by_row)
    got = ops.moments(negated(x), ids=ids, table=negated(table), rows=negated(by_row))
    assert torch.equal(got.body, want.body)
    assert torch.equal(got.head, want.head)
    query, bias = x.view(1, 1, *x.shape), rows(6, 6, seed=3)
    want = ops.attention_received(query, query * 2, bias=bias, sinks=x[0, :1])
    got = ops.attention_received(
        negated(query), negated(query * 2), bias=negated(bias), sinks=negated(x[0, :1])
    )
    assert torch.equal(got.sums, want.sums)


@pytest.mark.parametrize("trace", [torch.jit.trace, lambda f, x: make_fx(f)(x)])
def test_tracers_record_the_ops(trace):
    def step(x):
        y, _, state = ops.layer_norm_moments(x, statistics=StatisticsArgs())
        return ops.layer_norm(y * 2), state.body, ops.moments(y).head

    traced = trace(step, rows())
    for a, b in zip(traced(rows(seed=1)), step(rows(seed=1)), strict=True):
        assert torch.equal(a, b)


def torch_norm(x, gamma):
    return torch.nn.functional.layer_norm(x, (8,), gamma)


OURS = {
    "layer_norm": lambda x, gamma: ops.layer_norm(x, gamma),
    "layer_norm_moments": lambda x, gamma: ops.layer_norm_moments(
        x, gamma, statistics=StatisticsArgs()
    )[0],
}


@pytest.mark.parametrize("name", OURS)
def test_transforms_of_torch_func(name):
    ours, x, gamma = OURS[name], rows(), rows(1, seed=2)[0]

    def loss(function):
        return lambda x, gamma: function(x, gamma).sin().sum()

    def close(transform):
        torch.testing.assert_close(transform(ours), transform(torch_norm), rtol=1e-5, atol=1e-5)

    close(lambda f: torch.func.grad(loss(f), (0, 1))(x, gamma))
    close(lambda f: torch.func.jvp(f, (x, gamma), (rows(seed=3), gamma * 2)))
    close(lambda f: torch.func.jacrev(f)(x[:2], gamma))
    close(lambda f: torch.func.vmap(f, (0, None))(rows(12).view(3, 4, 8), gamma))
    close(lambda f: torch.func.vmap(torch.func.grad(loss(f)), (0, None))(x[:, None], gamma))


@pytest.mark.parametrize("name", OURS)
def test_forward_mode_keeps_tangents(name):
    x, gamma, tangent = rows(), rows(1, seed=2)[0], rows(seed=3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        got, want = (
            forward_ad.unpack_dual(function(dual, gamma)).tangent
            for function in (OURS[name], torch_norm)
        )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_moments_under_transforms():
    x = rows(12).view(3, 4, 8)
    got = torch.func.vmap(lambda x: ops.moments(x).body)(x)
    assert torch.equal(got, torch.stack([ops.moments(part).body for part in x]))
    bodies = []

    def loss(x):
        bodies.append(ops.moments(x).body)
        return x.sum()

    torch.func.grad(loss)(x[0])
    assert bodies[0].shape == (1, 11, 8)


def _nested(layout):
    return torch.nested.nested_tensor([rows(2), rows(3)], layout=layout)


ORDER, STARTS = ops.segments(torch.zeros(6, dtype=torch.int64), 1)
OF_HIDDEN = {
    "moments": lambda x: ops.moments(x),
    "comoments": lambda x: ops.comoments(x, torch.ones(1, 6, dtype=torch.float64, device=x.device)),
    "magnitude_counts": lambda x: ops.magnitude_counts_add(
        x, ops.magnitude_counts_empty(1, 8, x.device)
    ),
    "token_shape": lambda x: ops.token_shape(x),
    "sizes": lambda x: ops.sizes(x, ORDER.to(x.device), STARTS.to(x.device)),
    "unit_sums": lambda x: ops.unit_sums(x, ORDER.to(x.device), STARTS.to(x.device)),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of prototypes
@pytest.mark.parametrize(
    "make",
    [
        lambda: rows().to_sparse(),
        lambda: rows().to_sparse_csr(),
        lambda: _nested(torch.strided),
        lambda: _nested(torch.jagged),
    ],
    ids=["coo", "csr", "nested", "jagged"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.layer_norm(x, torch.ones(8), torch.zeros(8)),
        lambda x: ops.segment_sums(x, ORDER, STARTS, torch.zeros(1, 3, 8).double()),
        lambda x: ops.rank_histogram_touch(x.bfloat16(), torch.tensor([0])),
        *OF_HIDDEN.values(),
    ],
    ids=["layer_norm", "segment_sums", "rank_histogram", *OF_HIDDEN],
)
def test_tensors_that_are_not_dense(call, make):
    with pytest.raises(DtypeError, match=r"expected a dense tensor, got|got a nested tensor"):
        call(make())


@pytest.mark.parametrize("call", OF_HIDDEN.values(), ids=OF_HIDDEN)
def test_a_tensor_without_values(call):
    with pytest.raises(DtypeError, match="hidden: expected values, got a tensor on meta"):
        call(rows().to("meta"))


@pytest.mark.parametrize("name", sorted(OF_HIDDEN.keys() - {"magnitude_counts"}))
def test_arrays_give_arrays(name):
    given = rows()
    expected = OF_HIDDEN[name](given)
    found = OF_HIDDEN[name](given.numpy())
    pairs = [(found, expected)] if name == "unit_sums" else zip(found, expected, strict=True)
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            assert isinstance(a, np.ndarray)
            np.testing.assert_array_equal(a, b.numpy())
