"""Architecture: the points of a model and its norms, found by what they do in a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

from outdim.errors import ArgumentError, DataError
from outdim.models.load import check_weights
from outdim.models.norms import Norm
from outdim.models.parts import has_both, text_model
from outdim.models.points import Point
from outdim.models.roles import Placement, Roles
from outdim.models.trace import trace

_NOTES = {
    "post": "",
    "pre": "Pre-LN: no norm ends a layer; gamma and beta are those of the norm that reads its "
    "output.",
    "branch": "Norms end the branches inside a layer; none ends a layer or reads its output.",
    "none": "There is no LayerNorm or RMSNorm in the layers.",
    "unknown": "Its blocks are no plain chain: gamma and beta are those of the last norm in each.",
}


class NormParameters(NamedTuple):
    """Parameters of the norm that goes with the output of a layer.

    layer: 1 for the first block.
    path: of the norm module.
    gamma: [D] as applied (Gemma's 1 + weight).
    beta: [D], or None for RMSNorm and norms without bias.
    """

    layer: int
    path: str
    gamma: Tensor
    beta: Tensor | None


@dataclass(frozen=True, eq=False)
class Architecture:
    """The points of a model and the norms at them.

    Attributes:
        family: `config.model_type`.
        placement: "post" (a norm ends each block), "pre" (norms read the residual stream),
            "branch" (norms end only the branches inside, as in OLMo-2), "none" (no norm in the
            blocks), "unknown" (blocks are no chain).
        hidden_size: D.
        vocab_size: That of the config, 0 without.
        layers: How many there are.
        points: By name, in the order of the layers; empty where hidden states cannot be named.
        unnamed: Why they cannot, "" where they can.
        hidden_states: Of points that transformers gives too, the index in its ``hidden_states``.
        modules: Norms over D dimensions, by path.
        layer_norms: Layer and path of the norm that goes with its output, see `norms`.
        enders: The norms that give the hidden state of a layer (post-LN), as points.
        readers: The norms that take it, alone or with a branch of the block added, as points.
        norms_note: What a reader of `norms()` has to know, "" where there is nothing.
    """

    family: str
    placement: Placement
    hidden_size: int
    vocab_size: int
    layers: int
    points: dict[str, Point]
    unnamed: str
    hidden_states: dict[str, int]
    modules: dict[str, Norm]
    layer_norms: tuple[tuple[int, str], ...]
    enders: tuple[Point, ...]
    readers: tuple[Point, ...]
    norms_note: str

    def blocks(self) -> tuple[Point, ...]:
        """Return the hidden states after each block, in order."""
        return self._blocks

    @cached_property
    def _blocks(self) -> tuple[Point, ...]:
        names = (name for name in self.points if name.startswith("block."))
        return tuple(self.points[name] for name in names if name.count(".") == 1)

    def norms(self) -> list[NormParameters]:
        """Return the parameters in which outlier dimensions are looked for, one entry a norm.

        Post-LN: of the norm that ends the block (Kovaleva et al. 2021, section 3). Pre-LN, where
        there is no such norm: of the one that reads the block's output, in the next block or after
        the last. A norm that layers share (ALBERT) comes once, with the first of them: that it
        agrees with itself says nothing. Empty where norms do neither, or have no parameters.
        """
        first: dict[str, int] = {}
        for layer, path in self.layer_norms:
            first.setdefault(path, layer)
        found = []
        for path, layer in first.items():
            norm = self.modules[path]
            if norm.gamma is not None:
                found.append(NormParameters(layer, path, norm.gamma, norm.beta))
        return found

    @property
    def hidden_states_note(self) -> str:
        """In a sentence, which of transformers' ``hidden_states`` the layers are."""
        offsets = {
            self.hidden_states[point.name] - point.layer
            for point in self.blocks()
            if point.name in self.hidden_states
        }
        if len(offsets) != 1:
            return "transformers gives no hidden_states that are these."
        (offset,) = offsets
        index = f"i {'-' if offset < 0 else '+'} {abs(offset)}" if offset else "i"
        last = self.blocks()[-1].name
        but = "" if last in self.hidden_states else ", but for the last, which is final_norm there"
        return f"Layer i is hidden_states[{index}] of transformers{but}."

    def select(self, points: Sequence[str | Point] | None) -> tuple[Point, ...]:
        """Return the points of these names; None: the embeddings and every block.

        Raises:
            DataError: The hidden states of this model cannot be named.
            ArgumentError: A name is not there; it says which are.
        """
        if self.unnamed:
            raise DataError(f"model: {self.unnamed}")
        if points is None:
            return (self.points["embeddings"], *self.blocks())
        names = [point if isinstance(point, str) else point.name for point in points]
        if unknown := [name for name in names if name not in self.points]:
            raise ArgumentError(
                f"points: this {self.family} model has no {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(self.points)}"
            )
        return tuple(self.points[name] for name in names)


def architecture(model: nn.Module) -> Architecture:
    """Find blocks and norms of a Hugging Face model by their role, and name its points.

    A forward pass over ten dummy tokens records what goes into and comes out of every module. The
    blocks are the members of a `ModuleList` (or the one member that is called again and again, as
    in ALBERT) each of which takes exactly what the one before gave. A norm whose output is the
    output of its block ends it (post-LN); a norm that takes the output of the block before reads
    the residual stream (pre-LN). Names play no part: `final_layer_norm` ends a block of BART, and
    reads the middle of one of OPT.

    Args:
        model: A transformers model with or without a head. Its modes, hooks and random numbers stay
            as they are.

    Raises:
        ArgumentError: `model` is no transformers model, or one that is wrapped or compiled.
        DataError: It is an encoder-decoder, it does not run on dummy inputs, or no modules with
            these roles are found in it.

    Example:
        >>> from transformers import GPT2Config, GPT2Model
        >>> config = GPT2Config(
        ...     n_layer=2, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0
        ... )
        >>> found = architecture(GPT2Model(config))
        >>> found.placement, found.points["block.0"].norm, found.points["block.1"].norm
        ('pre', 'h.1.ln_1', 'ln_f')
    """
    check_model(model)
    check_weights(model)
    base, prefix = _base_model(model)
    roles = Roles(base, trace(base))
    config: Any = base.config
    layer_norms = tuple((layer, prefix + path) for layer, path in roles.layer_norms())
    return Architecture(
        family=str(config.model_type),
        placement=roles.placement,
        hidden_size=roles.hidden_size,
        vocab_size=int(getattr(config, "vocab_size", 0) or 0),
        layers=len(roles.layers),
        points={point.name: _within(prefix, point) for point in roles.points()},
        unnamed=roles.unnamed,
        hidden_states=roles.hidden_states(),
        modules={prefix + path: replace(n, path=prefix + path) for path, n in roles.norms.items()},
        layer_norms=layer_norms,
        enders=tuple(_norm_point(prefix, point) for point in roles.enders()),
        readers=tuple(_norm_point(prefix, point) for point in roles.readers()),
        norms_note=_note(roles, layer_norms),
    )


def _note(roles: Roles, layer_norms: tuple[tuple[int, str], ...]) -> str:
    distinct = len({path for _, path in layer_norms})
    if distinct < len(layer_norms):
        return (
            f"{len(layer_norms)} layers share {distinct} distinct "
            f"{'norm' if distinct == 1 else 'norms'}; each counts once, with its first layer."
        )
    return _NOTES[roles.placement]


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
            "model: expected one that is not compiled, got one after model.compile(); observe it "
            "before"
        )


def check_eval_mode(model: nn.Module) -> None:
    """Raise ArgumentError where dropout would change what `model` gives."""
    if model.training:
        raise ArgumentError(
            "model: expected eval mode, got training mode, in which dropout changes hidden states "
            "and predictions; call model.eval()"
        )


def _base_model(model: Any) -> tuple[nn.Module, str]:
    """Return the text model without its head, and its path with a dot at the end."""
    base = text_model(model)
    if has_both(base):
        raise DataError(
            f"model: {type(base).__name__} has an encoder and a decoder, two sequences of blocks; "
            "take one: outdim.load_model(name, part='encoder'), or model.get_encoder(), whose "
            "points fire in a run of the whole model too"
        )
    path = next(path for path, module in model.named_modules() if module is base)
    return base, f"{path}." if path else ""


def _within(prefix: str, point: Point) -> Point:
    """Return the point of a base model as one of the model with its head."""
    return replace(
        point,
        module=prefix + point.module,
        norm=prefix + point.norm if point.norm else None,
        residual=prefix + point.residual if point.residual else None,
        flat_in=prefix + point.flat_in if point.flat_in else None,
    )


def _norm_point(prefix: str, point: Point) -> Point:
    """Name a call of a norm by path and, where it has several, by number."""
    again = f" (call {point.call + 1})" if point.calls > 1 else ""
    return replace(_within(prefix, point), name=f"norm {prefix}{point.module}{again}")
