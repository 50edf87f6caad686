"""Points: the tensors of a model that can be observed or edited, by name."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Point:
    """One tensor of a model's forward pass.

    Attributes:
        name: `embeddings` (what enters the first block: Hugging Face's `hidden_states[0]`),
            `block.i` (the hidden state after block i: `hidden_states[i + 1]`, but for the last one
            of pre-LN models, which is `final_norm` there), `block.i.attention` and `block.i.mlp`
            (what the attention and the feed-forward part add to the hidden state, in eval mode),
            `block.i.attention.sum` and, in post-LN models, `block.i.mlp.sum` (the hidden state with
            it added, where a norm takes that), `block.i.norm` (the output of the norm that ends the
            block or, in pre-LN models, reads its output), `final_norm` (the output of a norm after
            all blocks).
        layer: 0 for the embeddings, i + 1 for block i, the number of blocks for `final_norm`.
        module: Qualified path of the module that is hooked.
        call: Index of the call of that module within one forward.
        calls: How often it is called there (a module that all layers share, as in ALBERT, is called
            once a layer).
        side: Whether the point is the input or the output of the module.
        norm: Path of the norm whose output or input (`norm_side`) is this very tensor, or None: the
            norm that ends the block (post-LN) or that reads the residual stream (pre-LN).
        norm_side: Which of the two.
        norm_call: As `call`, for the norm.
        norm_calls: As `calls`, for the norm.
        residual: Path of the module that computes norm(dense(x) + residual) with that norm, or
            None.
        batch_first: False where the tensor is [S, B, D] inside the model (XLNet); it is handed out
            as [B, S, D] all the same.
        flat_in: Path of the block inside which the tensor is [B * S, D] (OPT), or None; it is
            handed out in the shape of what the block takes all the same.
    """

    name: str
    layer: int
    module: str
    call: int = 0
    calls: int = 1
    side: Side = "output"
    norm: str | None = None
    norm_side: Side = "output"
    norm_call: int = 0
    norm_calls: int = 1
    residual: str | None = None
    batch_first: bool = True
    flat_in: str | None = None


def first_hidden(value: Any) -> torch.Tensor | None:
    """Return the hidden states in `value`: its first float tensor of two or more dimensions.

    Transformer blocks take their hidden states first and return them alone or first in a tuple.
    """
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() and value.dim() >= 2 else None
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for item in value:
            if isinstance(item, torch.Tensor) and (found := first_hidden(item)) is not None:
                return found
    return None


def first_hidden_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    """Return the hidden states among the arguments of a call: positional ones first."""
    found = first_hidden(args)
    return first_hidden(kwargs) if found is None else found


def with_hidden(value: Any, hidden: torch.Tensor) -> Any:
    """Return `value` with `hidden` in the place of what `first_hidden` finds in it."""
    if isinstance(value, torch.Tensor):
        return hidden
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        changed[next(key for key, item in value.items() if _holds_hidden(item))] = hidden
        return changed
    items = list(value)
    place = next(i for i, item in enumerate(items) if _holds_hidden(item))
    items[place] = hidden
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _holds_hidden(item: Any) -> bool:
    return isinstance(item, torch.Tensor) and first_hidden(item) is not None
