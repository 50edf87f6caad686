"""Observe the attention of a model while it runs, beside what it computes itself."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from outdim.errors import DataError
from outdim.models.architecture import Architecture, architecture, check_model
from outdim.models.observe import observe
from outdim.models.points import Point
from outdim.models.trace import alone, dummy_inputs
from outdim.models.unchanged import unchanged
from outdim.ops import AttentionReceived, attention_received

#: What runs the model; others have masks of their own kind.
_KNOWN = ("sdpa", "eager")
_NUMBERS = itertools.count()


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one layer in one forward: what goes into its softmax.

    Attributes:
        layer: 1 for the first block: the layer reads the states of the point before.
        query: [B, Hq, S, d], as it is multiplied: rotated, normalised.
        key, value: [B, Hkv, S, d].
        scale: Of the products.
        mask: bool, True where a query sees a key, broadcast to [B, Hq, S, S]; None: all.
        causal: A query sees the keys up to its own.
        bias: Added to the scores; None for nothing.
        softcap: Bound of the scores; None for none.
        sinks: [Hq] scores of nothing (gpt-oss); None for none.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    mask: Tensor | None = None
    causal: bool = False
    bias: Tensor | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    def received(
        self, group: Tensor | None = None, groups: int = 1, *, entropy: bool = False
    ) -> AttentionReceived:
        """What each key receives, as `outdim.ops.attention_received`; nothing is materialised."""
        return attention_received(
            self.query,
            self.key,
            scale=self.scale,
            mask=self.mask,
            causal=self.causal,
            softcap=self.softcap,
            sinks=self.sinks,
            bias=self.bias,
            group=group,
            groups=groups,
            entropy=entropy,
        )

    def weights(self) -> Tensor:
        """[B, Hq, S, S] float32: the whole matrix, for a few short sentences."""
        heads, keys = self.query.shape[1], self.key.shape[2]
        key = self.key.repeat_interleave(heads // self.key.shape[1], 1)
        scores = self.query.float() @ key.float().mT * self.scale
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.float()[:, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], -1)
        return scores.softmax(-1)[..., :keys]


@contextmanager
def observe_attention(
    model: nn.Module,
    sink: Callable[[Attention], object],
    *,
    found: Architecture | None = None,
) -> Iterator[tuple[int, ...]]:
    """Hand the attention of each layer to `sink` while the model runs.

    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    >>> model, sums = BertModel(config).eval(), []
    >>> with torch.inference_mode(), observe_attention(model, lambda a: sums.append(a.received())):
    ...     output = model(torch.tensor([[1, 2, 3]]))
    >>> [s.sums.shape for s in sums]  # batch, groups of queries, heads, keys
    [torch.Size([1, 1, 2, 3]), torch.Size([1, 1, 2, 3])]

    The model goes on with the attention that it has, SDPA or eager, and its outputs keep every bit:
    for as long as the context lasts its config names a function of our own in transformers'
    registry of attention functions, and the mask function that belongs to the one it had, and ours
    calls that one. Nothing that other models use is replaced.

    Args:
        model: a transformers model of text whose attention goes through that registry.
        sink: called with the `Attention` of a layer when its queries and keys are known: after the
            point before (``embeddings``, ``block.0``, ...) and before that of the layer itself.
            Cross-attention is left out.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        A context manager with the layers that have attention.

    Raises:
        DataError: no attention of the model goes through the registry (XLNet, DeBERTa-v2, Falcon,
            Bloom, GPT-J and others have attention of their own); or it runs neither SDPA nor eager.
    """
    check_model(model)
    found = architecture(model) if found is None else found
    heads = attention_heads(model, found)
    with _observed(model, found.select(None)[:-1], sink):
        yield tuple(heads)


def attention_heads(model: nn.Module, found: Architecture) -> dict[int, int]:
    """How many heads of queries the layers have whose attention can be seen, by a small forward.

    Raises:
        DataError: see `observe_attention`.
    """
    heads: dict[int, int] = {}

    def count(attention: Attention) -> None:
        heads[attention.layer] = attention.query.shape[1]

    # Hooks that others have put on the model are out of the way.
    with alone(model), unchanged(model), torch.no_grad():  # noqa: SIM117
        with _observed(model, found.select(None)[:-1], count):
            model(**dummy_inputs(model))
    if not heads:
        raise DataError(
            f"model: the attention of {type(model).__name__} does not go through transformers' "
            "registry (AttentionInterface), so outdim cannot see queries and keys; models like "
            "BERT, RoBERTa, GPT-2, OPT, Llama, Gemma or T5's encoder can be looked at"
        )
    return heads


@contextmanager
def _observed(
    model: nn.Module, before: Sequence[Point], sink: Callable[[Attention], object]
) -> Iterator[None]:
    reading: int | None = None  # the layer whose attention comes next

    def enter(point: Point, hidden: Tensor) -> None:
        nonlocal reading
        reading = point.layer + 1

    def attend(*args: Any, **kwargs: Any) -> None:
        nonlocal reading
        if reading is not None:
            layer, reading = reading, None  # what comes after it is cross-attention
            sink(_attention(layer, *args, **kwargs))

    with observe(model, before, enter), _registered(model, attend):
        yield


@contextmanager
def _registered(model: nn.Module, attend: Callable[..., None]) -> Iterator[None]:
    """Let the attention of `model` call `attend` with the name of what it runs and its inputs."""
    from transformers import AttentionInterface, AttentionMaskInterface

    named = "_attn_implementation_internal"
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    distinct = {id(config): config for config in configs if hasattr(config, named)}.values()
    kept = [(config, getattr(config, named)) for config in distinct]
    names: dict[str, str] = {}
    try:
        for config, implementation in kept:
            running = implementation or "eager"
            if _kind(running) not in _KNOWN:
                raise DataError(
                    f"model: expected one that runs {' or '.join(_KNOWN)} attention, got "
                    f"{running}; call model.set_attn_implementation('sdpa')"
                )
            if running not in names:
                # The name of the one that runs is part of it: transformers looks for such names.
                names[running] = f"outdim-{next(_NUMBERS)}-{running}"
                masks: Any = AttentionMaskInterface()[running]
                AttentionInterface.register(names[running], _beside(running, attend))
                AttentionMaskInterface.register(names[running], masks)
            config._attn_implementation_internal = names[running]
        yield
    finally:
        for config, implementation in kept:
            config._attn_implementation_internal = implementation
        for name in names.values():
            AttentionInterface._global_mapping.pop(name, None)
            AttentionMaskInterface._global_mapping.pop(name, None)


def _kind(running: str) -> str:
    """What runs in the end, also within a context of ours: ``outdim-0-sdpa`` runs sdpa."""
    return running.rpartition("-")[2]


def _beside(running: str, attend: Callable[..., None]) -> Callable[..., Any]:
    """An attention function that runs the one of that name, and shows what it gets to `attend`."""

    def attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        attend(running, module, *args, **kwargs)
        return _function(running, module)(module, *args, **kwargs)

    return attention


def _function(running: str, module: nn.Module) -> Callable[..., Any]:
    """What `module` would call: its file may have a registry of its own, and has the eager one."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for kind in type(module).__mro__:
        file = sys.modules[kind.__module__]
        eager = getattr(file, "eager_attention_forward", None)
        if eager is not None:
            registry: Any = getattr(file, "ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
            function: Callable[..., Any] = registry.get_interface(running, eager)
            return function
    raise DataError(f"model: the file of {type(module).__name__} has no eager_attention_forward")


def _attention(
    layer: int,
    running: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> Attention:
    """What an attention function of transformers makes of its arguments.

    SDPA takes a mask that is not there for causality, as `sdpa_attention_forward` does; eager takes
    it for none. A float mask is added to the scores and hides what is near its type's minimum.
    """
    mask, bias, causal = attention_mask, position_bias, False
    if mask is None and _kind(running) == "sdpa" and query.shape[2] > 1:
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if mask is not None and mask.dtype != torch.bool:
        bias = mask if bias is None else bias + mask
        mask = mask > torch.finfo(mask.dtype).min / 2
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return Attention(layer, query, key, value, scale, mask, causal, bias, softcap, s_aux)
