"""ops.attention_received: against the whole attention matrix in float64."""

import numpy as np
import pytest
import torch
from ops.oracles import BACKENDS, DTYPES, needs_core, of_every_kernel, same_bytes
from outdim import ops
from outdim.errors import ArgumentError, DtypeError
from outdim.ops._binding import core

# Batch, heads of queries and of keys, length, width.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 4, 2, 37, 20),
    (1, 3, 3, 130, 64),
    (3, 6, 1, 65, 33),
    (2, 2, 2, 0, 8),
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch, heads, key_heads, length, d, dtype=torch.float32):
    """Queries and keys, the first key as large as that of an attention sink."""
    query, key = random(batch, heads, length, d), random(batch, key_heads, length, d, seed=1)
    query[..., :1] += 1
    key[:, :, :1, :1] += 20
    return query.to(dtype), key.to(dtype)


def options_of(name, batch, heads, length):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.arange(batch)[:, None] * 7 % max(1, length) + 1
    padding = torch.arange(length) < lengths
    return {
        "plain": {},
        "causal": {"causal": True},
        "window": {"causal": True, "window": 5},
        "padded right": {"mask": padding[:, None, None]},
        "padded left": {"mask": padding.flip(1)[:, None, None], "causal": True},
        "holes": {"mask": torch.rand(batch, 1, length, length, generator=generator) > 0.3},
        "mask by head": {"mask": torch.rand(1, heads, length, length, generator=generator) > 0.3},
        "softcap": {"softcap": 3.0, "causal": True},
        "sinks": {"sinks": random(heads, seed=4)},
        "bias": {"bias": random(1, heads, length, length, seed=5), "mask": padding[:, None, None]},
        "scale": {"scale": 0.3},
        "groups": {
            "group": torch.randint(0, 4, (batch, length), generator=generator).byte(),
            "groups": 3,
        },
    }[name]


NAMES = [
    "plain", "causal", "window", "padded right", "padded left", "holes", "mask by head", "softcap",
    "sinks", "bias", "scale", "groups",
]  # fmt: skip


def oracle(query, key, *, scale=None, mask=None, causal=False, window=None, softcap=None,
           sinks=None, bias=None, group=None, groups=1):  # fmt: skip
    """Sums, counts and entropies from the attention matrix of every head, in float64."""
    batch, heads, length, d = query.shape
    query, key = query.double(), key.double().repeat_interleave(heads // key.shape[1], 1)
    scores = query @ key.mT * (d**-0.5 if scale is None else scale)
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    if bias is not None:
        scores = scores + bias.double()
    i, j = torch.arange(length)[:, None], torch.arange(key.shape[2])
    visible = torch.ones_like(scores, dtype=torch.bool)
    if causal:
        visible &= j <= i
    if window:
        visible &= j > i - window
    if mask is not None:
        visible &= mask
    scores[~visible] = -torch.inf
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(batch, -1, length, 1)], -1)
    share = scores.softmax(-1)
    entropy = -torch.where(share > 0, share * share.log(), 0).sum(-1)
    share = share[..., : key.shape[2]]
    group = torch.ones(batch, length) if group is None else group
    sees = visible.any(-1)
    entropy[~(sees & (group[:, None] > 0))] = torch.nan
    sums, seen = [], []
    for g in range(1, groups + 1):
        mine = ((group == g)[:, None] & sees)[..., None]
        sums.append(torch.where(mine, share, 0).sum(-2))
        seen.append((visible & mine).sum(-2))
    return torch.stack(sums, 1), torch.stack(seen, 1), entropy


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_whole_matrix(backend, name, shape):
    for dtype in DTYPES:
        if dtype == torch.float64 and backend == "cpu":
            continue
        query, key = inputs(*shape, dtype)
        options = options_of(name, *shape[:2], shape[3])
        found = ops.attention_received(query, key, entropy=True, backend=backend, **options)
        sums, seen, entropy = oracle(query, key, **options)
        # Scores reach 30, and float32 rounds them to 2e-6: so much is a share off, relatively.
        tolerance = 1e-12 if dtype == torch.float64 else 4e-6
        torch.testing.assert_close(found.sums, sums, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            found.entropy, entropy, rtol=tolerance, atol=3 * tolerance, equal_nan=True
        )
        assert torch.equal(found.seen.expand_as(seen), seen)
        mean = found.mean()
        assert torch.equal(mean.isnan(), (seen.sum(1) == 0).expand_as(mean))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_sum_to_one_and_with_a_sink_to_less(backend):
    query, key = inputs(2, 4, 2, 300, 16)
    plain = ops.attention_received(query, key, causal=True, backend=backend)
    torch.testing.assert_close(
        plain.sums.sum(-1), torch.full((2, 1, 4), 300.0).double(), rtol=1e-6, atol=0
    )
    sinks = torch.full((4,), 5.0)
    with_sinks = ops.attention_received(query, key, causal=True, sinks=sinks, backend=backend)
    assert bool((with_sinks.sums.sum(-1) < 299).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_hidden_is_never_looked_at(backend):
    """NaN and infinity in padded queries and keys, and around strided ones, change no bit."""
    query, key = inputs(2, 4, 2, 50, 24)
    keep = torch.arange(50) < 41
    options = {
        "mask": keep[None, None, None], "group": keep.byte().expand(2, 50), "entropy": True,
        "backend": backend,
    }  # fmt: skip
    clean = ops.attention_received(query, key, **options)
    margins = [torch.full((2, 50, 4, 40), torch.nan), torch.full((2, 50, 2, 40), torch.inf)]
    strided = [m.transpose(1, 2)[..., 5:29] for m in margins]
    for whole, rows in zip(strided, (query, key), strict=True):
        whole[:, :, :41] = rows[:, :, :41]
    found = ops.attention_received(*strided, **options)
    assert same_bytes([clean.sums, clean.seen], [found.sums, found.seen])
    assert same_bytes([clean.entropy[..., :41]], [found.entropy[..., :41]])
    assert bool(found.sums.isfinite().all())
    assert not bool(found.sums[..., 41:].any())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_head_and_group(backend):
    query, key = inputs(1, 2, 2, 20, 8)
    query[0, 1, 3] = torch.nan
    group = (1 + torch.arange(20) % 2).byte()[None]
    found = ops.attention_received(query, key, group=group, groups=2, backend=backend)
    assert found.sums.isnan().all(-1)[0].tolist() == [[False, False], [False, True]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_overflow(backend):
    query, key = inputs(1, 1, 1, 40, 16)
    found = ops.attention_received(query * 1e4, key, entropy=True, backend=backend)
    assert bool(found.sums.isfinite().all())
    assert float(found.sums.sum()) == pytest.approx(40, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [1, 10, 100])
def test_the_error_of_a_share_grows_with_the_scores(backend, factor):
    query, key = inputs(1, 2, 2, 100, 64)
    query *= factor
    largest = float((query.double() @ key.double().mT / 8).abs().max())
    for row in query.unbind(2)[::10]:
        found = ops.attention_received(row[:, :, None], key, backend=backend).sums
        share, _, _ = oracle(row[:, :, None], key)
        torch.testing.assert_close(found, share, rtol=1e-6 * largest, atol=1e-12)


@pytest.fixture(params=core().isas() if core() else [])
def instruction_set(request):
    """Each that this processor has, in turn."""
    before = core().isa()
    core().set_isa(request.param)
    yield request.param
    core().set_isa(before)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_every_instruction_set(instruction_set, dtype):
    for name in NAMES:
        for shape in (SHAPES[2], SHAPES[3]):
            query, key = inputs(*shape, dtype)
            options = options_of(name, *shape[:2], shape[3])
            found = ops.attention_received(query, key, entropy=True, backend="cpu", **options)
            sums, seen, entropy = oracle(query, key, **options)
            torch.testing.assert_close(found.sums, sums, rtol=4e-6, atol=4e-6)
            torch.testing.assert_close(found.entropy, entropy, rtol=4e-6, atol=2e-5, equal_nan=True)
            assert torch.equal(found.seen.expand_as(seen), seen)


def test_no_bit_of_float32_is_dropped(instruction_set):
    """The scores of the first query are 2^-23, 0 and -2^-23 before they are scaled."""
    last = 2.0**-23
    query = torch.tensor([[1.0, -1.0], [1.0 + last, -1.0]])[None, None]
    key = torch.tensor([[1.0 + last, 1.0], [1.0, 1.0], [1.0, 1.0 + last]])[None, None]
    found = ops.attention_received(query[..., :1, :], key, scale=1 / last, backend="cpu").sums
    want = torch.tensor([1.0, 0.0, -1.0]).double().softmax(-1)
    torch.testing.assert_close(found.flatten(), want, rtol=1e-6, atol=0)
    found = ops.attention_received(query[..., 1:, :], key, scale=1 / last, backend="cpu").sums
    want = torch.tensor([2.0, 1.0, 0.0]).double().softmax(-1)
    torch.testing.assert_close(found.flatten(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1, 10, 100])
def test_the_error_of_a_share_grows_with_the_scores_whatever_multiplies(instruction_set, factor):
    query, key = inputs(1, 2, 2, 100, 64)
    query *= factor
    largest = float((query.double() @ key.double().mT / 8).abs().max())
    row = query[:, :, 50:51]
    found = ops.attention_received(row, key, backend="cpu").sums
    torch.testing.assert_close(found, oracle(row, key)[0], rtol=1e-6 * largest, atol=1e-12)


@needs_core
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_threads_do_not_show_in_the_bytes_and_instruction_sets_hardly(dtype):
    query, key = inputs(2, 4, 2, 300, 70, dtype)
    options = options_of("groups", 2, 4, 300) | {"causal": True, "entropy": True}
    want = oracle(query, key, causal=True, **options_of("groups", 2, 4, 300))
    for one, *others in of_every_kernel(lambda: ops.attention_received(query, key, **options)):
        torch.testing.assert_close(one.sums, want[0], rtol=4e-6, atol=4e-6)
        assert all(same_bytes(one, other) for other in others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_queries_than_keys(backend):
    query, key = inputs(1, 2, 2, 30, 8)
    found = ops.attention_received(query[:, :, :7], key, backend=backend)
    whole = torch.softmax(query[:, :, :7].double() @ key.double().mT * 8**-0.5, -1)
    torch.testing.assert_close(found.sums[:, 0], whole.sum(-2), rtol=1e-5, atol=1e-6)
    assert found.seen.unique().tolist() == [7]


def test_numpy_in_and_out():
    query, key = inputs(1, 2, 2, 9, 4)
    found = ops.attention_received(query.numpy(), key.numpy(), causal=True, entropy=True)
    same = ops.attention_received(query, key, causal=True, entropy=True)
    for array, tensor in zip(found, same, strict=True):
        np.testing.assert_array_equal(array, tensor)
    np.testing.assert_array_equal(found.mean(), same.mean())


@pytest.mark.parametrize("backend", BACKENDS)
def test_op_passes_opcheck_and_compiles_whole(backend):
    query, key = inputs(2, 4, 2, 12, 8)
    for name in ("plain", "sinks", "bias", "groups", "mask by head"):
        given = options_of(name, 2, 4, 12)
        tensors = [given.get(part) for part in ("mask", "sinks", "bias", "group")]
        entropy = name != "groups"  # opcheck takes a NaN for a difference
        torch.library.opcheck(
            torch.ops.outdim.attention_received.default,
            (
                query,
                key,
                *tensors,
                None,
                False,
                None,
                None,
                given.get("groups", 1),
                entropy,
                backend,
            ),
        )
    compiled = torch.compile(
        lambda q, k: ops.attention_received(q, k, causal=True, entropy=True, backend=backend),
        fullgraph=True, backend="aot_eager",
    )  # fmt: skip
    eager = ops.attention_received(query, key, causal=True, entropy=True, backend=backend)
    assert same_bytes(eager, compiled(query, key))


def arguments():
    return {"query": torch.ones(2, 4, 5, 3), "key": torch.ones(2, 2, 5, 3)}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"query": torch.ones(2, 4, 5, 3).long()}, DtypeError, "query: expected float32"),
        ({"query": torch.ones(4, 5, 3)}, ArgumentError, "query: expected (B, H, S, d), got (4, 5"),
        ({"key": torch.ones(2, 2, 5, 3).double()}, DtypeError, "key: expected the dtype of query"),
        ({"key": torch.ones(2, 3, 5, 3)}, ArgumentError, "with 4 a multiple of H, got (2, 3, 5"),
        ({"key": torch.ones(2, 0, 5, 3)}, ArgumentError, "with 4 a multiple of H"),
        ({"key": torch.ones(1, 2, 5, 3)}, ArgumentError, "key: expected (2, H, S, 3)"),
        ({"mask": torch.ones(2, 1, 5, 5)}, DtypeError, "mask: expected what broadcasts to (2, 4, "),
        ({"mask": torch.ones(3, 5) > 0}, ArgumentError, "mask: expected what broadcasts"),
        ({"bias": torch.ones(2, 3, 5, 5)}, ArgumentError, "bias: expected what broadcasts"),
        ({"sinks": torch.ones(3)}, ArgumentError, "sinks: expected (4,)"),
        ({"group": torch.ones(2, 5)}, DtypeError, "group: expected (2, 5) uint8, got"),
        ({"group": torch.full((2, 5), 2).byte()}, ArgumentError, "group: "),
        ({"groups": 256}, ArgumentError, "groups: expected 1 to 255, got 256"),
        ({"softcap": 0.0}, ArgumentError, "softcap: expected a positive number or None, got 0.0"),
        ({"window": 3}, ArgumentError, "window: expected 1 or more keys, with causal=True, got 3"),
        ({"query": torch.ones(2, 4, 4, 3), "causal": True}, ArgumentError, "causal: expected as "),
        ({"backend": "gpu"}, ArgumentError, "backend: expected one of"),
    ],
)  # fmt: skip
def test_errors(change, error, text):
    with pytest.raises(error) as caught:
        ops.attention_received(**arguments() | change)
    assert text in str(caught.value)
