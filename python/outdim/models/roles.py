"""Roles: which calls of a traced forward are the blocks of a model, and what its norms do there."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from outdim.errors import DataError
from outdim.models.branches import find_branches
from outdim.models.layers import find_layers
from outdim.models.norms import Norm, recognise_norm
from outdim.models.points import Point, Side
from outdim.models.trace import BATCH, LENGTH, Call, Trace, alone, same

Placement = Literal["post", "pre", "branch", "none", "unknown"]


class Roles:
    """Blocks, norms and points of a model, from the values that went through it.

    Attributes:
        layers: The layers in order: the call of a block, and the call that gives what the next
            block takes, mostly the same one.
        unnamed: Why the hidden states cannot be named, "" where they can.
        hidden_size: D.
        norms: By path.
        ends: For each block the call of the norm whose output is the block's, or None.
        reads: For each layer the first call of a norm that takes its output, or None.
        placement: See `Architecture`.
    """

    def __init__(self, model: nn.Module, recorded: Trace) -> None:
        self.model, self.trace = model, recorded
        self.name = type(model).__name__
        self.layers, self.unnamed = find_layers(model, recorded)
        first = self.layers[0].block.source
        if first is None:
            raise DataError(
                f"model: {self.name} has no list of blocks that take and give hidden states; "
                "observe it with hooks of your own and feed outdim.Moments"
            )
        self.hidden_size = first.shape[-1]
        self._batch_first = self._is_batch_first(first)
        self._check_finite()
        self.norms = self._find_norms()
        self._norm_calls = [call for call in recorded.calls if call.path in self.norms]
        self.ends = [self._ending(layer.block) for layer in self.layers]
        self.reads = [self._reading(layer.end.output, layer.end.stop) for layer in self.layers]
        self.placement = self._place()

    def points(self) -> Iterable[Point]:
        """Yield the points in the order of the layers; none where they cannot be named."""
        if self.unnamed:
            return
        yield self._embeddings()
        post = self.placement == "post"
        for i, layer in enumerate(self.layers):
            norm = self._ending(layer.end) if post else self.reads[i]
            yield self._point(
                f"block.{i}", i + 1, layer.end, "output", norm, "output" if post else "input"
            )
            yield from self._branches(i, layer.block)
            if norm is not None:
                yield self._point(f"block.{i}.norm", i + 1, norm, "output", norm)
        if (final := self.reads[-1]) is not None:
            yield self._point("final_norm", len(self.layers), final, "output", final)

    def _branches(self, i: int, block: Call) -> Iterable[Point]:
        """Yield what is added to the hidden state within a block, and the sums that norms take."""
        ending = self.ends[i]
        end = block.output if ending is None else ending.source
        found = find_branches(block, end, self.trace.calls)
        for name, call in (("attention", found.attention), ("mlp", found.mlp)):
            if call is not None:
                flat_in = _flat_in(block, call.output)
                yield self._point(f"block.{i}.{name}", i + 1, call, flat_in=flat_in)
        for name, norm in (("attention", found.taker), ("mlp", ending)):
            if norm is not None and norm.path in self.norms:
                flat_in = _flat_in(block, norm.source)
                yield self._point(f"block.{i}.{name}.sum", i + 1, norm, "input", flat_in=flat_in)

    def enders(self) -> Iterable[Point]:
        """Yield the norms that give the hidden state of a layer, in the order of the layers."""
        ends = [self._of_embeddings(), *(self._ending(layer.end) for layer in self.layers)]
        yield from self._norm_points(enumerate(ends))

    def readers(self) -> Iterable[Point]:
        """Yield the norms that take the hidden state of a layer, alone or with a branch added."""
        found: list[tuple[int, Call | None]] = []
        states = [self.layers[0].block.source, *(layer.end.output for layer in self.layers)]
        blocks = [layer.block for layer in self.layers]
        for i, hidden in enumerate(states):
            within = blocks[i] if i < len(blocks) else None
            for norm in self._norm_calls:
                inside = within is not None and (norm is within or within.holds(norm))
                after = within is None and norm.start > blocks[-1].stop
                if (inside or after) and self._takes(norm, hidden, within):
                    found.append((i, norm))
        ends = {id(call) for call in self.ends}
        yield from self._norm_points((i, norm) for i, norm in found if id(norm) not in ends)

    def _norm_points(self, norms: Iterable[tuple[int, Call | None]]) -> Iterable[Point]:
        for layer, norm in norms if not self.unnamed else ():
            if norm is not None:
                yield self._point("norm", layer, norm)

    def _takes(self, norm: Call, hidden: Tensor | None, block: Call | None) -> bool:
        """Whether a norm takes a hidden state itself, or with a branch of its block added.

        The sum of both is what another module gave (and the norm takes), or it is one to the bit.
        """
        assert hidden is not None
        if same(norm.source, hidden):
            return True
        inside = (c for c in self.trace.calls if block is not None and block.holds(c))
        for branch in inside:
            if branch.stop > norm.start or branch.output is None:
                continue
            if branch.output.numel() != hidden.numel():
                continue
            given_both = any(same(tensor, hidden) for tensor in branch.tensors[1:])
            if given_both and same(branch.output, norm.source):
                return True
            if same(hidden + branch.output.reshape(hidden.shape), norm.source):
                return True
        return False

    def layer_norms(self) -> list[tuple[int, str]]:
        """Layer and path of the norms in which outlier dimensions are looked for.

        Post-LN: the norm that ends the block; pre-LN: the one that reads its output. Where blocks
        are no chain, so that neither can be told: the last norm in each.
        """
        calls: list[Call | None] = []
        if self.placement == "unknown":
            calls = [self._last_in(layer.block) for layer in self.layers]
        elif self.placement in ("post", "pre"):
            calls = self.ends if self.placement == "post" else self.reads
        return [(i + 1, call.path) for i, call in enumerate(calls) if call is not None]

    def hidden_states(self) -> dict[str, int]:
        """Of points that transformers gives too, the index in its ``hidden_states``."""
        tensors = {"embeddings": self.layers[0].block.source}
        tensors |= {f"block.{i}": layer.end.output for i, layer in enumerate(self.layers)}
        if self.reads[-1] is not None:
            tensors["final_norm"] = self.reads[-1].output
        found = {}
        for name, tensor in tensors.items() if not self.unnamed else ():
            assert tensor is not None
            tensor = tensor if self._batch_first else tensor.transpose(0, 1)
            tensor = tensor[:, :LENGTH]  # it may be padded inside
            given = enumerate(self.trace.hidden_states)
            index = next((i for i, state in given if same(tensor, state)), None)
            if index is not None:
                found[name] = index
        return found

    def _last_in(self, block: Call) -> Call | None:
        held = (c for c in reversed(self._norm_calls) if c is block or block.holds(c))
        return next(held, None)

    def _is_batch_first(self, hidden: Tensor) -> bool:
        if hidden.shape[:-1] == (LENGTH, BATCH):
            return False
        tokens = getattr(self.model, "main_input_name", "input_ids") == "input_ids"
        batched = hidden.dim() == 3 and hidden.shape[0] == BATCH
        if not self.unnamed and (
            not batched
            or (tokens and hidden.shape[1] != LENGTH and not self._is_padded_inside(hidden))
        ):
            self.unnamed = (
                f"the hidden states of {self.name} have shape {tuple(hidden.shape)} for "
                f"{BATCH} x {LENGTH} tokens, expected [B, S, D]: it merges or splits tokens, so "
                "they have no frequency"
            )
        return True

    def _is_padded_inside(self, hidden: Tensor) -> bool:
        """Whether the model puts padding behind the tokens, and takes it away in the end."""
        last, output = self.layers[-1].end, self.trace.output
        if output is None or output.shape[1] != LENGTH < hidden.shape[1]:
            return False
        after = (call for call in self.trace.calls if call.stop >= last.stop)
        return any(
            call.output is not None
            and call.output.dim() == 3
            and same(call.output[:, :LENGTH], output)
            for call in after
        )

    def _check_finite(self) -> None:
        for i, layer in enumerate(self.layers):
            hidden = layer.end.output
            if hidden is not None and not bool(torch.isfinite(hidden).all()):
                named = self.model.named_parameters()
                bad = [name for name, p in named if not bool(torch.isfinite(p).all())]
                damaged = f": {len(bad)} tensors hold NaN or inf, such as {bad[0]}" if bad else ""
                raise DataError(
                    f"model: the output of block {i} of {self.name} is not finite for ordinary "
                    f"tokens{damaged or '; the dtype is too narrow: try float32'}"
                )

    def _find_norms(self) -> dict[str, Norm]:
        called = (item for item in self.model.named_modules() if item[0] in self.trace.counts)
        with torch.no_grad(), alone(self.model):
            found = [recognise_norm(path, module, self.hidden_size) for path, module in called]
        return {norm.path: norm for norm in found if norm is not None}

    def _ending(self, block: Call) -> Call | None:
        inside = (call for call in reversed(self._norm_calls) if block.holds(call))
        return next((call for call in inside if same(call.output, block.output)), None)

    def _reading(self, hidden: Tensor | None, after: int) -> Call | None:
        later = (call for call in self._norm_calls if call.start > after)
        return next((call for call in later if same(call.source, hidden)), None)

    def _place(self) -> Placement:
        if self.unnamed:
            return "unknown"
        inner = self.reads[:-1] or self.reads  # a norm after the last block is in no block
        if all(self.ends):
            return "post"
        if not any(self.ends):
            if all(inner):
                return "pre"
            if not any(inner):
                blocks = [layer.block for layer in self.layers]
                held = any(block.holds(call) for block in blocks for call in self._norm_calls)
                return "branch" if held else "none"
        ended = [i for i, call in enumerate(self.ends) if call]
        read = [i for i, call in enumerate(inner) if call]
        raise DataError(
            f"model: {self.name} fits neither post-LN nor pre-LN: of {len(self.layers)} blocks, "
            f"{ended} end with a norm and the outputs of {read} are read by one; outdim cannot "
            "tell what its layers' norms are"
        )

    def _embeddings(self) -> Point:
        first = self.layers[0].block
        if (norm := self._of_embeddings()) is not None:
            return self._point("embeddings", 0, first, "input", norm)
        reading = self._reading(first.source, first.start) if self.placement == "pre" else None
        return self._point("embeddings", 0, first, "input", reading, "input")

    def _of_embeddings(self) -> Call | None:
        """Find the norm whose output is what the first block takes."""
        first = self.layers[0].block
        before = (call for call in reversed(self._norm_calls) if call.stop < first.start)
        return next((call for call in before if same(call.output, first.source)), None)

    def _point(
        self,
        name: str,
        layer: int,
        call: Call,
        side: Side = "output",
        norm: Call | None = None,
        norm_side: Side = "output",
        flat_in: str | None = None,
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
            flat_in=flat_in,
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
            if dense.output is None or not same(x, dense.source):
                return None
            sums = same(dense.output + residual, norm.source)
            return path if sums and same(parent.output, norm.output) else None
        return None


def _flat_in(block: Call, tensor: Tensor | None) -> str | None:
    """The path of a block inside which a tensor has another shape than what the block takes."""
    assert tensor is not None
    assert block.source is not None
    return None if tensor.shape == block.source.shape else block.path
