"""Ablate: run a model with dimensions disabled or changed, and find it afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from outdim.errors import ArgumentError
from outdim.models.ablation import Ablation, At, GroupValues, Mode, Numbers, Only
from outdim.models.ablation_sites import Site, sites
from outdim.models.architecture import Architecture, architecture, check_model
from outdim.models.edited_norm import EditedNorm
from outdim.models.edits import BlockEdits
from outdim.models.fused import is_fused
from outdim.models.points import Point
from outdim.models.sequence_tokens import SequenceTokens
from outdim.models.watch import Watch, by_module, frames_of


@dataclass(frozen=True)
class Edited:
    """What is edited while an ablation is on.

    Attributes:
        points: Names of points, or paths of norms, that fire in each forward.
        parameters: How many numbers of norms have another value.
    """

    points: tuple[str, ...]
    parameters: int


@contextmanager
def ablate(
    model: nn.Module,
    dims: int | Sequence[int] | Sequence[Sequence[int]],
    layers: int | Sequence[int] | None = None,
    *,
    at: At = "state",
    mode: Mode = "zero",
    value: Numbers | GroupValues | Any = None,
    only: Only | None = None,
) -> Iterator[Edited]:
    """Disable or change dimensions of the hidden states of a model while it runs.

    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    >>> model, ids = BertModel(config).eval(), torch.tensor([[1, 2, 3]])
    >>> with torch.inference_mode(), ablate(model, [5], at="parameters") as edited:
    ...     output = model(ids, output_hidden_states=True)
    >>> [bool((h[..., 5] == 0).all()) for h in output.hidden_states], edited.parameters
    ([False, True, True], 4)

    No weight is written, and nothing is left on the model, also when a forward raises. Contexts
    nest; where several change the same dimension, the inner one comes first. `observe` sees what
    the edits made of a point, whichever context was entered first; with fused=True it is entered
    within. Works under autocast, with gradients, and in `generate` with its cache.

    Args:
        model: a transformers model, with or without a head; not compiled, not wrapped. The norm in
            a head is never edited.
        dims: dimensions; or a list of them for each of `layers`.
        layers: 0 for the embeddings, i + 1 for the output of block i; None: all blocks, without the
            embeddings.
        at: what is edited.
            "state": h_d where the block gives it: it is gone from residual stream and norms.
            "parameters": gamma_d and beta_d of the norm that ends the block (Kovaleva et al. 2021;
            Puccetti et al. 2022); post-LN models only. The dimension still counts in the mean and
            the variance of that norm.
            "denominator": h_d stays, but mean and variance of the norm that ends the block, and of
            the norms that take its output (with a branch added or not), are those without it.
            "readers": gamma_d and beta_d of the norms that take the output of the block; pre-LN
            models only. The residual stream still carries the dimension (Timkey and van Schijndel
            2021).
        mode: what becomes of h_d; of gamma_d and beta_d with "parameters" and "readers".
            "zero": 0. "scale": times `value`. "clip": clamped to [-value, value]. "mean": `value`,
            or for parameters the mean of the other dimensions' parameter. "resample": what it is at
            another token, one of the samples in `value`, drawn by token id and position; for
            parameters that of another dimension, drawn with the seed `value`.
            With "denominator" the statistics change so: "zero" leaves h_d out, "scale" weighs it by
            the factor, "clip" takes them from the clamped h.
        value: see `mode`: a number, one for each dimension, [layers, dims] (mean), or samples
            [layers, samples, dims] (resample); `GroupValues` of such by group of tokens.
            `with_means`, `with_estimated_means` and `with_samples` of `outdim.models` take them
            from a text.
        only: "gamma" or "beta" alone, of the parameters.

    Returns:
        A context manager with what is `Edited`.

    Raises:
        ArgumentError: dimensions or layers that the model does not have; an `at` that means nothing
            for its architecture, or a parameter that its norms lack; a value that does not fit.
        DataError: a point did not fire exactly once in a forward; no forward of the model ran.
        BackendError: from within torch.compile.
    """
    wanted: Any = Ablation(dims, layers, at, mode, value, only)  # type: ignore[arg-type]
    with apply_ablation(model, wanted) as edited:
        yield edited


@contextmanager
def apply_ablation(
    model: nn.Module, ablation: Ablation | None, *, found: Architecture | None = None
) -> Iterator[Edited]:
    """`ablate` for an `Ablation`; None leaves the model as it is.

    Args:
        model: see `ablate`.
        ablation: what to do.
        found: architecture(model), which saves the small forward that finds it.
    """
    with ablate_each(model, [ablation], found=found) as (edited,):
        yield edited


@contextmanager
def ablate_each(
    model: nn.Module,
    ablations: Sequence[Ablation | None],
    *,
    found: Architecture | None = None,
) -> Iterator[tuple[Edited, ...]]:
    """Run a model with another ablation for every block of rows of a batch.

    >>> import torch
    >>> from transformers import GPT2Config, GPT2Model
    >>> config = GPT2Config(
    ...     n_layer=2, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0
    ... )
    >>> model, ids = GPT2Model(config).eval(), torch.tensor([[1, 2, 3]])
    >>> with torch.inference_mode(), ablate_each(model, [None, Ablation([5]), Ablation([2])]):
    ...     h = model(ids.repeat(3, 1), output_hidden_states=True).hidden_states[1]
    >>> [(h[i] == 0).all(0).nonzero().flatten().tolist() for i in range(3)]
    [[], [5], [2]]

    Args:
        model: see `ablate`.
        ablations: one a block: a batch of M B sequences has the first B with the first ablation,
            and so on. What a block gives is, to the bit, what `ablate` gives in a batch of the same
            shape.
        found: architecture(model), which saves the small forward that finds it.

    Returns:
        A context manager with what is `Edited` in each block.

    Raises:
        DataError: a batch is no multiple of as many sequences.
    """
    check_model(model)
    if is_fused(model):
        raise ArgumentError(
            "model: observe(fused=True) has its norms in it; enter ablate first, and observe within"
        )
    if not ablations:
        raise ArgumentError("ablations: expected at least one, got none")
    found = architecture(model) if found is None else found
    chosen = [() if one is None else sites(found, one) for one in ablations]
    plan = _Plan(chosen)
    watch = Watch(plan.points, opening=plan.begin)
    with ExitStack() as stack:
        for frame in frames_of(model, plan.points) if plan.points else ():
            stack.callback(watch.frame(frame))
        for group in by_module(plan.points):
            stack.callback(_edit(model, found, plan, watch, group))
        yield tuple(
            Edited(tuple(site.point.name for site in one), sum(site.parameters for site in one))
            for one in chosen
        )
    watch.check(ran=bool(plan.points))


@dataclass
class _Plan:
    """The edits of each block at each point, and the tokens of the forward under way."""

    chosen: Sequence[Sequence[Site]]
    tokens: SequenceTokens | None = None
    points: tuple[Point, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.points = tuple({s.point.name: s.point for one in self.chosen for s in one}.values())
        self._blocks = {
            point.name: tuple(
                tuple(site.edit for site in one if site.point.name == point.name)
                for one in self.chosen
            )
            for point in self.points
        }
        self._needs_tokens = any(s.edit.needs_tokens for one in self.chosen for s in one)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look at the tokens of a forward, where an edit depends on them."""
        if self._needs_tokens:
            self.tokens = SequenceTokens.of_call(module, args, kwargs)

    def at(self, point: Point) -> BlockEdits:
        """What is done at a point."""
        return BlockEdits(self._blocks[point.name], self.tokens, point.batch_first)


def _edit(
    model: nn.Module, found: Architecture, plan: _Plan, watch: Watch, points: Sequence[Point]
) -> Callable[[], None]:
    """Edit the points at one side of a module; returns what ends that."""
    path = points[0].module
    if points[0].name in found.points:
        module = model.get_submodule(path)
        return watch.edit(module, points, lambda point, h: plan.at(point).apply(h)).remove
    key = object()

    def due(x: Tensor) -> BlockEdits | None:
        for point in watch.due_or_again(key, points):
            watch.fire(point)
            return plan.at(point)
        return None

    return EditedNorm.enter(found.modules[path], due)
