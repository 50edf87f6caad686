"""The ops in plain torch: any floating dtype, float64 included, on any device.

They say what the kernels must compute, serve where there is no compiled module, and are the path
that float64 tensors take. Statistics are float64 throughout.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from outdim.ops._calls import (
    AttentionReceivedCall,
    ComomentsCall,
    LayerNormCall,
    MagnitudeCountsCall,
    MomentsCall,
    RankAddCall,
    RankTouchCall,
    SegmentSumsCall,
    SizesCall,
    TokenShapeCall,
    UnitSumsCall,
)
from outdim.ops.layout import (
    MAGNITUDE_BINS,
    MAGNITUDE_BITS,
    MAGNITUDE_FIRST,
    MAGNITUDE_ROOM,
    MAGNITUDE_SHIFT,
    BodyRow,
    ShapeRow,
    body_rows,
    comoment_row,
    covariates_of,
    head_size,
    shape_row,
)

# Rows are reduced in blocks of about this many values, which bounds the memory of the float64
# temporaries (six of them) to about 100 MB whatever N is.
_BLOCK_VALUES = 1 << 21

State = tuple[Tensor, Tensor]


@torch.no_grad()
def layer_norm(call: LayerNormCall, stats: MomentsCall | None, of_input: bool) -> None:
    """Write y (and the sum, and the statistics of the input or the output)."""
    s = call.x if call.residual is None else call.x + call.residual
    if call.sum is not None:
        call.sum.copy_(s)
    if call.scale is not None and call.variant is not None:
        _check_index(call.variant, len(call.scale), "a variant is outside the tables")
    z, _, _ = normalise(s, call.gamma, call.beta, call.eps, call.rms, call.dim_mask)
    call.y.copy_(edited(call, z))
    if stats is not None:
        moments(s if of_input else call.y, stats)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic of a row: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalise(
    s: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    rms: bool,
    dim_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return z = xhat * gamma + beta of rows (..., D), then xhat and 1 / std, in work_dtype."""
    s = s.to(work_dtype(s.dtype))
    if not rms:
        s = s - s.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt(s.square().mean(-1, keepdim=True) + eps)
    xhat = s * inverse_std
    z = xhat
    if gamma is not None:
        z = z * masked(gamma.to(s.dtype), dim_mask)
    elif dim_mask is not None:
        z = z * dim_mask.to(s.dtype)
    if beta is not None:
        z = z + masked(beta.to(s.dtype), dim_mask)
    return z, xhat, inverse_std


def masked(parameter: Tensor, dim_mask: Tensor | None) -> Tensor:
    """Zero gamma or beta at the disabled dimensions."""
    return parameter if dim_mask is None else parameter * dim_mask.to(parameter.dtype)


def edit_rows(table: Tensor, variant: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Look up the row of an edit's table for each row of x; [N, D] or [1, D]."""
    table = table.to(dtype)
    return table[:1] if variant is None else table[variant.long()]


def edited(call: LayerNormCall, z: Tensor) -> Tensor:
    """Apply the edit of a call to its rows z [N, D]; [M * N, D] with `each`."""
    variant = call.variant
    if call.each and call.scale is not None:
        z, variant = every_variant(z, len(call.scale))
    return apply_edit(z, call.scale, call.shift, call.clip, variant)


def every_variant(z: Tensor, variants: int) -> tuple[Tensor, Tensor]:
    """Repeat rows [N, D] once a variant, and say which variant each is of."""
    index = torch.arange(variants, device=z.device).repeat_interleave(len(z))
    return z.repeat(variants, 1), index


def apply_edit(
    z: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    clip: Tensor | None,
    variant: Tensor | None,
) -> Tensor:
    """Return clamp(z, -clip, clip) * scale + shift; scale 0 gives shift whatever z is."""
    if scale is None or shift is None:
        return z
    if clip is not None:
        bound = edit_rows(clip, variant, z.dtype)
        z = torch.minimum(torch.maximum(z, -bound), bound)
    factor = edit_rows(scale, variant, z.dtype)
    return torch.where(factor == 0, 0, z * factor) + edit_rows(shift, variant, z.dtype)


@torch.inference_mode()  # the memory may be of a call in that mode, and is changed in none other
def moments(hidden: Tensor, call: MomentsCall) -> None:
    """Write head and body: block by block of the selected rows, merged in row order."""
    if call.group is not None:
        _check_index(call.group, call.groups + 1, "there is no such group")
    step = max(1, _BLOCK_VALUES // hidden.shape[1])
    for g in range(call.groups):
        if call.group is None:
            selected = torch.arange(hidden.shape[0], device=hidden.device)
        else:
            selected = (call.group == g + 1).nonzero().squeeze(1)
        state: State | None = None
        if call.before_head is not None and call.before_body is not None:
            state = call.before_head[g], call.before_body[g]
        these: State | None = None
        for rows in torch.split(selected, step):  # once where none is selected
            covariates = _covariates(call, rows)
            block = _block_moments(hidden[rows].double(), covariates, call.tau, call.shape)
            these = block if these is None else merge_states(these, block, call.shape)
        assert these is not None
        call.head[g], call.body[g] = (
            these if state is None else merge_states(state, these, call.shape)
        )


def comoments(hidden: Tensor, call: ComomentsCall) -> None:
    """Write head and body from all the moments."""
    comoments_by(moments, hidden, call)


def comoments_by(
    moments: Callable[[Tensor, MomentsCall], None], hidden: Tensor, call: ComomentsCall
) -> None:
    """Write head and body of `comoments` as a part of all the moments that a kernel takes."""
    k, groups = len(call.rows), call.groups
    sizes = (groups, head_size(k)), (groups, body_rows(k, shape=False), hidden.shape[1])
    head, body = (hidden.new_empty(size, dtype=torch.float64) for size in sizes)
    moments(
        hidden,
        MomentsCall(
            None, None, call.rows, call.group, groups, 0.0, True, False, None, None, head, body
        ),
    )
    first = comoment_row(k, 0, of_abs=True)
    call.head.copy_(head)
    call.body.copy_(
        torch.cat(
            [
                body[:, BodyRow.MEAN_ABS : BodyRow.M2_ABS + 1],
                body[:, first : first + k],
            ],
            1,
        )
    )


def merged_mean(share: Tensor, mean: Tensor, delta: Tensor) -> Tensor:
    """Mean of two sets of rows; delta is the difference of theirs, share the later rows' of all."""
    return mean + delta * share


def merged_comoment(weight: Tensor, a: Tensor, b: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Co-moment of two sets of rows, M2 where dx is dy; weight is na nb / n."""
    return a + b + dx * dy * weight


def merge_states(a: State, b: State, shape: bool) -> State:
    """Merge head [..., 1 + 2 K] and body [..., R, D] of the rows `b` behind those of `a`.

    The formulas of csrc/core/moments_merge.h in the same order of operations, each rounded once
    (never addcmul or lerp), for where there is no compiled module and for devices.
    """
    (head_a, body_a), (head_b, body_b) = a, b
    k = covariates_of(head_a.shape[-1])
    na, nb = head_a[..., :1], head_b[..., :1]
    n = na + nb
    inverse = 1 / n  # infinite where both have no rows, and then not taken
    share_a, share = na * inverse, nb * inverse
    weight = na * share
    means, m2 = slice(1, 1 + k), slice(1 + k, 1 + 2 * k)
    x_delta = head_b[..., means] - head_a[..., means]
    head = torch.cat(
        [
            n,
            merged_mean(share, head_a[..., means], x_delta),
            merged_comoment(weight, head_a[..., m2], head_b[..., m2], x_delta, x_delta),
        ],
        -1,
    )
    means, m2 = (slice(row, row + 3, 2) for row in (BodyRow.MEAN, BodyRow.M2))  # h and |h|
    delta = body_b[..., means, :] - body_a[..., means, :]
    share_a, share, weight = (value[..., None] for value in (share_a, share, weight))
    body = body_a + body_b
    body[..., means, :] = merged_mean(share, body_a[..., means, :], delta)
    body[..., m2, :] = merged_comoment(weight, body_a[..., m2, :], body_b[..., m2, :], delta, delta)
    for of in range(2):
        rows = slice(len(BodyRow) + of * k, len(BodyRow) + (of + 1) * k)
        body[..., rows, :] = merged_comoment(
            weight, body_a[..., rows, :], body_b[..., rows, :],
            x_delta[..., None], delta[..., of : of + 1, :],
        )  # fmt: skip
    if shape:
        _merge_shape(body, body_a, body_b, k, delta[..., 0, :], (share_a, share, weight))
    before, after = nb == 0, na == 0
    return (
        torch.where(before, head_a, torch.where(after, head_b, head)),
        torch.where(before[..., None], body_a, torch.where(after[..., None], body_b, body)),
    )


def _merge_shape(
    body: Tensor,
    body_a: Tensor,
    body_b: Tensor,
    k: int,
    delta: Tensor,
    shares: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Set the shape rows that are no plain sums, which `body` has already."""
    a, b, weight = (value[..., 0] for value in shares)

    def both(row: int) -> tuple[Tensor, Tensor]:
        return body_a[..., row, :], body_b[..., row, :]

    m3, m4, least, most = (
        shape_row(k, row) for row in (ShapeRow.M3, ShapeRow.M4, ShapeRow.MIN, ShapeRow.MAX)
    )
    (m2a, m2b), (m3a, m3b) = both(BodyRow.M2), both(m3)
    square = delta * delta
    body[..., m3, :] += square * delta * (weight * (a - b))
    body[..., m3, :] += 3 * delta * (a * m2b - b * m2a)
    body[..., m4, :] += square * square * (weight * (a * a - a * b + b * b))
    body[..., m4, :] += 6 * square * (a * a * m2b + b * b * m2a)
    body[..., m4, :] += 4 * delta * (a * m3b - b * m3a)
    body[..., least, :] = torch.minimum(*both(least))
    body[..., most, :] = torch.maximum(*both(most))


def empty_state(covariates: int, d: int, shape: bool, device: torch.device | None = None) -> State:
    """Return head [1 + 2 K] and body [R, D] of no rows: zeros, with min +inf and max -inf."""
    head = torch.zeros(head_size(covariates), dtype=torch.float64, device=device)
    body = torch.zeros(body_rows(covariates, shape), d, dtype=torch.float64, device=device)
    if shape:
        body[shape_row(covariates, ShapeRow.MIN)] = torch.inf
        body[shape_row(covariates, ShapeRow.MAX)] = -torch.inf
    return head, body


def _covariates(call: MomentsCall, rows: Tensor) -> Tensor:
    """Gather the covariates [K, n] of selected rows: those of the table first."""
    found = []
    if call.table is not None and call.ids is not None:
        ids = call.ids[rows]
        _check_index(ids, call.table.shape[1], "an id is outside the table")
        found.append(call.table[:, ids])
    if call.rows is not None:
        found.append(call.rows[:, rows])
    if not found:
        return torch.empty(0, len(rows), dtype=torch.float64, device=rows.device)
    return torch.cat(found)


def _block_moments(h: Tensor, x: Tensor, tau: float, shape: bool) -> tuple[Tensor, Tensor]:
    """Two-pass moments of rows [n, D] float64 against covariates [K, n] float64."""
    n = h.shape[0]
    if not n:
        return empty_state(len(x), h.shape[1], shape, h.device)
    x_mean, x = centre(x.T)
    mean, deviation = centre(h)
    mean_abs, deviation_abs = centre(h.abs())
    squares = deviation.square()
    body = [mean, squares.sum(0), mean_abs, deviation_abs.square().sum(0)]
    body += [*(x.T @ deviation), *(x.T @ deviation_abs)]
    if shape:
        minimum = h.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(0)
        maximum = h.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(0)
        norm = h.square().sum(1)
        usable = (norm.isfinite() & (norm > 0)).nonzero().squeeze(1)
        body += [
            (squares * deviation).sum(0),
            squares.square().sum(0),
            minimum,
            maximum,
            (h.abs() >= tau).sum(0).double(),
            (h[usable] / norm[usable].sqrt()[:, None]).sum(0),
            (~h.isfinite()).sum(0).double(),
        ]
    head = torch.cat([h.new_full((1,), n), x_mean, x.square().sum(0)])
    return head, torch.stack(body)


def centre(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column means of [n, D] and the deviations from them.

    The mean is taken about the first row: a constant column has deviations of exactly zero.
    """
    shifted = values - values[0]
    shift = shifted.mean(0)
    deviation = shifted - shift
    bad = ~values.isfinite().all(0)
    mean = (values[0] + shift).masked_fill(bad, torch.nan)
    return mean, deviation.masked_fill(bad, torch.nan)


def _patterns(hidden: Tensor, dims: Tensor) -> Tensor:
    """Return the 16-bit patterns [n, S] of the chosen columns, as int64."""
    return hidden[:, dims].contiguous().view(torch.int16).long() & 0xFFFF


def rank_histogram_touch(hidden: Tensor, call: RankTouchCall) -> None:
    """Set touched[s, high byte] for every page that the selected rows need."""
    if call.mask is not None:
        hidden = hidden[call.mask]
    pages = _patterns(hidden, call.dims) >> 8
    call.touched.scatter_(1, pages.T, 1)


def rank_histogram_add(hidden: Tensor, call: RankAddCall) -> None:
    """Add the selected rows to counts and rank sums; every page they need exists."""
    ids, counts, rank_sums = call.ids, call.counts, call.rank_sums
    if call.mask is not None:
        hidden, ids = hidden[call.mask], ids[call.mask]
    if not len(ids):
        return
    _check_index(ids, len(call.double_rank), "an id is outside double_rank")
    patterns = _patterns(hidden, call.dims).T
    pages = call.page_index.long().gather(1, patterns >> 8)
    _check_index(pages, len(counts), "a page is missing")
    bins = (pages * 256 + (patterns & 0xFF)).reshape(-1)
    rank = call.double_rank[ids].expand_as(patterns).reshape(-1)
    counts.view(-1).scatter_add_(0, bins, torch.ones_like(bins))
    rank_sums.view(-1).scatter_add_(0, bins, rank)


def segment_sums(hidden: Tensor, call: SegmentSumsCall) -> None:
    """Add to each segment its first row, then its second, and so on: every sum is one chain.

    (index_add_ of all rows would be that on the CPU only: on CUDA its order is anybody's guess.)
    """
    order, starts, read, write, sums = call
    sizes = starts.diff()
    if (sizes < 0).any() or starts[0] < 0 or starts[-1] > len(order):
        raise IndexError("starts do not ascend within order")
    touched = sizes.nonzero().squeeze(1)
    _check_index(read[touched] + 1, len(sums) + 1, "read is outside sums")
    _check_index(write[touched], len(sums), "write is outside sums")
    _check_index(order[starts[0] : starts[-1]], len(hidden), "order is outside hidden")
    mine, others = write[touched], read[touched][read[touched] != write[touched]]
    if (mine.sort().values.diff() == 0).any():
        raise IndexError("write: expected each row of `sums` at most once")
    if torch.isin(mine, others).any():
        raise IndexError("write: expected no row that another segment reads")
    before = sums[read[touched].clamp(min=0)]
    sums[write[touched]] = before.masked_fill((read[touched] < 0)[:, None, None], 0)
    for step in range(int(sizes.max()) if len(touched) else 0):
        there = (sizes > step).nonzero().squeeze(1)
        h = hidden[order[starts[there] + step]].double()
        sums[write[there]] += torch.stack([h, h.abs(), h.square()], 1)


def magnitude_counts_add(hidden: Tensor, call: MagnitudeCountsCall) -> None:
    """Count the bins of the selected rows: exponent and first bits of the mantissa."""
    group, fresh = call
    if group is None:
        group = torch.ones(len(hidden), dtype=torch.uint8, device=hidden.device)
    _check_index(group, len(fresh) + 1, "there is no such group")
    dims = hidden.shape[1]
    offsets = torch.arange(dims, device=hidden.device) * MAGNITUDE_ROOM
    for rows in torch.split(group.nonzero().squeeze(1), max(1, _BLOCK_VALUES // dims)):
        bits = hidden[rows].float().contiguous().view(torch.int32)
        bins = ((bits & 0x7FFFFFFF) >> MAGNITUDE_SHIFT) - MAGNITUDE_FIRST
        cells = bins.clamp_(0, MAGNITUDE_BINS - 1) + offsets
        cells += (group[rows].long() - 1)[:, None] * (dims * MAGNITUDE_ROOM)
        ones = torch.ones_like(cells, dtype=torch.int32)
        fresh.view(-1).scatter_add_(0, cells.view(-1), ones.view(-1))
    by_line = fresh[..., :MAGNITUDE_BINS].view(*fresh.shape[:-1], -1, 1 << MAGNITUDE_BITS)
    lines = by_line.any(-1)
    bit = torch.arange(lines.shape[-1], device=lines.device)
    fresh[..., MAGNITUDE_BINS] = (lines.long() << bit).sum(-1).int()


def token_shape(hidden: Tensor, call: TokenShapeCall) -> None:
    """Write where the extremes of the selected rows are, and their kurtosis."""
    call.smallest.fill_(-1)
    call.largest.fill_(-1)
    call.kurtosis.fill_(torch.nan)
    rows = torch.arange(len(hidden), device=hidden.device)
    if call.group is not None:
        rows = call.group.nonzero().squeeze(1)
    for some in torch.split(rows, max(1, _BLOCK_VALUES // hidden.shape[1])):
        values = hidden[some]
        call.smallest[some] = _first_of(values, values.amin(-1))
        call.largest[some] = _first_of(values, values.amax(-1))
        squares = values.double().square()
        call.kurtosis[some] = squares.square().mean(-1) / squares.mean(-1).square() - 3


def _first_of(values: Tensor, wanted: Tensor) -> Tensor:
    """Column of the first value of each row [N, D] that is the wanted one [N], or is NaN as it."""
    there = (values == wanted[:, None]) | values.isnan()
    return there.byte().argmax(-1)


@torch.no_grad()
def unit_sums(hidden: Tensor, call: UnitSumsCall) -> None:
    """Products of matrices: which rows each segment has, with the weights of rows."""
    left_out, sums = call.left_out, call.sums
    order, segment = _rows_of_segments(hidden, call.order, call.starts)
    _check_index(left_out, hidden.shape[1], "left_out is outside the dimensions")
    sums.zero_()
    step = max(1, _BLOCK_VALUES // hidden.shape[1])
    for start in range(0, len(order), step):
        part = slice(start, start + step)
        rows = hidden[order[part]].double()
        _add_units(rows, segment[part], sums[:, :2])
        _add_units(rows.index_fill_(1, left_out, 0), segment[part], sums[:, 2:])


def _rows_of_segments(hidden: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that segments have, in their order, and the segment of each."""
    sizes = starts.diff()
    if (sizes < 0).any() or starts[0] < 0 or starts[-1] > len(order):
        raise IndexError("starts do not ascend within order")
    order = order[starts[0] : starts[-1]]
    _check_index(order, len(hidden), "order is outside hidden")
    return order, torch.arange(len(sizes), device=hidden.device).repeat_interleave(sizes)


def _add_units(rows: Tensor, segment: Tensor, sums: Tensor) -> None:
    """Add sums of h / ||h|| and of its square to [S, 2, D]; 0 / 0 is 0."""
    norm = torch.linalg.vector_norm(rows, dim=1)
    finite = norm.isfinite()
    unit = torch.where(finite[:, None], rows, 0)  # else 0 * NaN, in the sums of every segment
    unit = unit / torch.where(finite & (norm > 0), norm, 1)[:, None]
    member = rows.new_zeros(len(sums), len(rows))
    member[segment, torch.arange(len(rows), device=rows.device)] = 1
    bad = member @ (~finite).double() > 0
    found = torch.stack([member @ unit, member @ unit.square()], 1)
    sums += found.masked_fill(bad[:, None, None], torch.nan)


@torch.no_grad()
def sizes(hidden: Tensor, call: SizesCall) -> None:
    """Largest of each segment by a scatter, mean and squares of a block of rows at a time."""
    order, segment = _rows_of_segments(hidden, call.order, call.starts)
    largest, squares = call.largest, call.squares
    if largest is not None:
        largest.zero_()
    step = max(1, _BLOCK_VALUES // hidden.shape[1])
    for start in range(0, len(order), step):
        part = slice(start, start + step)
        rows = hidden[order[part]]
        if largest is not None:
            index = segment[part, None].expand_as(rows)
            largest.scatter_reduce_(0, index, rows.abs().to(largest.dtype), "amax")
        if squares is not None:
            rows = rows.double()
            mean = rows.new_zeros(len(rows), 1) if call.rms else rows.mean(1, keepdim=True)
            squares[order[part]] = torch.cat([mean, (rows - mean).square().sum(1, keepdim=True)], 1)


@torch.no_grad()
def attention_received(call: AttentionReceivedCall) -> None:
    """Softmax of a block of queries at a time, summed by group."""
    query, key, sums = call.query, call.key, call.sums
    batch, heads, queries, d = query.shape
    keys, groups = key.shape[2], sums.shape[1]
    group = call.group
    if group is None:
        group = torch.ones(batch, queries, dtype=torch.uint8, device=query.device)
    _check_index(group, groups + 1, "there is no such group")
    work = work_dtype(query.dtype)
    transposed = key.to(work).mT
    step = max(1, _BLOCK_VALUES // max(1, batch * heads * keys))
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        q = query[:, :, rows].to(work) * call.scale
        # The heads of queries that share keys are one long axis of queries.
        scores = q.reshape(batch, key.shape[1], -1, d) @ transposed
        scores = scores.reshape(batch, heads, -1, keys)
        if call.softcap:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        if call.bias is not None:
            scores = scores + call.bias[:, :, rows]
        visible = _visible(call, rows)
        scores = scores.masked_fill(~visible, -torch.inf)
        total = scores.logsumexp(-1)
        if call.sinks is not None:
            total = torch.logaddexp(total, call.sinks[:, None].to(work))
        scores = scores - total[..., None]
        share = scores.double().exp()
        sees = visible.any(-1)
        for g in range(groups):
            mine = (group[:, None, rows] == g + 1) & sees
            sums[:, g] += torch.where(mine[..., None], share, 0).sum(-2)
            call.seen[:, g] += torch.where(mine[..., None], visible, False).sum(-2)
        if call.entropy is not None:
            # A share of zero has the entropy 0, whatever its logarithm.
            entropy = -torch.where(share == 0, 0, share * scores.double()).sum(-1)
            if call.sinks is not None:
                of_sink = (call.sinks[:, None] - total).double()
                entropy -= of_sink * of_sink.exp()
            defined = (group[:, None, rows] > 0) & sees
            call.entropy[:, :, rows] = torch.where(defined, entropy, torch.nan)


def _visible(call: AttentionReceivedCall, rows: slice) -> Tensor:
    """Which keys the queries `rows` see: bool, [1 or B, 1 or Hq, R, Sk]."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    i = torch.arange(queries, device=call.query.device)[rows, None]
    j = torch.arange(keys, device=call.query.device)
    visible = torch.ones(len(i), keys, dtype=torch.bool, device=i.device)
    if call.causal:
        visible &= j <= i
    if call.window:
        visible &= j > i - call.window
    visible = visible[None, None]
    return visible if call.mask is None else visible & call.mask[:, : call.seen.shape[2], rows]


def _check_index(index: Tensor, size: int, message: str) -> None:
    """Raise as the kernels do; torch would let a negative index wrap around."""
    if index.numel() and (index.min() < 0 or index.max() >= size):
        raise IndexError(message)
