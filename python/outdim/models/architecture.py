"""Architecture: which modules of a model are its blocks and norms, found by what they do in a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from outdim.errors import ArgumentError, DataError
from outdim.models.norms import Norm, recognise_norm
from outdim.models.points import Point, Side
from outdim.models.trace import BATCH, LENGTH, Call, Trace, trace

Placement = Literal["post", "pre", "branch", "none"]

_NOTES = {
    "post": "",
    "pre": "Pre-LN: no norm ends a layer; gamma and beta are those of the norm that reads its output.",
    "none": "There is no LayerNorm or RMSNorm in the layers.",
    "branch": "Norms end the branches inside a layer; none ends a layer or reads its output.",
}
_SHARED_NOTE = "All layers share one norm: agreement between layers says nothing."


class NormParameters(NamedTuple):
    """Parameters of the norm that goes with the output of a layer.

    layer: 1 for the first block. path: of the norm module. gamma: [D] as applied (Gemma's 1 + weight), dtype
    of the model, or float32. beta: [D], or None for RMSNorm and norms without bias.
    """

    layer: int
    path: str
    gamma: Tensor
    beta: Tensor | None


@dataclass(frozen=True, eq=False)
class Architecture:
    """The points of a model and the norms at them.

    family: `config.model_type`. placement: "post" (a norm ends each block), "pre" (norms read the residual
    stream), "branch" (norms only end the branches, as in OLMo-2), "none" (no norm in the blocks). hidden_size: D. vocab_size: that of the config, 0
    without. points: by name, in the order of the forward pass. modules: norm modules by path.
    shared_norms: whether all layers share one norm (ALBERT), so that "in half of the layers" says nothing.
    norms_note: what a reader of `norms()` has to know, "" where there is nothing.
    """

    family: str
    placement: Placement
    hidden_size: int
    vocab_size: int
    points: dict[str, Point]
    modules: dict[str, Norm]
    shared_norms: bool
    norms_note: str

    def blocks(self) -> tuple[Point, ...]:
        """The hidden states after each block, in order."""
        return tuple(
            p
            for name, p in self.points.items()
            if name.startswith("block.") and name.count(".") == 1
        )

    def norms(self) -> list[NormParameters]:
        """The parameters that the search for outlier dimensions reads, one entry a layer.

        Post-LN: of the norm that ends the block (Kovaleva et al. 2021, section 3). Pre-LN, where there is no
        such norm: of the one that reads the block's output, in the next block or after the last. Layers
        without, or with a norm without parameters, are left out; a model whose norms only end branches has none.
        """
        if self.placement not in ("post", "pre"):
            return []
        found = []
        for point in self.blocks():
            if point.norm is not None and (gamma := self.modules[point.norm].gamma) is not None:
                found.append(
                    NormParameters(point.layer, point.norm, gamma, self.modules[point.norm].beta)
                )
        return found

    def select(self, points: Sequence[str | Point] | None) -> tuple[Point, ...]:
        """Return the points of these names; None: the embeddings and every block.

        Raises ArgumentError for a name that is not there, with those that are.
        """
        if points is None:
            return (self.points["embeddings"], *self.blocks())
        names = [point if isinstance(point, str) else point.name for point in points]
        if unknown := [name for name in names if name not in self.points]:
            raise ArgumentError(
                f"points: this {self.family} model has no {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self.points)}"
            )
        return tuple(
            self.points[n] if isinstance(p, str) else p for n, p in zip(names, points, strict=True)
        )


def architecture(model: nn.Module) -> Architecture:
    """Find blocks and norms of a Hugging Face model by their role, and name the points.

    A forward pass over ten dummy tokens records what goes into and comes out of every module. The blocks are
    the members of a `ModuleList` (or the one member that is called again and again, as in ALBERT) each of
    which takes exactly what the one before gave. A norm whose output is the output of its block ends it
    (post-LN); a norm that takes the output of the block before reads the residual stream (pre-LN). Names
    play no part: `final_layer_norm` is the one in BART and the other in OPT.

    >>> from transformers import GPT2Config, GPT2Model
    >>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=30))
    >>> found = architecture(model)
    >>> found.placement, found.points["block.0"].norm, found.points["block.1"].norm
    ('pre', 'h.1.ln_1', 'ln_f')

    Raises:
        ArgumentError: `model` is no transformers model, or one that is wrapped or compiled.
        DataError: it is an encoder-decoder, it does not run on dummy inputs, or no modules with these roles
            are found in it.
    """
    base, prefix = _base_model(model)
    return _Roles(base, prefix, trace(base)).resolve()


def check_model(model: nn.Module) -> None:
    """Raise ArgumentError unless `model` is a transformers model that hooks can follow."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        inner = next((name for name in ("module", "_orig_mod") if hasattr(model, name)), None)
        hint = f"; pass the model inside, .{inner}" if inner else ", as outdim.load_model gives it"
        raise ArgumentError(
            f"model: expected a transformers PreTrainedModel, got {type(model).__name__}{hint}"
        )
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        raise ArgumentError(
            "model: expected a model that is not compiled, got one after model.compile(); compile later"
        )


def _base_model(model: nn.Module) -> tuple[nn.Module, str]:
    """The model without its head, and its path with a dot at the end."""
    check_model(model)
    base: Any = model.base_model
    if (
        hasattr(base, "encoder")
        and hasattr(base, "decoder")
        and getattr(base.config, "is_encoder_decoder", False)
    ):
        raise DataError(
            f"model: {type(base).__name__} has an encoder and a decoder, two sequences of blocks; pass "
            "model.get_encoder() or model.get_decoder(). Points observed there fire in a run of the whole model too"
        )
    prefix = next(path for path, module in model.named_modules() if module is base)
    return base, f"{prefix}." if prefix else ""


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two copies are of one tensor, up to flattening [B, S, D] to rows.

    Equal bits stand for identity: two tensors of a model do not have the same 10 x D values by chance.
    """
    if left is None or right is None or left.dtype != right.dtype:
        return False
    if left.shape[-1] != right.shape[-1] or left.numel() != right.numel():
        return False
    bits = [tensor.contiguous().view(torch.uint8).flatten() for tensor in (left, right)]
    return torch.equal(*bits)


class _Roles:
    """Roles of the modules in one traced forward."""

    def __init__(self, model: nn.Module, prefix: str, recorded: Trace) -> None:
        self.model, self.prefix, self.trace = model, prefix, recorded
        self.name = type(model).__name__
        self.blocks = self._find_blocks()
        first = self.blocks[0].source
        assert first is not None
        self.hidden_size = first.shape[-1]
        self.batch_first = self._layout(first)
        self._check_finite()
        self.norms = self._find_norms()
        self.norm_calls = [call for call in recorded.calls if call.path in self.norms]

    def _find_blocks(self) -> list[Call]:
        found: list[tuple[str, list[Call]]] = []
        for path, module in self.model.named_modules():
            if not isinstance(module, nn.ModuleList) or not len(module):
                continue
            if any(path.startswith(f"{outer}.") for outer, _ in found):
                continue  # a list inside a block: experts, sub-layers
            members = set(module)
            calls = [call for call in self.trace.calls if call.module in members]
            if {call.module for call in calls} == members and _is_chain(calls):
                found.append((path, calls))
        if not found:
            raise DataError(
                f"model: {self.name} has no list of blocks each of which takes the output of the one before; "
                "its hidden states cannot be named. Observe it with hooks of your own and outdim.Moments"
            )
        if len(found) > 1:
            paths = ", ".join(path for path, _ in found)
            raise DataError(
                f"model: {self.name} has several sequences of blocks ({paths}); pass one of its sub-models"
            )
        return found[0][1]

    def _layout(self, hidden: Tensor) -> bool:
        """Whether the batch is the first dimension of the hidden states."""
        if hidden.dim() == 3 and hidden.shape[:2] == (LENGTH, BATCH):
            return False
        tokens = getattr(self.model, "main_input_name", "input_ids") == "input_ids"
        if hidden.dim() != 3 or hidden.shape[0] != BATCH or (tokens and hidden.shape[1] != LENGTH):
            raise DataError(
                f"model: the hidden states of {self.name} have shape {tuple(hidden.shape)} for {BATCH} x {LENGTH} "
                "tokens, expected [B, S, D]; it merges or splits tokens, so they have no frequency"
            )
        return True

    def _check_finite(self) -> None:
        for i, call in enumerate(self.blocks):
            if call.output is None or not bool(torch.isfinite(call.output).all()):
                raise DataError(
                    f"model: the output of block {i} of {self.name} is not finite for ordinary tokens; the "
                    "weights are damaged or the dtype is too narrow, try dtype='float32'"
                )

    def _find_norms(self) -> dict[str, Norm]:
        norms: dict[str, Norm] = {}
        with torch.no_grad():
            for path, module in self.model.named_modules():
                if path in self.trace.counts and (
                    norm := recognise_norm(path, module, self.hidden_size)
                ):
                    norms[path] = norm
        return norms

    def _ending(self, block: Call) -> Call | None:
        """The norm whose output leaves the block."""
        return next(
            (
                c
                for c in reversed(self.norm_calls)
                if block.holds(c) and _same(c.output, block.output)
            ),
            None,
        )

    def _reading(self, hidden: Tensor | None, after: int) -> Call | None:
        """The first norm that takes this tensor after it came about."""
        return next(
            (c for c in self.norm_calls if c.start > after and _same(c.source, hidden)), None
        )

    def resolve(self) -> Architecture:
        """Name the points, and decide where the norms are."""
        ends = [self._ending(block) for block in self.blocks]
        reads = [self._reading(block.output, block.stop) for block in self.blocks]
        placement = self._placement(ends, reads)
        points = [self._embeddings(placement)]
        for i, block in enumerate(self.blocks):
            norm, side = (ends[i], "output") if placement == "post" else (reads[i], "input")
            points.append(self._point(f"block.{i}", i + 1, block, "output", norm, side))
            if norm is not None:
                points.append(self._point(f"block.{i}.norm", i + 1, norm, "output", norm, "output"))
        if (final := reads[-1]) is not None:
            points.append(
                self._point("final_norm", len(self.blocks), final, "output", final, "output")
            )
        paths = [
            self.prefix + call.path
            for call in (ends if placement == "post" else reads)
            if call is not None
        ]
        shared = len(paths) > 1 and len(set(paths)) == 1
        config: Any = self.model.config
        return Architecture(
            family=str(config.model_type),
            placement=placement,
            hidden_size=self.hidden_size,
            vocab_size=int(getattr(config, "vocab_size", 0) or 0),
            points={point.name: point for point in points},
            modules={self.prefix + path: norm for path, norm in self.norms.items()},
            shared_norms=shared,
            norms_note=_SHARED_NOTE if shared else _NOTES[placement],
        )

    def _placement(self, ends: list[Call | None], reads: list[Call | None]) -> Placement:
        inner = reads[:-1] if len(reads) > 1 else reads
        if all(ends):
            return "post"
        if not any(ends):
            if all(inner):
                return "pre"
            if not any(inner):
                held = any(block.holds(call) for block in self.blocks for call in self.norm_calls)
                return "branch" if held else "none"
        ended = [i for i, call in enumerate(ends) if call]
        read = [i for i, call in enumerate(inner) if call]
        raise DataError(
            f"model: {self.name} fits neither post-LN nor pre-LN: of {len(ends)} blocks, {ended} end with a norm "
            f"and the outputs of {read} are read by one; outdim cannot tell what its layers' norms are"
        )

    def _embeddings(self, placement: Placement) -> Point:
        first = self.blocks[0]
        before = [
            c for c in self.norm_calls if c.stop < first.start and _same(c.output, first.source)
        ]
        if before:
            return self._point("embeddings", 0, first, "input", before[-1], "output")
        reading = self._reading(first.source, first.start) if placement == "pre" else None
        return self._point("embeddings", 0, first, "input", reading, "input")

    def _point(
        self, name: str, layer: int, call: Call, side: Side, norm: Call | None, norm_side: Side
    ) -> Point:
        return Point(
            name=name,
            layer=layer,
            module=self.prefix + call.path,
            call=call.index,
            calls=self.trace.counts[call.path],
            side=side,
            norm=None if norm is None else self.prefix + norm.path,
            norm_side=norm_side,
            norm_call=0 if norm is None else norm.index,
            norm_calls=1 if norm is None else self.trace.counts[norm.path],
            residual=self._residual(norm) if norm is not None and norm_side == "output" else None,
            batch_first=self.batch_first,
        )

    def _residual(self, norm: Call) -> str | None:
        """The module around `norm` if it is BERT's norm(dropout(dense(x)) + residual), checked on the values."""
        path = norm.path.rpartition(".")[0]
        parent = next((c for c in self.trace.calls if c.path == path and c.holds(norm)), None)
        if parent is None or {name for name, _ in parent.module.named_children()} != {
            "dense",
            "dropout",
            "LayerNorm",
        }:
            return None
        dense = next(
            (c for c in self.trace.calls if c.path == f"{path}.dense" and parent.holds(c)), None
        )
        if dense is None or len(parent.tensors) != 2 or not _same(parent.output, norm.output):
            return None
        fits = _same(parent.tensors[0], dense.source) and _same(
            dense.output + parent.tensors[1], norm.source
        )
        return self.prefix + path if fits else None


def _is_chain(calls: list[Call]) -> bool:
    """Whether each call takes the hidden states that the one before gave, all of one width."""
    if any(c.source is None or c.output is None or c.source.shape != c.output.shape for c in calls):
        return False
    return all(
        left.stop < right.start and _same(left.output, right.source)
        for left, right in pairwise(calls)
    )
