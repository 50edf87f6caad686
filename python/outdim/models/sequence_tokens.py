"""The tokens of the forward that is under way: their ids, positions and groups."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from outdim.errors import DataError

#: As `outdim.tokens.GROUPS`: a token of group g is of ``GROUPS[g - 1]``, padding of group 0.
GROUPS = ("text", "special", "first")
_TEXT, _SPECIAL, _FIRST = 1, 2, 3


@dataclass(frozen=True, eq=False)
class SequenceTokens:
    """Tokens [B, S] of a forward.

    Attributes:
        ids: int64.
        position: int64, from 0 at the first token that is not padding; those that a cache holds
            count. -1 for padding at the left.
        mask: bool, False for padding.
    """

    ids: Tensor
    position: Tensor
    mask: Tensor

    @classmethod
    def of_call(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> SequenceTokens:
        """Those of a call of a model.

        Raises:
            DataError: It gets no ids.
        """
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        given |= given.get("kwargs", {})
        ids = given.get("input_ids")
        if not isinstance(ids, Tensor):
            raise DataError(
                f"input_ids: expected ids [B, S] in the call of {type(module).__name__}, got "
                f"{type(ids).__name__}; values by group of tokens, and samples, depend on them"
            )
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        mask = given.get("attention_mask")
        if mask is None or mask.dim() != 2 or mask.shape[1] != past + ids.shape[1]:
            mask = torch.ones(len(ids), past + ids.shape[1], device=ids.device)
        kept = mask != 0
        position = kept.long().cumsum(1) - 1
        return cls(ids, position[:, past:], kept[:, past:])

    def rows(self, of: slice) -> SequenceTokens:
        """Those of some sequences."""
        return SequenceTokens(self.ids[of], self.position[of], self.mask[of])

    def transposed(self) -> SequenceTokens:
        """The same as [S, B]."""
        return SequenceTokens(self.ids.T, self.position.T, self.mask.T)

    def group(self, special_ids: Sequence[int]) -> Tensor:
        """The group of each token, int64 [B, S]: 1 text, 2 special, 3 first; 0 for padding."""
        special = torch.isin(self.ids, torch.tensor(special_ids, device=self.ids.device))
        group = torch.where(self.position == 0, _FIRST, _TEXT)
        return torch.where(special, _SPECIAL, group) * self.mask

    def draw(self, samples: int) -> Tensor:
        """Which of the samples each token gets, int64 [B, S].

        By id and position alone: the same text draws the same in every batch, layer and variant.
        """
        mixed = mix(mix(self.ids) ^ self.position)
        return mixed.remainder(samples)


def mix(z: Tensor) -> Tensor:
    """As `outdim.stats.splitmix` mixes, on int64 of any device, with shifts of unsigned numbers."""
    z = (z ^ _shift(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shift(z, 27)) * -0x6B2FB644ECCEEE15
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
