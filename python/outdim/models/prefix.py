"""Many variants of a model on one batch: the layers below the first edit run once for all.

An ablation that begins at layer k changes nothing below it. So the intact model runs once and its
hidden states h_k are kept; a variant then runs the blocks from k on alone, with the code of the
model itself around them: masks, rotary embeddings, the final norm and the head are made as ever,
and the blocks below k are passed over, the last of them giving h_k. Of L layers, a grid of all
layers and dimensions costs about half a forward a variant, and the last layer next to nothing.

Variants that begin at the same layer stand side by side in one batch, as in `ablate_each`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from outdim.models.ablate import ablate_each
from outdim.models.ablation import Ablation
from outdim.models.ablation_sites import sites
from outdim.models.architecture import Architecture
from outdim.models.points import Point, first_hidden, first_hidden_input, with_hidden
from outdim.models.replaced import replace_forward
from outdim.models.trace import dummy_inputs

#: From ids and mask [B, S] to what is read off the model, [B, ...].
Run = Callable[[Tensor, Tensor], Tensor]


class PrefixForward:
    """Runs the intact model on a batch, and then any number of ablated ones.

    Whether passing over blocks gives what the whole model gives, to the bit, is tried once, on a
    few dummy tokens; where it does not, every variant runs whole, and ``note`` says so. Ablations
    that are entered around it must be there when it is made.

    Args:
        model: A transformers model in eval mode.
        found: architecture(model).
        run: Runs the model; such as `Predictor.states`.

    Attributes:
        note: Why variants run whole; "" where they do not.

    Example:
        >>> from outdim.models import architecture
        >>> from transformers import GPT2Config, GPT2Model
        >>> config = GPT2Config(
        ...     n_layer=2, n_embd=8, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0
        ... )
        >>> model, ids = GPT2Model(config).eval(), torch.tensor([[1, 2, 3]])
        >>> forward = PrefixForward(
        ...     model, architecture(model), lambda ids, mask: model(ids).last_hidden_state
        ... )
        >>> with torch.inference_mode():
        ...     intact = forward.keep(ids, torch.ones_like(ids), [Ablation([3], [2])])
        ...     (ablated,) = forward.variants([Ablation([3], [2])])
        >>> bool((intact[..., 3] == 0).any()), bool((ablated == intact).all())
        (False, False)
    """

    def __init__(self, model: nn.Module, found: Architecture, run: Run) -> None:
        self._model, self._found, self._run = model, found, run
        self._blocks: list[nn.Module] = []
        self._kept: dict[int, Tensor] = {}
        self._shapes: dict[int, Any] = {}  # what a block gives around its hidden states
        self._batch: tuple[Tensor, Tensor] | None = None
        self._most: int | None = None  # tokens in a forward that fit, once too many were tried
        self.note = self._find_blocks() or self._try()

    def begins(self, ablation: Ablation | None) -> int:
        """The layer whose hidden state is the last that the ablation leaves as it is.

        0, the embeddings, for one that changes them, and where variants run whole.
        """
        if ablation is None or self.note:
            return 0
        return min(self._needed(site.point) for site in sites(self._found, ablation))

    def keep(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        for_: Sequence[Any] = (),
        layers: Collection[int] = (),
    ) -> Tensor:
        """Run the intact model on a batch, and keep what the ablations ``for_`` will need.

        And the hidden states of ``layers`` above 0, for `hidden`, where ``note`` is empty.

        Returns:
            What ``run`` gives.
        """
        self._batch = input_ids, attention_mask
        self._kept, self._shapes = {}, {}
        needed = {self.begins(ablation) for ablation in for_} - {0}
        with self._recording(needed.union(layers)):
            return self._run(input_ids, attention_mask)

    def hidden(self, layer: int) -> Tensor:
        """What a layer of the intact model gave on the batch, [B, S, D]; one that was kept."""
        kept = self._kept[layer]
        return kept if self._found.blocks()[0].batch_first else kept.transpose(0, 1)

    def variants(self, ablations: Sequence[Ablation], at_once: int = 1) -> Iterator[Tensor]:
        """Run ablated models on the batch that is kept, in order.

        With ``at_once`` 1, what a variant gives is to the bit what `apply_ablation` alone gives;
        else what it gives in a batch as large, up to the rounding of the intact layers below.

        Args:
            ablations: Each a variant; those for which `keep` kept the layers.
            at_once: How many that begin at the same layer share a forward; where so many tokens do
                not fit into the memory of the device half as many, from then on.

        Yields:
            What ``run`` gives for each.
        """
        assert self._batch is not None, "keep() comes first"
        tokens = self._batch[0].numel()
        if self._most is not None:
            at_once = max(1, min(at_once, self._most // tokens))
        starts = [self.begins(one) for one in ablations]
        done = 0
        while done < len(ablations):
            end = done + 1
            while end < min(done + at_once, len(starts)) and starts[end] == starts[done]:
                end += 1
            given = self._attempt(ablations[done:end], starts[done])
            if given is None:
                torch.cuda.empty_cache()
                at_once = (end - done) // 2
                self._most = at_once * tokens
                continue
            yield from given.chunk(end - done)
            done = end

    def _attempt(self, ablations: Sequence[Ablation], start: int) -> Tensor | None:
        """Some variants side by side; None where several do not fit into the memory."""
        assert self._batch is not None, "keep() comes first"
        ids, mask = (one.repeat(len(ablations), 1) for one in self._batch)
        try:
            with (
                self._from(start, len(ablations)),
                ablate_each(self._model, ablations, found=self._found),
            ):
                return self._run(ids, mask)
        except torch.OutOfMemoryError:
            if len(ablations) == 1:
                raise
            return None

    def _needed(self, point: Point) -> int:
        """The layer from which on blocks have to run for an edit at a point to be made."""
        if point.name in self._found.points:
            return point.layer
        for number, block in enumerate(self._found.blocks()):
            if f"{point.module}.".startswith(f"{block.module}."):
                return number
        return point.layer

    def _find_blocks(self) -> str:
        """The modules of the blocks; why they cannot be told apart, "" where they can."""
        points = self._found.blocks()
        one_each = all(p.calls == 1 and p.side == "output" for p in points)
        first = self._found.points["embeddings"]
        if not one_each or first.module != points[0].module or first.side != "input":
            return self._whole("they are no chain of modules of their own")
        self._blocks = [self._model.get_submodule(point.module) for point in points]
        return ""

    @torch.no_grad()
    def _try(self) -> str:
        """Why passing over blocks does not give what the whole model gives; "" where it does."""
        ids = dummy_inputs(self._model)["input_ids"]
        mask = torch.ones_like(ids)
        layers = set(range(1, len(self._blocks) + 1))
        self._batch = ids, mask
        try:
            with self._recording(layers):
                whole = self._run(ids, mask)
            for layer in layers:
                with self._from(layer, 1):
                    if not torch.equal(self._run(ids, mask), whole):
                        return self._whole(f"from layer {layer} on something else comes out")
        except Exception as error:
            # Whatever a model does with what its blocks give, it can still be run whole.
            return self._whole(f"{type(error).__name__}: {error}")
        finally:
            self._kept, self._shapes, self._batch = {}, {}, None
        return ""

    def _whole(self, why: str) -> str:
        return (
            f"The blocks of this {self._found.family} model cannot be passed over ({why}): every "
            "variant runs all of it."
        )

    @contextmanager
    def _recording(self, layers: set[int]) -> Iterator[None]:
        """Keep the hidden states of these layers, and around what all blocks below give them."""
        with ExitStack() as stack:
            for number, block in enumerate(self._blocks[: max(layers, default=0)], 1):
                hook = self._recorder(number, number in layers)
                stack.callback(block.register_forward_hook(hook).remove)
            yield

    def _recorder(self, layer: int, kept: bool) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            hidden = first_hidden(output)
            assert hidden is not None
            if kept:
                self._kept[layer] = hidden
            self._shapes[layer] = _around(output, hidden)

        return record

    @contextmanager
    def _from(self, layer: int, copies: int) -> Iterator[None]:
        """Pass over the blocks below a layer; the last of them gives what it gave, repeated."""
        if not layer:
            yield
            return
        hidden = self._kept[layer]
        axis = 0 if self._found.blocks()[0].batch_first else 1
        sizes = [copies if dim == axis else 1 for dim in range(hidden.dim())]
        hidden = hidden.repeat(sizes) if copies > 1 else hidden
        with ExitStack() as stack:
            for number, block in enumerate(self._blocks[:layer], 1):
                given = hidden if number == layer else None
                stack.callback(replace_forward(block, _passing(self._shapes[number], given)))
            yield


def _around(output: Any, hidden: Tensor) -> Any:
    """What a block gives, without its hidden states and whatever else is of this batch."""
    if isinstance(output, Tensor):
        return hidden[:0]
    if isinstance(output, Mapping):
        around: Any = copy.copy(output)
        for key, item in output.items():
            around[key] = _blank(item, hidden)
        return around
    items = [_blank(item, hidden) for item in output]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _blank(item: Any, hidden: Tensor) -> Tensor | None:
    return hidden[:0] if item is hidden else None


def _passing(around: Any, given: Tensor | None) -> Callable[..., Any]:
    """A forward that gives ``given``, or what it takes."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = first_hidden_input(args, kwargs) if given is None else given
        assert hidden is not None
        return with_hidden(around, hidden)

    return forward
