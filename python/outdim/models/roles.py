"""Roles: which calls of a traced forward are the blocks of a model, and what its norms do there."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from outdim.errors import DataError
from outdim.models.norms import Norm, recognise_norm
from outdim.models.points import Point, Side
from outdim.models.trace import BATCH, LENGTH, Call, Trace

Placement = Literal["post", "pre", "branch", "none"]


class Roles:
    """Blocks, norms and points of a model, from the values that went through it.

    blocks: the calls of the blocks, in order. hidden_size: D. norms: by path.
    ends: for each block the call of the norm whose output is the block's, or None.
    reads: for each block the first call of a norm that takes the block's output, or None.
    """

    def __init__(self, model: nn.Module, recorded: Trace) -> None:
        self.model, self.trace = model, recorded
        self.name = type(model).__name__
        self.blocks, first = self._find_blocks()
        self.hidden_size = first.shape[-1]
        self._batch_first = self._is_batch_first(first)
        self._check_finite()
        self.norms = self._find_norms()
        self._norm_calls = [call for call in recorded.calls if call.path in self.norms]
        self.ends = [self._ending(block) for block in self.blocks]
        self.reads = [self._reading(block.output, block.stop) for block in self.blocks]
        self.placement = self._place()

    def points(self) -> Iterable[Point]:
        """Yield the points in the order of the layers."""
        yield self._embeddings()
        post = self.placement == "post"
        for i, block in enumerate(self.blocks):
            norm = self.ends[i] if post else self.reads[i]
            yield self._point(
                f"block.{i}", i + 1, block, "output", norm, "output" if post else "input"
            )
            if (attention := self._attention(block)) is not None:
                yield self._point(f"block.{i}.attention", i + 1, attention)
            if norm is not None:
                yield self._point(f"block.{i}.norm", i + 1, norm, "output", norm)
        if (final := self.reads[-1]) is not None:
            yield self._point("final_norm", len(self.blocks), final, "output", final)

    def _find_blocks(self) -> tuple[list[Call], Tensor]:
        """Return the calls of the blocks, and what the first one takes."""
        found: dict[str, list[Call]] = {}
        for path, module in self.model.named_modules():
            # A list inside a block holds experts or sub-layers.
            inner = any(path.startswith(f"{outer}.") for outer in found)
            if isinstance(module, nn.ModuleList) and len(module) and not inner:
                members = set(module)
                calls = [call for call in self.trace.calls if call.module in members]
                if {call.module for call in calls} == members and _is_chain(calls):
                    found[path] = calls
        if not found:
            raise DataError(
                f"model: {self.name} has no list of blocks each of which takes the output of the "
                "one before, so its hidden states cannot be named; observe it with hooks of your "
                "own and feed outdim.Moments"
            )
        if len(found) > 1:
            raise DataError(
                f"model: {self.name} has several sequences of blocks ({', '.join(found)}); pass "
                "one of its sub-models"
            )
        (blocks,) = found.values()
        first = blocks[0].source
        assert first is not None  # or it were no chain
        return blocks, first

    def _is_batch_first(self, hidden: Tensor) -> bool:
        if hidden.shape[:-1] == (LENGTH, BATCH):
            return False
        tokens = getattr(self.model, "main_input_name", "input_ids") == "input_ids"
        if hidden.dim() != 3 or hidden.shape[0] != BATCH or (tokens and hidden.shape[1] != LENGTH):
            raise DataError(
                f"model: the hidden states of {self.name} have shape {tuple(hidden.shape)} for "
                f"{BATCH} x {LENGTH} tokens, expected [B, S, D]; it merges or splits tokens, so "
                "they have no frequency"
            )
        return True

    def _check_finite(self) -> None:
        for i, call in enumerate(self.blocks):
            if call.output is not None and not bool(torch.isfinite(call.output).all()):
                raise DataError(
                    f"model: the output of block {i} of {self.name} is not finite for ordinary "
                    "tokens; the weights are damaged, or the dtype is too narrow: try "
                    "dtype='float32'"
                )

    def _find_norms(self) -> dict[str, Norm]:
        called = (item for item in self.model.named_modules() if item[0] in self.trace.counts)
        with torch.no_grad():
            found = [recognise_norm(path, module, self.hidden_size) for path, module in called]
        return {norm.path: norm for norm in found if norm is not None}

    def _ending(self, block: Call) -> Call | None:
        inside = (call for call in reversed(self._norm_calls) if block.holds(call))
        return next((call for call in inside if _same(call.output, block.output)), None)

    def _reading(self, hidden: Tensor | None, after: int) -> Call | None:
        later = (call for call in self._norm_calls if call.start > after)
        return next((call for call in later if _same(call.source, hidden)), None)

    def _place(self) -> Placement:
        inner = self.reads[:-1] or self.reads  # a norm after the last block is in no block
        if all(self.ends):
            return "post"
        if not any(self.ends):
            if all(inner):
                return "pre"
            if not any(inner):
                held = any(block.holds(call) for block in self.blocks for call in self._norm_calls)
                return "branch" if held else "none"
        ended = [i for i, call in enumerate(self.ends) if call]
        read = [i for i, call in enumerate(inner) if call]
        raise DataError(
            f"model: {self.name} fits neither post-LN nor pre-LN: of {len(self.blocks)} blocks, "
            f"{ended} end with a norm and the outputs of {read} are read by one; outdim cannot "
            "tell what its layers' norms are"
        )

    def _embeddings(self) -> Point:
        first = self.blocks[0]
        for norm in reversed(self._norm_calls):
            if norm.stop < first.start and _same(norm.output, first.source):
                return self._point("embeddings", 0, first, "input", norm)
        reading = self._reading(first.source, first.start) if self.placement == "pre" else None
        return self._point("embeddings", 0, first, "input", reading, "input")

    def _attention(self, block: Call) -> Call | None:
        """Find the outermost attention module whose output is added to what the block takes.

        The sum has to be what a later module of the block takes, to the bit; where the branches
        are parallel (GPT-NeoX) no such tensor exists.
        """
        hidden = block.source
        assert hidden is not None
        inside = [call for call in self.trace.calls if block.holds(call)]
        for call in inside:
            named = "att" in f"{call.path}{type(call.module).__name__}".lower()
            if named and call.output is not None and call.output.shape == hidden.shape:
                total = hidden + call.output
                if any(call.stop < c.start and _same(total, c.source) for c in inside):
                    return call
        return None

    def _point(
        self,
        name: str,
        layer: int,
        call: Call,
        side: Side = "output",
        norm: Call | None = None,
        norm_side: Side = "output",
    ) -> Point:
        return Point(
            name=name,
            layer=layer,
            module=call.path,
            call=call.index,
            calls=self.trace.counts[call.path],
            side=side,
            norm=norm.path if norm else None,
            norm_side=norm_side,
            norm_call=norm.index if norm else 0,
            norm_calls=self.trace.counts[norm.path] if norm else 1,
            residual=self._residual(norm) if norm and norm_side == "output" else None,
            batch_first=self._batch_first,
        )

    def _residual(self, norm: Call) -> str | None:
        """Return the module around `norm` if it is BERT's norm(dropout(dense(x)) + residual)."""
        path = norm.path.rpartition(".")[0]
        around = [call for call in self.trace.calls if call.path == path and call.holds(norm)]
        for parent in around:
            names = {name for name, _ in parent.module.named_children()}
            if names != {"dense", "dropout", "LayerNorm"} or len(parent.tensors) != 2:
                return None
            x, residual = parent.tensors
            dense = next(call for call in self.trace.calls if call.path == f"{path}.dense")
            if dense.output is None or not _same(x, dense.source):
                return None
            sums = _same(dense.output + residual, norm.source)
            return path if sums and _same(parent.output, norm.output) else None
        return None


def _is_chain(calls: list[Call]) -> bool:
    """Whether each call takes the hidden states that the one before gave, all of one shape."""
    if any(c.source is None or c.output is None or c.source.shape != c.output.shape for c in calls):
        return False
    return all(
        left.stop < right.start and _same(left.output, right.source)
        for left, right in pairwise(calls)
    )


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two copies are of one tensor, up to flattening [B, S, D] to rows.

    Equal bits stand for identity: two tensors of a model do not agree in 10 x D values by chance.
    """
    if left is None or right is None or left.dtype != right.dtype:
        return False
    if left.shape[-1] != right.shape[-1] or left.numel() != right.numel():
        return False
    bits = [tensor.contiguous().view(torch.uint8).flatten() for tensor in (left, right)]
    return torch.equal(*bits)
