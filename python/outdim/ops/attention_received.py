"""How much attention each key receives, head by head, without the attention matrix.

`outdim.models.observe_attention` gives the queries and keys of a model while it runs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.ops._calls import AttentionReceivedCall
from outdim.ops._check import (
    FLOATS,
    as_tensors,
    check_device,
    check_dtype,
    check_hidden,
    check_tensor,
    describe,
    resolved,
)
from outdim.ops._dispatch import Backend, choose, kernels, via_op
from outdim.ops._library import register

_MAX_GROUPS = 255


class AttentionReceived(NamedTuple):
    """What the keys of a batch receive; NumPy arrays where the queries were one.

    Attributes:
        sums: [B, G, Hq, Sk] float64, summed over the queries of each group.
        seen: [B, G, 1 or Hq, Sk] int64: how many queries of the group can see the key. By head
            where the mask differs from head to head.
        entropy: [B, Hq, Sq] float64, of each query in nats, NaN for those that were left out or see
            nothing; None where it was not asked for.
    """

    sums: Any
    seen: Any
    entropy: Any = None

    def mean(self) -> Any:
        """[B, Hq, Sk]: mean over the queries of all groups that can see a key, NaN where none can.

        Sink_k^eps of Gu et al. (ICLR 2025) asks for this mean. In a causal model a mean over all
        queries would favour the first keys, which more queries can see.
        """
        sums, seen = self.sums.sum(1), self.seen.sum(1)
        if isinstance(sums, Tensor):
            return sums / seen
        import numpy as np

        with np.errstate(invalid="ignore"):
            return sums / seen


def attention_received(
    query: Any,
    key: Any,
    *,
    scale: float | None = None,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    bias: Any = None,
    group: Any = None,
    groups: int = 1,
    entropy: bool = False,
    backend: Backend = "auto",
) -> AttentionReceived:
    """Sum the attention that each key receives, over the queries of each group.

    sums[b, g, h, j] = sum over the queries i of group g of p_ij, where p is the softmax over the
    visible keys of s_ij = softcap tanh(scale q_i . k_j / softcap) + bias_ij.

    >>> import torch
    >>> query, key = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4)
    >>> received = attention_received(query, key, causal=True)  # rows 1; 1/2 1/2; 1/3 1/3 1/3
    >>> [round(value, 3) for value in received.sums.flatten().tolist()]
    [1.833, 0.833, 0.333]
    >>> received.seen.flatten().tolist()
    [3, 2, 1]
    >>> [round(value, 3) for value in received.mean().flatten().tolist()]
    [0.611, 0.417, 0.333]

    Memory is that of the outputs and some blocks in cache, never B Hq Sq Sk. Products and
    exponentials are float32 (a share p_ij is off by a few 1e-7 of itself times the largest |s|:
    2e-6 where scores reach 5, 2e-4 where they reach 500), row sums float32, a block of at most 48
    queries is added up in float32, blocks in float64, all in a fixed order: the same bytes for any
    number of threads, and for repeated calls on CUDA. Queries of float64 are float64 throughout, in
    plain torch. NaN and infinity go their way into the sums of their group and head.

    Args:
        query: [B, Hq, Sq, d] float32, float16, bfloat16 or float64.
        key: [B, Hkv, Sk, d], dtype of query; Hq is a multiple of Hkv, and head h reads the keys of
            head h // (Hq / Hkv): nothing is repeated.
        scale: None: 1 / sqrt(d).
        mask: bool, True where a query sees a key, broadcast to [B, Hq, Sq, Sk]: [B, 1, 1, Sk] is
            padding. Keys that are hidden may hold anything, NaN as well.
        causal: query i sees the keys up to i; Sq is Sk then.
        window: with causal, query i sees its `window` last keys, its own among them.
        softcap: Gemma-2's bound of the scores, before bias and mask.
        sinks: [Hq], gpt-oss's: a score of nothing, which takes its share of each row.
        bias: broadcast to [B, Hq, Sq, Sk], added to the scores: T5's position bias. A key that it
            makes -inf receives nothing but counts as seen; hide keys with `mask`.
        group: [B, Sq] uint8, of each query in [0, groups]; 0 leaves it out. None: all of group 1.
        groups: G, at most 255.
        entropy: give that of each query as well; a sink counts as one more place.
        backend: "auto", "cpu", "cuda" or "reference".

    Returns:
        Sums, how many queries see each key, and entropies.

    Raises:
        ArgumentError, DtypeError, BackendError: as `moments`; on the CPU also a group above
            `groups`. On CUDA, where to look would be to wait, such a query is left out.
    """
    was_tensor = isinstance(query, Tensor)
    query, key, mask, sinks, bias, group = as_tensors(
        query=query, key=key, mask=mask, sinks=sinks, bias=bias, group=group
    )
    call: Any = torch.ops.outdim.attention_received if via_op(query) else _received
    arguments = (
        value.detach() if isinstance(value, Tensor) else value
        for value in (query, key, mask, sinks, bias, group)
    )
    options = scale, causal, window, softcap, groups, entropy, backend
    found = AttentionReceived(*call(*arguments, *options))
    if not entropy:
        found = found._replace(entropy=None)
    if was_tensor:
        return found
    return AttentionReceived(*(None if value is None else value.numpy() for value in found))


def _prepare(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
    bias: Tensor | None,
    group: Tensor | None,
    scale: float | None,
    causal: bool,
    window: int | None,
    softcap: float | None,
    groups: int,
    entropy: bool,
) -> AttentionReceivedCall:
    for name, value in (("query", query), ("key", key)):
        if len(check_hidden(name, value)) != 4:
            raise ArgumentError(f"{name}: expected (B, H, S, d), got {describe(value)}")
    batch, heads, queries, d = query.shape
    keys = key.shape[2]
    check_dtype("key", key, "query", query.dtype)
    if key.shape[0] != batch or key.shape[3] != d or not _divides(key.shape[1], heads):
        raise ArgumentError(
            f"key: expected ({batch}, H, S, {d}) with {heads} a multiple of H, got {describe(key)}"
        )
    _check_numbers(causal, window, softcap, groups, queries, keys)
    shape = (batch, heads, queries, keys)
    if mask is not None:
        check_tensor("mask", mask, (torch.bool,), f"what broadcasts to {shape}", _fits(shape))
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    mask_heads = 1 if mask is None else mask.shape[1]
    mask = None if mask is None else _rows(mask, shape)
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    if bias is not None:
        check_tensor("bias", bias, FLOATS, f"what broadcasts to {shape}", _fits(shape))
        bias = resolved(bias.to(work))
        bias = _rows(bias.reshape((1,) * (4 - bias.dim()) + bias.shape), shape)
    if sinks is not None:
        check_tensor("sinks", sinks, FLOATS, f"({heads},)", lambda t: t.shape == (heads,))
        sinks = resolved(sinks.to(work)).contiguous()
    if group is not None:
        wanted = (batch, queries)
        check_tensor("group", group, (torch.uint8,), f"{wanted}", lambda t: t.shape == wanted)
        group = group.contiguous()
    for name, other in (("key", key), ("mask", mask), ("bias", bias), ("sinks", sinks),
                        ("group", group)):  # fmt: skip
        if other is not None:
            check_device(name, other, "query", query.device)
    query, key = (_contiguous_last(resolved(value)) for value in (query, key))
    new = query.new_zeros
    return AttentionReceivedCall(
        query,
        key,
        d**-0.5 if scale is None else scale,
        softcap or 0.0,
        causal,
        window or 0,
        mask,
        bias,
        sinks,
        group,
        new((batch, groups, heads, keys), dtype=torch.float64),
        new((batch, groups, mask_heads, keys), dtype=torch.int64),
        query.new_full(shape[:3], torch.nan, dtype=torch.float64) if entropy else None,
    )


def _divides(part: int, whole: int) -> bool:
    return part > 0 and whole % part == 0


def _check_numbers(
    causal: bool, window: int | None, softcap: float | None, groups: int, queries: int, keys: int
) -> None:
    if causal and queries != keys:
        raise ArgumentError(
            f"causal: expected as many queries as keys, got {queries} and {keys}; say with `mask` "
            "what each query sees"
        )
    if window is not None and (window < 1 or not causal):
        raise ArgumentError(f"window: expected 1 or more keys, with causal=True, got {window}")
    if softcap is not None and not softcap > 0:
        raise ArgumentError(f"softcap: expected a positive number or None, got {softcap}")
    if not 1 <= groups <= _MAX_GROUPS:
        raise ArgumentError(f"groups: expected 1 to {_MAX_GROUPS}, got {groups}")


def _fits(shape: tuple[int, ...]) -> Any:
    """A check that a tensor broadcasts to `shape`."""

    def fits(value: Tensor) -> bool:
        if value.dim() > len(shape):
            return False
        ends = shape[len(shape) - value.dim() :]
        return all(size in (1, end) for size, end in zip(value.shape, ends, strict=True))

    return fits


def _rows(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Broadcast to `shape` by strides, with contiguous rows."""
    if value.shape[-1] != shape[-1]:
        value = value.expand(*value.shape[:-1], shape[-1])
    return _contiguous_last(value).expand(shape)


def _contiguous_last(value: Tensor) -> Tensor:
    return value if value.stride(-1) == 1 or value.shape[-1] < 2 else value.contiguous()


def _received(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *wanted, backend = arguments
    call = _prepare(*wanted)
    try:
        kernels(choose(backend, call.query)).attention_received(call)
    except IndexError as error:
        raise ArgumentError(f"group: {error}") from error
    return _outputs(call)


def _received_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(_prepare(*arguments[:-1]))


def _outputs(call: AttentionReceivedCall) -> tuple[Tensor, Tensor, Tensor]:
    entropy = call.sums.new_empty(0) if call.entropy is None else call.entropy
    return call.sums, call.seen, entropy


register(
    "attention_received(Tensor query, Tensor key, Tensor? mask, Tensor? sinks, Tensor? bias, "
    "Tensor? group, float? scale, bool causal, int? window, float? softcap, int groups, "
    "bool entropy, str backend) -> (Tensor, Tensor, Tensor)",
    _received,
    _received_fake,
)
