"""Edits: what an ablation does to numbers, in one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from outdim.errors import DataError
from outdim.models.ablation import Ablation, GroupValues, Mode
from outdim.models.sequence_tokens import GROUPS, SequenceTokens


@dataclass(frozen=True, eq=False)
class Edit:
    """What an ablation does in one layer.

    Attributes:
        ablation: Where and how.
        dims: The dimensions.
        values: What the mode needs, float64: [] or [k] (scale, clip, mean), [R, k] (samples); by
            group of tokens, or of all under "".
    """

    ablation: Ablation
    dims: tuple[int, ...]
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, ablation: Ablation, place: int, dims: tuple[int, ...]) -> Edit:
        """That of the layer at this place among those of the ablation."""
        given: Any = ablation.value
        by_group = given.by_group if isinstance(given, GroupValues) else {"": given}
        axes = 3 if ablation.mode == "resample" else 2
        values = {}
        for group, numbers in by_group.items():
            if numbers is not None:
                table = torch.tensor(numbers, dtype=torch.float64)
                values[group] = table[place] if table.dim() == axes else table
        return cls(ablation, dims, values)

    @property
    def mode(self) -> Mode:
        """Of the ablation."""
        return self.ablation.mode

    @property
    def needs_tokens(self) -> bool:
        """Whether what a token gets depends on which one it is."""
        drawn = self.mode == "resample" and self.ablation.at == "state"
        return drawn or isinstance(self.ablation.value, GroupValues)

    def apply(self, hidden: Tensor, tokens: SequenceTokens | None) -> None:
        """Change the dimensions of ``hidden`` [B, S, D] where it lies."""
        dims = torch.tensor(self.dims, device=hidden.device)
        hidden[..., dims] = self.changed(hidden[..., dims], tokens)

    def changed(self, h: Tensor, tokens: SequenceTokens | None) -> Tensor:
        """What becomes of the dimensions, [B, S, k]."""
        if self.mode == "zero":
            return torch.zeros_like(h)
        if self.mode == "scale":
            return h * self._like(h, "")
        if self.mode == "clip":
            bound = self._like(h, "")
            return torch.clamp(h, -bound, bound)
        if "" in self.values:
            return self._replacement(h, "", tokens)
        return self._by_group(h, tokens)

    def _by_group(self, h: Tensor, tokens: SequenceTokens | None) -> Tensor:
        assert tokens is not None
        assert isinstance(self.ablation.value, GroupValues)
        group = tokens.group(self.ablation.value.special_ids)
        for number, name in enumerate(GROUPS, 1):
            if name in self.values:
                _check_tokens(h, group)
                h = torch.where((group == number)[..., None], self._replacement(h, name, tokens), h)
        return h

    def _replacement(self, h: Tensor, group: str, tokens: SequenceTokens | None) -> Tensor:
        values = self._like(h, group)
        if self.mode == "resample":
            assert tokens is not None
            drawn = tokens.draw(len(values))
            _check_tokens(h, drawn)
            return values[drawn]
        return values.expand_as(h)

    def _like(self, h: Tensor, group: str) -> Tensor:
        return self.values[group].to(h.device, h.dtype)


@dataclass(frozen=True, eq=False)
class BlockEdits:
    """What one context does to one tensor: edits of each of the equal blocks of rows of the batch.

    Attributes:
        blocks: One tuple of edits a block.
        tokens: Of the whole batch; None where no edit needs them.
        batch_first: Whether the tensor is [B, S, D], not [S, B, D].
    """

    blocks: Sequence[tuple[Edit, ...]]
    tokens: SequenceTokens | None
    batch_first: bool

    def of(self, block: int, blocks: int) -> list[tuple[Edit, SequenceTokens | None]]:
        """The edits of one of ``blocks`` blocks, a multiple of those here, and its tokens."""
        tokens = self.tokens
        if tokens is not None:
            rows = len(tokens.ids) // blocks
            tokens = tokens.rows(slice(block * rows, (block + 1) * rows))
            tokens = tokens if self.batch_first else tokens.transposed()
        return [(edit, tokens) for edit in self.blocks[block * len(self.blocks) // blocks]]

    def apply(self, hidden: Tensor) -> Tensor:
        """A copy of ``hidden`` in which they are done."""
        changed = hidden.clone()
        count = len(self.blocks)
        for i, rows in enumerate(split(changed, count, self.batch_first)):
            for edit, tokens in self.of(i, count):
                edit.apply(rows, tokens)
        return changed


def split(hidden: Tensor, blocks: int, batch_first: bool) -> Sequence[Tensor]:
    """Views of the blocks of rows of [B, S, D], [S, B, D], or [B * S, D].

    Raises:
        DataError: The batch is no multiple of that.
    """
    axis = 0 if batch_first else 1
    rows, rest = divmod(hidden.shape[axis], blocks)
    if rest:
        raise DataError(
            f"input_ids: expected a multiple of {blocks} sequences, a block for each ablation, got "
            f"a batch of {hidden.shape[axis]}; repeat the batch {blocks} times"
        )
    return [hidden.narrow(axis, i * rows, rows) for i in range(blocks)]


def join(blocks: Sequence[Tensor], batch_first: bool) -> Tensor:
    """Blocks of rows put together again."""
    return torch.cat(list(blocks), 0 if batch_first else 1)


def _check_tokens(h: Tensor, tokens: Tensor) -> None:
    if h.shape[:-1] != tokens.shape:
        raise DataError(
            f"input_ids: expected as many as hidden states, {tuple(h.shape[:-1])}, got "
            f"{tuple(tokens.shape)}: the model pads inside; pad to the length it wants before"
        )


def change_parameters(
    edit: Edit, weight: Tensor | None, bias: Tensor | None, offset: float
) -> dict[str, Tensor]:
    """What weight and bias of a norm become: new tensors; ``offset`` is that of `Norm`."""
    given = {"gamma": ("weight", weight, offset), "beta": ("bias", bias, 0.0)}
    changed = {}
    for kind, (name, tensor, offset) in given.items():
        if tensor is not None and edit.ablation.only in (None, kind):
            dims = torch.tensor(edit.dims, device=tensor.device)
            new = tensor.clone()
            new[dims] = _parameter(edit, kind, tensor + offset, dims) - offset
            changed[name] = new
    return changed


def _parameter(edit: Edit, kind: str, whole: Tensor, dims: Tensor) -> Tensor:
    """What gamma or beta becomes at the dimensions."""
    others = torch.ones(len(whole), dtype=torch.bool, device=whole.device)
    others[dims] = False
    if edit.mode == "mean":
        return whole[others].mean().expand(len(dims))
    if edit.mode == "resample":
        return whole[others][_drawn(edit, kind, int(others.sum())).to(whole.device)]
    return edit.changed(whole[dims], None)


def _drawn(edit: Edit, kind: str, others: int) -> Tensor:
    """Which of the other dimensions each one gets its parameter from."""
    seed: Any = edit.ablation.value or 0
    ids = torch.tensor(edit.dims)
    place = torch.full_like(ids, 2 * seed + (kind == "beta"))
    return SequenceTokens(ids, place, ids >= 0).draw(others)
