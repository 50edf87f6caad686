"""What a batch or a norm has checked once: the bytes of the public ops, and errors all the same."""

import copy
import pickle

import pytest
import torch
from ops.oracles import KERNEL_DTYPES, frequency_table, hidden_states, zipf_ids
from outdim import ops
from outdim.errors import ArgumentError, DtypeError
from outdim.ops import StatisticsArgs, checked
from outdim.ops.checked import CheckedRows, CheckedStatistics
from outdim.ops.checked_norm import CheckedNorm
from outdim.stats import Covariates, PointMoments
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
GROUPS = 3


class Watching(TorchDispatchMode):
    """Somebody who wants to see every op."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def statistics(n, seed=0):
    ids = zipf_ids(n, seed)
    return StatisticsArgs(
        rows=torch.cat([frequency_table()[:, ids], torch.arange(n)[None].double()]),
        group=(torch.arange(n) % 5).clamp(max=GROUPS).byte(),
        groups=GROUPS,
    )


def same_bytes(a, b):
    return torch.equal(*(value.contiguous().view(torch.uint8) for value in (a, b)))


def options(given):
    return {"rows": given.rows, "group": given.group, "groups": given.groups}


def streamed(take, batches=5):
    """The states of a stream, each in the memory of the one before the last."""
    before = out = None
    for batch in range(batches):
        state = take(batch, before, out)
        before, out = state, before
        yield state.head.clone(), state.body.clone()


@pytest.fixture(params=["kernel", "reference"])
def path(request, monkeypatch):
    """With the compiled module, and without."""
    if request.param == "reference":
        for module in ("_dispatch", "checked"):
            monkeypatch.setattr(f"outdim.ops.{module}.core", lambda: None)
    return request.param


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, torch.float64])
def test_a_stream_has_the_bytes_of_the_public_op(dtype, path):
    def ours(batch, before, out):
        n = 40 + batch
        rows = CheckedRows(statistics(n, batch), n, CPU)
        hidden = hidden_states(n, 9, dtype, seed=batch).view(n, 1, 9)
        return CheckedStatistics(rows, before, out).moments(hidden)

    def public(batch, before, out):
        n = 40 + batch
        hidden = hidden_states(n, 9, dtype, seed=batch)
        given = options(statistics(n, batch))
        return ops.moments(hidden, **given, before=before, out=out)

    for found, expected in zip(streamed(ours), streamed(public), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert same_bytes(a, b)


def test_a_batch_serves_tensors_of_other_widths_and_layouts():
    n = 30
    rows = CheckedRows(statistics(n), n, CPU)
    given = options(statistics(n))
    wide = hidden_states(n, 40)
    for hidden in (wide, wide[:, 3:20], wide[:, ::2], wide.T.contiguous().T, wide.bfloat16()):
        state = CheckedStatistics(rows).moments(hidden)
        for a, b in zip(state, ops.moments(hidden, **given), strict=True):
            assert same_bytes(a, b)


@pytest.mark.parametrize("shape", [(30, 1, 9), (1, 30, 9), (30, 9, 1), (1, 1, 9), (1, 9), (9,)])
def test_rows_lie_where_they_are_whatever_the_strides_of_single_ones(shape):
    """A dimension of size 1 may have any stride and the tensor is contiguous all the same."""
    dense = hidden_states(torch.Size(shape).numel(), 1).view(shape)
    strides = [s if size > 1 else 999 for s, size in zip(dense.stride(), shape, strict=True)]
    x = torch.empty_strided(shape, strides).copy_(dense)
    assert x.is_contiguous()
    d, n = shape[-1], dense.numel() // shape[-1]
    given = statistics(n)
    rows = CheckedRows(given, n, CPU)
    before = ops.moments(dense, **options(given))
    with torch.no_grad():
        y, _, of_norm = CheckedNorm(1e-5, True)(
            x, torch.ones(d), None, x, CheckedStatistics(rows, before), "output"
        )
    assert torch.equal(y, ops.layer_norm(dense, torch.ones(d), rms=True, residual=dense))
    for state, of in ((CheckedStatistics(rows, before).moments(x), dense), (of_norm, y)):
        expected = ops.moments(of, **options(given), before=before)
        for a, b in zip(state, expected, strict=True):
            assert same_bytes(a, b)


def shared(state):
    """The same state; its tensors were moved, as those that go to another process are."""
    for part in state:
        part.share_memory_()
    return state


@pytest.mark.parametrize(
    "other",
    [
        copy.deepcopy,
        lambda state: pickle.loads(pickle.dumps(state)),
        lambda state: state._replace(head=state.head.clone(), body=state.body.clone()),
        shared,
    ],
    ids=["deepcopy", "pickle", "replace", "share_memory"],
)
def test_states_that_were_copied_or_moved_are_used_where_they_lie(other, path):
    n, hidden = 30, hidden_states(30, 9)
    rows = CheckedRows(statistics(n), n, CPU)
    first = CheckedStatistics(rows).moments(hidden)
    spare = CheckedStatistics(rows).moments(hidden * 2)
    expected = ops.moments(hidden, **options(statistics(n)), before=first)
    kept = [part.clone() for part in (*first, *spare)]
    before, out = other(first), other(spare)
    state = CheckedStatistics(rows, before, out).moments(hidden)
    for a, b in zip(state, expected, strict=True):
        assert same_bytes(a, b)
    assert [part.data_ptr() for part in state] == [part.data_ptr() for part in out]
    for a, b in zip((*first, *(() if out is spare else spare)), kept, strict=False):
        assert same_bytes(a, b)


def test_an_accumulator_in_the_midst_of_a_forward_can_be_copied():
    def take(moments, point, seed):
        moments.add(point, hidden_states(20, 6, seed=seed))

    moments = PointMoments(["a", "b"], ("text",), Covariates(frequency_table(), ("x", "y")))
    for batch in range(3):
        moments.begin(zipf_ids(20, batch), torch.ones(20, dtype=torch.uint8))
        take(moments, "a", batch)
        take(moments, "b", 10 + batch)
        if batch < 2:
            moments.commit()
    before = moments.state_dict()
    copies = [copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))]
    for other in copies:
        take(other, "a", 99)
        other.commit()
    for name, part in moments.state_dict().items():
        assert same_bytes(part, before[name])
    take(moments, "a", 99)
    moments.commit()
    for other in copies:
        for name, part in moments.state_dict().items():
            assert same_bytes(part, other.state_dict()[name]), name


def test_who_looks_on_sees_the_op():
    n = 30
    rows, hidden = CheckedRows(statistics(n), n, CPU), hidden_states(n, 9)
    norm, first = CheckedNorm(1e-5, False), CheckedStatistics(rows).moments(hidden)
    with Watching() as mode, torch.no_grad():
        state = CheckedStatistics(rows, first).moments(hidden)
        _, _, of_norm = norm(hidden, None, None, None, CheckedStatistics(rows), "input")
    assert {"outdim.moments.default", "outdim.layer_norm_moments.default"} <= set(mode.seen)
    expected = ops.moments(hidden, **options(statistics(n)), before=first)
    for a, b in zip(state, expected, strict=True):
        assert same_bytes(a, b)
    for a, b in zip(of_norm, first, strict=True):
        assert same_bytes(a, b)


def test_errors():
    n = 30
    given = statistics(n)
    rows, hidden = CheckedRows(given, n, CPU), hidden_states(n, 9)
    first = CheckedStatistics(rows).moments(hidden)
    with pytest.raises(ArgumentError, match=r"expected the 30 rows on cpu .* got 29"):
        CheckedStatistics(rows).moments(hidden[1:])
    with pytest.raises(DtypeError, match="hidden: expected float32"):
        CheckedStatistics(rows).moments(hidden.long())
    with pytest.raises(ArgumentError, match=r"before\.head|before\.body: expected contiguous"):
        CheckedStatistics(rows, first).moments(hidden[:, 1:])
    second = CheckedStatistics(rows, first).moments(hidden)
    with pytest.raises(ArgumentError, match=r"before\.body: expected contiguous \(3, 17, 8\)"):
        CheckedStatistics(rows, first, second).moments(hidden[:, 1:])
    with pytest.raises(ArgumentError, match=r"out\.head: expected memory of its own"):
        CheckedStatistics(rows, first, first).moments(hidden)
    with pytest.raises(ArgumentError, match="group: expected 30 values"):
        CheckedRows(StatisticsArgs(group=torch.ones(4, dtype=torch.uint8)), n, CPU)
    given.group[7] = 9  # what was checked must not change, and may not write elsewhere if it does
    with pytest.raises(
        ArgumentError, match="group: expected values up to groups=3, got 9 in row 7"
    ):
        CheckedStatistics(rows, first, second).moments(hidden)
    norm = CheckedNorm(1e-5, False)
    with torch.no_grad():
        with pytest.raises(ArgumentError, match="got 9 in row 7"):
            norm(hidden, None, None, None, CheckedStatistics(rows), "output")
        with pytest.raises(ArgumentError, match="residual: expected the shape of x"):
            norm(hidden, None, None, hidden[1:], CheckedStatistics(rows), "output")
        with pytest.raises(ArgumentError, match=r"gamma: expected \(9,\)"):
            norm(hidden, torch.ones(8), None, None, CheckedStatistics(rows), "output")


@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("of", ["output", "input"])
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_a_norm_has_the_bytes_of_the_public_op(dtype, of, rms, with_residual, path):
    n, d = 24, 17
    norm, given = CheckedNorm(1e-6, rms), statistics(n)
    rows = CheckedRows(given, n, CPU)
    gamma, beta = torch.rand(d), None if rms else torch.randn(d)
    for seed in range(3):
        x = hidden_states(n, d, dtype, seed=seed).view(4, 6, d)
        residual = hidden_states(n, d, dtype, seed=9).view(4, 6, d) if with_residual else None
        if seed == 1:
            gamma = gamma.bfloat16()  # moved and converted between two forwards
            beta = None if rms else beta.bfloat16()
        if seed == 2:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        with torch.no_grad():
            y, s, state = norm(x, gamma, beta, residual, CheckedStatistics(rows), of)
        summed = of == "input" and with_residual
        expected = ops.layer_norm_moments(
            x, gamma, beta, 1e-6, statistics=given, of=of, rms=rms, residual=residual,
            return_sum=summed,
        )  # fmt: skip
        assert same_bytes(y, expected[0])
        assert y.is_contiguous()
        assert (s is None) == (not summed)
        if s is not None:
            assert same_bytes(s, expected[1])
        for a, b in zip(state, expected[2], strict=True):
            assert same_bytes(a, b)


def test_a_norm_sees_what_became_of_its_parameters():
    n, d = 12, 8
    x, table = hidden_states(n, d), torch.rand(d, d)
    rows, norm = CheckedRows(statistics(n), n, CPU), CheckedNorm(1e-6, True)
    halves = table.view(torch.bfloat16)  # of the same memory
    for gamma in (table[0], halves[0, :d], table[0], table[:, 0], table[:, 0], table[0]):
        for factor in (1, 3):
            gamma.mul_(factor)
            with torch.no_grad():
                y, _, _ = norm(x, gamma, None, None, CheckedStatistics(rows), "output")
            assert same_bytes(y, ops.layer_norm(x, gamma, None, 1e-6, rms=True))
    with torch.no_grad(), pytest.raises(ArgumentError, match=r"gamma: expected \(8,\)"):
        norm(x, table[0, :5], None, None, CheckedStatistics(rows), "output")


def test_a_gradient_is_recorded_as_ever():
    x = hidden_states(12, 5).requires_grad_()
    rows = CheckedRows(statistics(12), 12, CPU)
    y, _, _ = CheckedNorm(1e-5, False)(x, None, None, None, CheckedStatistics(rows), "output")
    y.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_one_check_a_batch(monkeypatch):
    calls = []
    whole = checked.check_rows
    monkeypatch.setattr(checked, "check_rows", lambda *given: calls.append(1) or whole(*given))
    points = [f"block.{i}" for i in range(5)]
    moments = PointMoments(points, ("text",), Covariates(frequency_table(), ("a", "b")))
    for batch in range(3):
        moments.begin(zipf_ids(20, batch), torch.ones(20, dtype=torch.uint8))
        for point in points:
            moments.add(point, hidden_states(20, 6, seed=batch))
        moments.commit()
    assert len(calls) == 3
    assert moments.moments("block.0", ["text"]).compute().n == 60
