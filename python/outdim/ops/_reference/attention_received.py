"""Attention that keys receive, a block of queries at a time."""

import torch
from torch import Tensor

from outdim.ops._calls import AttentionReceivedCall
from outdim.ops._reference._parts import BLOCK_VALUES, check_index, work_dtype


@torch.no_grad()
def attention_received(call: AttentionReceivedCall) -> None:
    """Softmax of a block of queries at a time, summed by group."""
    query, key, sums = call.query, call.key, call.sums
    batch, heads, queries, d = query.shape
    keys, groups = key.shape[2], sums.shape[1]
    group = call.group
    if group is None:
        group = torch.ones(batch, queries, dtype=torch.uint8, device=query.device)
    check_index(group, groups + 1, "there is no such group")
    work = work_dtype(query.dtype)
    transposed = key.to(work).mT
    step = max(1, BLOCK_VALUES // max(1, batch * heads * keys))
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
