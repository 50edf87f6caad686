"""A norm whose parameters, or whose mean and variance, are others while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import lcm
from typing import Any

import torch
from torch import Tensor

from outdim.models.edits import BlockEdits, Edit, change_parameters, join, split
from outdim.models.norms import Norm
from outdim.models.replaced import replace_forward
from outdim.models.sequence_tokens import SequenceTokens


class EditedNorm:
    """Takes the place of the forward of a norm, for any number of contexts."""

    def __init__(self, norm: Norm) -> None:
        self._norm = norm
        self._plain: Callable[[Tensor], Tensor] = norm.module.forward
        self._contexts: list[Callable[[Tensor], BlockEdits | None]] = []
        self._put_back = replace_forward(norm.module, self.forward)

    @classmethod
    def enter(cls, norm: Norm, due: Callable[[Tensor], BlockEdits | None]) -> Callable[[], None]:
        """Let `due` say what is done to each call, None for nothing; returns what ends that.

        A hook says if we are on: whoever takes the hooks off has the norm alone too.
        """
        module: Any = norm.module
        held = getattr(vars(module).get("forward"), "__self__", None)
        edited = held if isinstance(held, EditedNorm) else cls(norm)
        on = module.register_forward_pre_hook(lambda module, args: None)

        def context(x: Tensor) -> BlockEdits | None:
            return due(x) if on.id in module._forward_pre_hooks else None

        edited._contexts.append(context)

        def leave() -> None:
            on.remove()
            edited._contexts.remove(context)
            if not edited._contexts:
                edited._put_back()

        return leave

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise as every context wants it, the inner ones first, each block of rows alone."""
        asked = [found for ask in reversed(self._contexts) if (found := ask(hidden_states))]
        blocks = lcm(*(len(one.blocks) for one in asked))
        if blocks == 1:
            return self._normalise(hidden_states, [edit for one in asked for edit in one.of(0, 1)])
        batch_first = asked[0].batch_first
        rows = split(hidden_states, blocks, batch_first)
        done = [
            self._normalise(x, [edit for one in asked for edit in one.of(i, blocks)])
            for i, x in enumerate(rows)
        ]
        return join(done, batch_first)

    def _normalise(self, x: Tensor, edits: Sequence[tuple[Edit, SequenceTokens | None]]) -> Tensor:
        statistics = [item for item in edits if item[0].ablation.at == "denominator"]
        parameters = [edit for edit, _ in edits if edit.ablation.at != "denominator"]
        with self._with_parameters(parameters):
            return self._with_statistics(x, statistics) if statistics else self._plain(x)

    @contextmanager
    def _with_parameters(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Let the module have other tensors as parameters; its own are not written."""
        held: Any = self._norm.module._parameters
        own = dict(held)
        try:
            for edit in edits:
                held |= change_parameters(
                    edit, held.get("weight"), held.get("bias"), self._norm.offset
                )
            yield
        finally:
            held.update(own)

    def _with_statistics(
        self, x: Tensor, edits: Sequence[tuple[Edit, SequenceTokens | None]]
    ) -> Tensor:
        """Normalise by mean and variance over weighted or changed dimensions, in float32 at least.

            m = sum w_d s_d / sum w_d,    v = sum w_d (s_d - m)^2 / sum w_d        (RMS: m = 0)
            y = (x - m) / sqrt(v + eps) * gamma + beta

        Weight 0 selects a dimension out.
        """
        norm, module = self._norm, self._norm.module
        x_wide = x if x.dtype == torch.float64 else x.float()
        s, w = x_wide, x_wide.new_ones(x.shape[-1])
        for edit, tokens in edits:
            if edit.mode in ("zero", "scale"):
                edit.apply(w, None)
            else:
                s = s.clone()
                edit.apply(s, tokens)
        kept = w.nonzero().flatten()
        if len(kept) < len(w):
            s, w = s[..., kept], w[kept]
        share = w / w.sum()
        mean: Any = 0.0 if norm.rms else (s * share).sum(-1, keepdim=True)
        variance = ((s - mean).square() * share).sum(-1, keepdim=True)
        y = (x_wide - mean) * torch.rsqrt(variance + norm.eps)
        parameters: Mapping[str, Any] = module._parameters
        if (weight := parameters.get("weight")) is not None:
            y = y * (weight.to(y.dtype) + norm.offset)
        if (bias := parameters.get("bias")) is not None:
            y = y + bias.to(y.dtype)
        normalised: Tensor = y.to(self._plain(x[:0]).dtype)
        return normalised
