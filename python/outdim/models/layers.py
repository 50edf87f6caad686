"""The layers of a model: its sequence of blocks, and what stands between them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import nn

from outdim.errors import DataError
from outdim.models.trace import Call, Trace, same


class Layer(NamedTuple):
    """One layer: the call of its block, and the call whose output the next block takes.

    They are the same, but where a module stands between two blocks (the convolution of DeBERTa-v2).
    """

    block: Call
    end: Call


def find_layers(model: nn.Module, recorded: Trace) -> tuple[list[Layer], str]:
    """Return the layers of a model, and why their hidden states cannot be named, or "".

    The blocks are the members of a `ModuleList`, each of which takes what the one before gave.

    Raises:
        DataError: There are several such sequences, or no list at all.
    """
    lists = _outer_lists(model, recorded)
    chains = {path: layers for path, calls in lists.items() if (layers := _chain(calls, recorded))}
    name = type(model).__name__
    if len(chains) > 1:
        raise DataError(
            f"model: {name} has several sequences of blocks ({', '.join(chains)}); pass one of its "
            "sub-models"
        )
    if chains:
        return next(iter(chains.values())), ""
    if not lists:
        raise DataError(f"model: {name} has no list of blocks (nn.ModuleList) that it calls")
    # Of lists of parts (XLM keeps attentions, norms and the rest apart), the one that comes last.
    calls = max(lists.values(), key=lambda calls: (calls[-1].source is not None, calls[-1].stop))
    return [Layer(call, call) for call in calls], (
        f"{name} has no list of blocks each of which takes the output of the one before; observe "
        "it with hooks of your own and feed outdim.Moments"
    )


def _outer_lists(model: nn.Module, recorded: Trace) -> dict[str, list[Call]]:
    """The calls of the members of each list all of whose members are called, by path."""
    found: dict[str, list[Call]] = {}
    for path, module in model.named_modules():
        # A list inside a block holds experts or sub-layers.
        inner = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inner:
            members = set(module)
            calls = [call for call in recorded.calls if call.module in members]
            if {call.module for call in calls} == members:
                found[path] = calls
    return found


def _chain(calls: list[Call], recorded: Trace) -> list[Layer] | None:
    """The layers if each call takes what the one before gave, all of one shape; else None."""
    if any(c.source is None or c.output is None or c.source.shape != c.output.shape for c in calls):
        return None
    layers = []
    for left, right in pairwise(calls):
        end = left if same(left.output, right.source) else _between(left, right, recorded)
        if left.stop >= right.start or end is None:
            return None
        layers.append(Layer(left, end))
    return [*layers, Layer(calls[-1], calls[-1])]


def _between(left: Call, right: Call, recorded: Trace) -> Call | None:
    """The call between two blocks that takes the output of the one and gives what the other takes.

    The outermost of them.
    """
    between = (c for c in recorded.calls if left.stop < c.start and c.stop < right.start)
    for call in between:
        takes = any(same(left.output, tensor) for tensor in call.tensors)
        if takes and same(call.output, right.source):
            return call
    return None
