"""Running states: what is merged in the kernel's own last step, and merge_states."""

import pytest
import torch
from ops.oracles import (
    BACKENDS,
    KERNEL_DTYPES,
    assert_state_matches,
    frequency_table,
    hidden_states,
    needs_core,
    same_bytes,
    zipf_ids,
)
from outdim import ops
from outdim.errors import ArgumentError, DtypeError
from outdim.ops import MomentsState, StatisticsArgs
from outdim.ops._reference import merge as reference

GROUPS = 3


def stream(n, d, dtype=torch.float32, seed=0):
    """Hidden states, and what `moments` takes with them; the first batch lacks the last group."""
    group = torch.randint(0, GROUPS + (seed > 0), (n,), generator=torch.Generator().manual_seed(n))
    rows = (torch.arange(n) % 50)[None].double()
    given = {"ids": zipf_ids(n, seed), "table": frequency_table(), "rows": rows}
    return hidden_states(n, d, dtype, seed), given | {"group": group.byte(), "groups": GROUPS}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shape", [True, False])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (37, 65), (700, 769), (2000, 300)])
def test_a_running_state_is_that_of_the_batches_merged(backend, dtype, shape, n, d):
    options = {"shape": shape, "backend": backend}
    states = [
        ops.moments(h, **given, **options)
        for h, given in (stream(n + seed, d, dtype, seed) for seed in range(3))
    ]
    want = states[0]
    for state in states[1:]:
        want = MomentsState(*ops.merge_states(want, state, shape))
    buffers = [None, None]
    before = None
    for seed in range(3):
        h, given = stream(n + seed, d, dtype, seed)
        kept = None if before is None else [part.clone() for part in before]
        out = buffers[seed % 2]
        state = ops.moments(h, **given, **options, before=before, out=out)
        assert kept is None or same_bytes(kept, before)
        assert out is None or (state.head is out.head and state.body is out.body)
        buffers[seed % 2] = before = state
    assert same_bytes(before, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("of", ["output", "input"])
def test_the_fused_op_merges_as_well(backend, of):
    x, given = stream(600, 65)
    before = ops.moments(stream(100, 65, seed=1)[0], **stream(100, 65, seed=1)[1], backend=backend)
    out = MomentsState(*(torch.empty_like(part) for part in before))
    args = StatisticsArgs(**given, before=before, out=out)
    y, _, state = ops.layer_norm_moments(x, statistics=args, of=of, backend=backend)
    observed = y if of == "output" else x
    want = ops.moments(observed, **given, before=before, backend=backend)
    assert same_bytes(state, want)
    assert state.body is out.body


def test_numpy_keeps_a_running_state():
    h, given = stream(60, 9)
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    first = ops.moments(h.numpy(), **arrays)
    out = MomentsState(*(part.copy() for part in first))
    second = ops.moments(h.numpy(), **arrays, before=first, out=out)
    want = ops.moments(h, **given, before=MomentsState(*map(torch.from_numpy, first)))
    assert same_bytes(second, want)
    assert same_bytes(out, want)


def test_compiled_code_keeps_a_running_state():
    h, given = stream(60, 9)
    before = ops.moments(h, **given)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(h, before_head, before_body):
        return tuple(ops.moments(h, **given, before=MomentsState(before_head, before_body)))

    assert same_bytes(step(h, *before), ops.moments(h, **given, before=before))


@needs_core
@pytest.mark.parametrize("accum", ["exact", "fast"])
def test_bytes_of_a_running_state_do_not_depend_on_threads(accum):
    h, given = stream(3000, 769)
    before = ops.moments(*stream(500, 769, seed=1)[:1], **stream(500, 769, seed=1)[1])
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append(ops.moments(h, **given, before=before, accum=accum))
    finally:
        torch.set_num_threads(threads)
    assert all(same_bytes(found[0], other) for other in found[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_of_many_batches_against_long_double(backend):
    h, ids = hidden_states(5000, 65), zipf_ids(5000)
    state = None
    for start in range(0, 5000, 173):
        part = slice(start, start + 173)
        state = ops.moments(
            h[part], ids=ids[part], table=frequency_table(), before=state, backend=backend
        )
    assert_state_matches(state.head[0], state.body[0], h, frequency_table()[:, ids].numpy())


@pytest.mark.parametrize("shape", [True, False])
def test_the_module_and_the_reference_merge_alike(shape):
    a, b = (ops.moments(h, **g, shape=shape) for h, g in (stream(n, 33, seed=n) for n in (99, 40)))
    got, want = ops.merge_states(a, b, shape), reference.merge_states(a, b, shape)
    assert same_bytes(got, want)
    one = reference.merge_states((a.head[1], a.body[1]), (b.head[1], b.body[1]), shape)
    assert same_bytes(one, (want[0][1], want[1][1]))


def test_a_nonfinite_value_stays_in_its_dimension():
    h = hidden_states(50, 5)
    h[3, 1] = torch.nan
    after = ops.moments(hidden_states(50, 5, seed=1), before=ops.moments(h))
    assert after.body[0, :4].isnan().any(0).tolist() == [False, True, False, False, False]
    assert after.body[0, -1].tolist() == [0, 1, 0, 0, 0]


def test_errors():
    h, given = stream(20, 9)
    good = ops.moments(h, **given)
    with pytest.raises(ArgumentError, match=r"before\.body: expected contiguous \(3, 17, 8\)"):
        ops.moments(h[:, :8], **given, before=good)
    with pytest.raises(DtypeError, match=r"out\.head: expected contiguous \(3, 7\) float64"):
        ops.moments(h, **given, out=MomentsState(good.head.float(), good.body))
    with pytest.raises(ArgumentError, match=r"out\.head: expected memory of its own"):
        ops.moments(h, **given, before=good, out=good)
    with pytest.raises(ArgumentError, match=r"out\.body: expected contiguous"):
        ops.moments(h, **given, out=MomentsState(good.head, good.body.mT.contiguous().mT))
