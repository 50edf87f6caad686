"""What the CUDA kernels must do, against float64 on the CPU, on whatever device they are given.

Run by tests/gpu on a GPU and by tests/emulator on the CPU, where the device code runs thread by
thread.
"""

from dataclasses import replace

import torch
from outdim import ops
from outdim.ops import _reference
from outdim.ops._calls import LayerNormCall, MomentsCall, NormOfRows, StatisticsOfRows
from outdim.ops.checked import CheckedRows, CheckedStatistics
from outdim.ops.checked_norm import CheckedNorm
from outdim.ops.layout import MAGNITUDE_BINS, body_rows

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
VOCAB = 50
# A relative rounding error of a value of each type.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def hidden_states(n, d, dtype, kind="normal", seed=0):
    """Normal values; "spikes": dimensions and a row hundreds of times larger, constant ones, one of
    constant magnitude; "offset": mean 1000."""
    h = torch.randn(n, d, generator=generator(seed))
    if kind == "offset":
        h += 1000
    if kind == "spikes" and d > 3:
        h[:, 1] *= 1000
        h[:1] *= 300
        h[:, 2] = 3.25
        h[:, 3] = torch.where(h[:, 3] > 0, 0.1, -0.1)
    return h.clamp(-6e4, 6e4).to(dtype)  # float16 ends at 65504


def guarded(values, device, margin=0):
    """Copy rows into the middle of a larger matrix of sevens; returns (whole, rows)."""
    n, d = values.shape
    whole = torch.full((n + 2, d + margin), 7.0, dtype=values.dtype, device=device)
    rows = whole[1 : n + 1, margin // 2 : margin // 2 + d]
    rows.copy_(values)
    return whole, rows


def assert_margins_kept(whole, rows, margin):
    outside = whole.clone()
    n, d = rows.shape
    outside[1 : n + 1, margin // 2 : margin // 2 + d] = 7.0
    assert bool((outside == 7.0).all()), "written outside of the rows"


def same_bytes(a, b):
    a, b = a.contiguous().view(-1), b.contiguous().view(-1)
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def statistics(n, device, *, table=1, rows=0, groups=1, labels=False, exact=False, shape=False):
    """Arguments of `moments`: rows of group 0 have ids that are nowhere in the table."""
    g = generator(n + 1)
    ids = torch.randint(0, VOCAB, (n,), generator=g)
    group = None
    if labels:
        group = torch.randint(0, groups + 1, (n,), generator=g, dtype=torch.uint8)
        ids[group == 0] = -100
        group = group.to(device)
    by_id = torch.rand(table, VOCAB, generator=g, dtype=torch.float64) ** 4 * 1000
    by_row = torch.rand(rows, n, generator=g, dtype=torch.float64) * 10
    return ops.StatisticsArgs(
        ids=ids.to(device) if table else None,
        table=by_id.to(device) if table else None,
        rows=by_row.to(device) if rows else None,
        group=group,
        groups=groups,
        tau=1.5,
        accum="exact" if exact else "fast",
        shape=shape,
    )


def moments_oracle(hidden, args):
    """Moments of the same rounded values by the reference, in float64 on the CPU."""
    hidden = hidden.cpu()
    d = hidden.shape[1]

    def cpu(value):
        return None if value is None else value.cpu()

    k = sum(0 if value is None else len(value) for value in (args.table, args.rows))
    head = torch.empty(args.groups, 1 + 2 * k, dtype=torch.float64)
    body = torch.empty(args.groups, body_rows(k, args.shape), d, dtype=torch.float64)
    given = StatisticsOfRows(
        cpu(args.ids), cpu(args.table), cpu(args.rows), cpu(args.group), args.groups, args.tau,
        True, args.shape,
    )  # fmt: skip
    _reference.moments(hidden, MomentsCall(given, None, None, head, body))
    return head, body


def assert_moments(state, hidden, args, tolerance=None):
    """Compare with the oracle; each row of the body relative to what its terms amount to.

    The default tolerances: 1e-12 exact; fast, 32 values are added in float32 before the first
    float64, which is a few 1e-7 of the sum of their magnitudes, and third and fourth powers of a
    spike lose one digit more.
    """
    # "fast" rounds deviations of covariates to float32, in their own moments too.
    of_head = tolerance or (1e-12 if args.accum == "exact" else 1e-7)
    if tolerance is None:
        tolerance = 1e-12 if args.accum == "exact" else 5e-6
    head, body = moments_oracle(hidden, args)
    got_head, got_body = state.head.cpu(), state.body.cpu()
    assert torch.equal(got_head[:, 0], head[:, 0])
    torch.testing.assert_close(got_head, head, rtol=of_head, atol=1e-9, equal_nan=True)
    for want, got, of_rows in zip(body, got_body, head, strict=True):
        names, scales = _scales(want, of_rows, args.shape)
        for name, scale, a, b in zip(names, scales, got, want, strict=True):
            nan = a.isnan() | b.isnan()
            assert torch.equal(a.isnan(), b.isnan()), f"NaN in {name}"
            limit = tolerance * scale + 1e-13
            wrong = ((a - b).abs() > limit) & (a != b) & ~nan
            assert not wrong.any(), (
                f"{name}: {int(wrong.sum())} of {wrong.numel()} columns off, first at "
                f"{int(wrong.nonzero()[0])}: {a[wrong][0]} for {b[wrong][0]}"
            )


def _scales(body, head, shape):
    k = (len(head) - 1) // 2
    n = head[0].clamp(min=1)
    std, std_abs = (body[1] / n).sqrt(), (body[3] / n).sqrt()
    x_std = (head[1 + k :] / n).sqrt()
    # The mean is the pivot, a float32, plus what is summed.
    names = ["mean", "M2", "mean |h|", "M2 |h|"]
    scales = [std + 0.1 * body[0].abs(), body[1], std_abs + 0.1 * body[2], body[3]]
    names += [f"C(x_{i}, h)" for i in range(k)] + [f"C(x_{i}, |h|)" for i in range(k)]
    scales += [s * std * n for s in x_std] + [s * std_abs * n for s in x_std]
    if shape:
        zero = torch.zeros(())
        names += ["M3", "M4", "min", "max", "over", "unit", "nonfinite"]
        scales += [n * std**3 + body[-7].abs(), body[-6], zero, zero, zero, n.sqrt(), zero]
    return names, scales


def layer_norm_oracle(x, gamma=None, beta=None, eps=1e-5, *, rms=False, residual=None,
                      dim_mask=None, edit=None):  # fmt: skip
    """Return s rounded as stored, and y in float64 of the same rounded inputs, both on the CPU."""

    def double(value):
        return None if value is None else value.cpu().double()

    s = x.cpu() if residual is None else (x.cpu().float() + residual.cpu().float()).to(x.dtype)
    y = torch.empty(s.shape, dtype=torch.float64)
    parts, each = (None,) * 4, edit is not None and edit.each
    if each:
        y = torch.empty(len(edit.scale) * len(s), s.shape[1], dtype=torch.float64)
    if edit is not None:
        variant = None if edit.variant is None else edit.variant.cpu()
        parts = (double(edit.scale), double(edit.shift), double(edit.clip), variant)
    mask = None if dim_mask is None else dim_mask.cpu()
    norm = NormOfRows(double(gamma), double(beta), eps, rms, mask, *parts, each)
    _reference.layer_norm(LayerNormCall(norm, double(s), None, None, y), None, False)
    return s, y.view(-1, *s.shape) if each else y


def assert_normalised(y, want, *, offset=False):
    """Compare y with the oracle: half a unit in its last place, and float32 arithmetic.

    A row of mean 1000 and deviation 1 is known in float32 to 3e-5, and so is its mean.
    """
    limit = ROUNDING[y.dtype] * want.abs() * 1.01 + (2e-4 if offset else 4e-6) * (1 + want.abs())
    error = (y.cpu().double() - want).abs()
    assert bool((error <= limit).all()), f"off by {float(error.max())}"


def norm_arguments(d, dtype, device, variant, n):
    """Keyword arguments of layer_norm for a named variant."""
    g = generator(d)
    arguments = {
        "gamma": torch.rand(d, generator=g).to(dtype),
        "beta": torch.randn(d, generator=g).to(dtype),
        "dim_mask": torch.rand(d, generator=g) > 0.1,
    }
    if variant == "bare":
        return {}
    if variant == "rms":
        arguments |= {"rms": True, "beta": None, "gamma": arguments["gamma"].float()}
    if variant == "residual":
        arguments["residual"] = torch.randn(n, d, generator=g).to(dtype)
    arguments = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    if variant in ("edit", "clip", "each"):
        scale = torch.rand(3, d, generator=g)
        scale[1, ::5] = 0
        clip = (torch.rand(3, d, generator=g) * 2).to(device) if variant == "clip" else None
        of_row = torch.randint(0, 3, (n,), generator=g, dtype=torch.int32)
        arguments["edit"] = ops.Edit(
            scale.to(device), torch.randn(3, d, generator=g).to(device), clip, of_row.to(device)
        )
    if variant == "each":
        arguments["edit"] = replace(arguments["edit"], variant=None, each=True)
    return arguments


def check_layer_norm(device, n, d, dtype, variant, kind="normal", margin=0):
    """y (and the sum) against the oracle, and nothing written besides."""
    _, x = guarded(hidden_states(n, d, dtype, kind), device, margin)
    arguments = norm_arguments(d, dtype, device, variant, n)
    m = 3 if variant == "each" else 1
    whole, rows = guarded(torch.zeros(m * n, d, dtype=dtype), device, margin)
    out = rows.view(3, n, d) if variant == "each" else rows
    with_sum = "residual" in arguments
    result = ops.layer_norm(x, **arguments, out=out, return_sum=with_sum)
    s, want = layer_norm_oracle(x, **arguments)
    if with_sum:
        assert same_bytes(result[1].cpu(), s)
    assert_normalised(out, want, offset=kind == "offset" and dtype == torch.float32)
    assert_margins_kept(whole, rows, margin)


def check_moments(device, n, d, dtype, kind="normal", margin=0, **options):
    """A state against the oracle, with NaN in the rows left out; the same bytes when repeated."""
    values = hidden_states(n, d, dtype, kind)
    args = statistics(n, device, **options)
    if args.group is not None:
        values[args.group.cpu() == 0] = torch.nan
    _, hidden = guarded(values, device, margin)
    state = ops.moments(hidden, **vars(args))
    assert_moments(state, hidden, args)
    again = ops.moments(hidden, **vars(args))
    assert same_bytes(state.head, again.head)
    assert same_bytes(state.body, again.body)


def check_fused(device, n, d, dtype, variant, of, **options):
    """Statistics taken with y are those of the stored tensor, and y is that of layer_norm."""
    x = hidden_states(n, d, dtype, "spikes").to(device)
    x[1:2] = 0  # with rms a row without a direction
    arguments = norm_arguments(d, dtype, device, variant, n)
    args = statistics(n, device, **options)
    y, _, state = ops.layer_norm_moments(x, **arguments, statistics=args, of=of)
    assert same_bytes(y, ops.layer_norm(x, **arguments))
    s_want, want = layer_norm_oracle(x, **arguments)
    assert_normalised(y, want)
    observed = y.cpu() if of == "output" else s_want
    assert_moments(state, observed, args)
    again = ops.layer_norm_moments(x, **arguments, statistics=args, of=of)[2]
    assert same_bytes(state.head, again.head)
    assert same_bytes(state.body, again.body)


def check_running_state(device, n, d, dtype, of=None, **options):
    """Three batches through two states: what the batches' own states merge to, to rounding.

    And, to the byte, what a pass takes with arguments checked once.
    """
    args = statistics(n, device, **options)
    rows, norm, pair = CheckedRows(args, n, device), CheckedNorm(1e-5, rms=False), [None, None]
    given = [hidden_states(n, d, dtype, seed=seed).to(device) for seed in range(3)]
    buffers, before, want = [None, None], None, None
    for i, x in enumerate(given):
        wanted = replace(args, before=before, out=buffers[i % 2])
        if of is None:
            state, alone = ops.moments(x, **vars(wanted)), ops.moments(x, **vars(args))
        else:
            _, _, state = ops.layer_norm_moments(x, statistics=wanted, of=of)
            _, _, alone = ops.layer_norm_moments(x, statistics=args, of=of)
        assert buffers[i % 2] is None or state.body is buffers[i % 2].body
        checked = CheckedStatistics(rows, pair[(i + 1) % 2], pair[i % 2])
        with torch.no_grad():
            pair[i % 2] = (
                checked.moments(x)
                if of is None
                else norm(x.view(n, 1, d), None, None, None, checked, of)[2]
            )
        assert all(torch.equal(*parts) for parts in zip(pair[i % 2], state, strict=True))
        buffers[i % 2] = before = state
        alone = tuple(part.cpu() for part in alone)
        want = alone if want is None else ops.merge_states(want, alone, args.shape)
    for got, expected in zip((before.head.cpu(), before.body.cpu()), want, strict=True):
        scale = expected.abs().amax(-1, keepdim=True).clamp(min=1e-300)
        torch.testing.assert_close(got / scale, expected / scale, rtol=1e-11, atol=1e-13)


def check_covariates_far_from_zero(device, n, dtype):
    """Deviations are from a row that counts: others, first and last too, may be anything."""
    g = generator(3)
    h = torch.randn(n, 4, generator=g)
    h[:, 0] += 1
    noise = h[:, :1].double() + 0.1 * torch.randn(n, 1, generator=g).double()
    for outside in (0.0, torch.nan):
        rows = (1e9 + noise).T.repeat(2, 1)
        group = torch.ones(n, dtype=torch.uint8)
        for row in (0, n // 2, n - 1):
            group[row], rows[:, row] = 0, outside
        options = {"group": group.to(device), "tau": 1.5}
        for k, exact, shape in ((2, True, True), (1, True, False), (1, False, False)):
            args = ops.StatisticsArgs(
                rows=rows[:k].to(device), accum="exact" if exact else "fast", shape=shape, **options
            )
            x = h.to(dtype).to(device)
            states = [ops.moments(x, **vars(args))]
            states.append(ops.layer_norm_moments(x, statistics=args, of="input")[2])
            for state in states:
                # Means near 1e9 are known to 1e-7, and so are deviations from them.
                assert_moments(state, x, args, 1e-5 if exact else 1e-4)


def check_rank_histogram(device, n, d):
    """Counts and rank sums against the reference."""
    hidden = hidden_states(n, d, torch.bfloat16).to(device)
    dims = torch.arange(0, d, 2)
    ids = torch.randint(0, VOCAB, (n,), generator=generator())
    mask = torch.arange(n) % 5 != 4
    rank = torch.arange(VOCAB) * 3 + 1
    touched = ops.rank_histogram_touch(hidden, dims.to(device), mask=mask.to(device))
    want = ops.rank_histogram_touch(hidden.cpu(), dims, mask=mask, backend="reference")
    assert torch.equal(touched.cpu(), want)
    index = torch.full(want.shape, -1, dtype=torch.int32)
    index[want.bool()] = torch.arange(int(want.sum()), dtype=torch.int32)
    pages = torch.zeros(2, int(want.sum()), 256, dtype=torch.int64)
    found = pages.to(device)
    call = (ids, rank, index)
    ops.rank_histogram_add(
        hidden, dims.to(device), *(t.to(device) for t in call), *found, mask=mask.to(device)
    )
    ops.rank_histogram_add(hidden.cpu(), dims, *call, *pages, mask=mask, backend="reference")
    assert torch.equal(found.cpu(), pages)


def check_segment_sums(device, n, d, dtype, margin=0):
    """Sums by segment against the reference, to the rounding of float64; the same bytes again."""
    values = hidden_states(n, d, dtype, "spikes")
    segment = torch.randint(-1, 9, (n,), generator=generator(n))
    segment[: n // 2] = 4  # a long one
    segment[segment == 2] = 7  # one of no rows
    values[(segment < 0) | (segment > 7)] = torch.nan
    _, hidden = guarded(values, device, margin)
    order, starts = ops.segments(segment.to(device), 8)
    table = torch.randn(16, 3, d, dtype=torch.float64, generator=generator(d))
    read = torch.tensor([0, 1, 2, -1, 4, 5, 6, 7])
    write = torch.tensor([0, 1, 2, 11, 12, 13, 14, 15])
    where = {"read": read.to(device), "write": write.to(device)}
    found, again = table.clone().to(device), table.clone().to(device)
    ops.segment_sums(hidden, order, starts, found, **where)
    ops.segment_sums(hidden, order, starts, again, **where)
    assert same_bytes(found, again)
    want = table.clone()
    ops.segment_sums(values, order.cpu(), starts.cpu(), want, read=read, write=write,
                     backend="reference")  # fmt: skip
    untouched = torch.tensor([2, 4, 5, 6, 7, 8, 9, 10])
    assert same_bytes(found.cpu()[untouched], table[untouched])
    # Each of at most n additions rounds to 2^-53 of what has been summed by then.
    size = table.abs()
    ops.segment_sums(values.abs(), order.cpu(), starts.cpu(), size, read=read, write=write,
                     backend="reference")  # fmt: skip
    assert bool(((found.cpu() - want).abs() <= 2.0**-52 * (n + 1) * size.abs() + 1e-300).all())


def check_comoments(device, n, d, dtype, margin=0):
    """Against float64 sums of the reference; the same bytes again."""
    values = hidden_states(n, d, dtype, "spikes")
    _, hidden = guarded(values, device, margin)
    rows = torch.rand(5, n, dtype=torch.float64, generator=generator(n))
    group = torch.randint(0, 3, (n,), generator=generator(n)).byte()
    found = ops.comoments(hidden, rows.to(device), group.to(device), 2)
    again = ops.comoments(hidden, rows.to(device), group.to(device), 2)
    assert all(same_bytes(*parts) for parts in zip(found, again, strict=True))
    want = ops.comoments(values, rows, group, 2, backend="reference")
    for got, expected in zip(found, want, strict=True):
        scale = expected.abs().amax((-2, -1) if expected.dim() > 2 else -1, keepdim=True)
        assert bool(((got.cpu() - expected).abs() <= 1e-11 * scale + 1e-300).all())


def check_magnitude_counts(device, n, d, dtype, margin=0):
    """Counts against the reference, exactly; what lies between the bins stays."""
    values = hidden_states(n, d, dtype, "spikes").float()
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, 2.0**-16, 65504.0, 1.0, -1.0625])
    flat = values.view(-1)
    flat[: len(odd)] = odd[: flat.numel()]
    values = values.to(dtype)
    _, hidden = guarded(values, device, margin)
    group = torch.randint(0, 4, (n,), generator=generator(n)).byte()
    found = ops.magnitude_counts_empty(3, d, device)
    want = ops.magnitude_counts_empty(3, d)
    for of in (group, None):
        where = None if of is None else of.to(device)
        ops.magnitude_counts_add(hidden, found, group=where)
        ops.magnitude_counts_add(values, want, group=of, backend="reference")
    bins = slice(MAGNITUDE_BINS)
    assert torch.equal(found[..., bins].cpu(), want[..., bins])
    if device.type == "cuda":  # moving on the CPU goes by what its own kernel has noted
        counts = torch.ones_like(found[..., bins], dtype=torch.int64)
        ops.magnitude_counts_move(found, counts)
        assert torch.equal(counts.cpu(), want[..., bins] + 1)
        assert not found.any()


def check_token_shape(device, n, d, dtype, margin=0):
    """Places exactly, the kurtosis to the rounding of float64; the same bytes again."""
    values = hidden_states(n, d, dtype, "spikes")
    if n > 8:
        values[3], values[5, d // 2], values[6, -1] = 0, torch.nan, torch.inf
        values[7], values[8, 1::2] = -torch.inf, 1.5
    group = torch.randint(0, 3, (n,), generator=generator(n)).byte()
    _, hidden = guarded(values, device, margin)
    for of in (group, None):
        where = None if of is None else of.to(device)
        found, again = (ops.token_shape(hidden, group=where) for _ in range(2))
        assert all(same_bytes(a, b) for a, b in zip(found, again, strict=True))
        want = ops.token_shape(values, group=of, backend="reference")
        assert torch.equal(found.smallest.cpu(), want.smallest)
        assert torch.equal(found.largest.cpu(), want.largest)
        torch.testing.assert_close(
            found.kurtosis.cpu(),
            want.kurtosis,
            rtol=d * 2.0**-51,
            atol=d * 2.0**-49,
            equal_nan=True,
        )


def check_attention_received(device, shape, dtype, **options):
    """Sums, counts and entropies against float64 on the CPU; the same bytes again.

    shape: batch, heads of queries and of keys, queries, keys, width.
    """
    batch, heads, key_heads, queries, keys, d = shape
    query = torch.randn(batch, heads, queries, d, generator=generator(1)).to(dtype)
    key = torch.randn(batch, key_heads, keys, d, generator=generator(2)).to(dtype)
    key[:, :, :1, :1] += 5  # a sink
    if "mask" in options and options["mask"].shape[2] == 1:  # padding, which may hold anything
        key.masked_fill_(~options["mask"].mT, torch.nan)
    where = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    # [B, S, H, d] inside, as models have it.
    given = [t.transpose(1, 2).contiguous().to(device).transpose(1, 2) for t in (query, key)]
    found = ops.attention_received(*given, entropy=True, **where)
    again = ops.attention_received(*given, entropy=True, **where)
    assert all(same_bytes(a, b) for a, b in zip(found, again, strict=True))
    want = ops.attention_received(
        query.double(), key.double(), entropy=True, backend="reference", **options
    )
    # A score up to about 10 is rounded to 1e-6 in float32; tensor cores cut off instead, once for
    # every 16 of the d products (a device's may do so for 8, or 4).
    tolerance = 4e-6 if dtype == torch.float32 else 1e-5
    torch.testing.assert_close(found.sums.cpu(), want.sums, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.entropy.cpu(), want.entropy, rtol=tolerance, atol=1e-5,
                               equal_nan=True)  # fmt: skip
    assert torch.equal(found.seen.cpu(), want.seen)


def attention_options(batch, heads, queries, keys):
    """What `attention_received` can be asked, by name; causality where lengths allow it."""
    lengths = torch.arange(batch)[:, None] * 7 % keys + 1
    padding = (torch.arange(keys) < lengths)[:, None, None]
    square = {"causal": queries == keys}
    random = generator(3)
    by_head = torch.rand(1, heads, queries, keys, generator=random) > 0.3
    return {
        "plain": {},
        "causal": square,
        "window": square | ({"window": 5} if queries == keys else {}),
        "padded": {"mask": padding},
        "mask by head": {"mask": by_head},
        "softcap and sinks": {"softcap": 3.0, "sinks": torch.randn(heads, generator=random)},
        "bias": {"bias": torch.randn(1, heads, queries, keys, generator=random)},
        "groups": square
        | {
            "group": torch.randint(0, 4, (batch, queries), generator=random).byte(),
            "groups": 3,
        },
    }


ATTENTION_OPTIONS = list(attention_options(1, 1, 1, 1))
