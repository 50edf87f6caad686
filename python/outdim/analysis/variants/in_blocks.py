"""Steps that measure blocks of variants of a model, each on parts of what is read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from outdim.analysis.step import Json, Progress, Step
from outdim.stats.named import under

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs
    from outdim.analysis.results.compared import Compared
    from outdim.analysis.variants.variant import Variant
    from outdim.models import Ablation


class ByBlock:
    """Tensors by name of each block, whose rows are documents; keys are ``<block>/<name>``."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Mapping[str, Tensor]]] = {}

    def merge(self, tensors: Mapping[str, Tensor]) -> Self:
        """Take other blocks, and put documents behind those of the same block."""
        by_block: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            block, _, name = key.partition("/")
            by_block.setdefault(block, {})[name] = tensor
        for block, part in by_block.items():
            self._parts.setdefault(block, []).append(part)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors."""
        return under({block: self._whole(block) for block in self._parts})

    def blocks(self, group: int) -> list[dict[str, Tensor]]:
        """Those named ``<group>.<number>``, in the order of their numbers."""
        named = [block.split(".") for block in self._parts]
        numbers = sorted(int(number) for own, number in named if int(own) == group)
        return [self._whole(f"{group}.{number}") for number in numbers]

    def _whole(self, block: str) -> dict[str, Tensor]:
        parts = self._parts[block]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def side_by_side(blocks: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """Of blocks [N, 1 + M, ...] the intact model, which each has first, and all variants."""
    return torch.cat([blocks[0][name][:, :1], *(one[name][:, 1:] for one in blocks)], 1)


class InBlocks(Step):
    """A step whose shards are blocks of variants with parts of what is read.

    A block has a group, within which variants are compared, and in it the number of its first.
    """

    ablates = True

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.found = ByBlock()

    @classmethod
    def forwards(cls, recorded: Mapping[str, Any], unit: Mapping[str, Any]) -> int:
        """The intact model, and the variants of the block."""
        return 1 + int(unit["last"]) - int(unit["first"])

    @classmethod
    def parts(cls, inputs: Inputs) -> list[Json]:
        """On what each block is measured, part by part."""
        return [{}]

    @abstractmethod
    def measured(
        self, unit: Mapping[str, Any], ablations: Sequence[Ablation], progress: Progress
    ) -> tuple[dict[str, Tensor], Json]:
        """What is kept of a part, of the intact model and ablated ones, and its account."""

    @abstractmethod
    def compared(self, variants: Sequence[Variant], group: int) -> Compared:
        """All variants of a group, the intact model first."""

    def take(self, group: int, first: int, found: Mapping[str, Tensor]) -> Self:
        """Keep what was measured of a block."""
        return self.merge({f"{group}.{first}/{name}": one for name, one in found.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """By block ``<group>.<first>/`` what is kept of the intact model and its variants."""
        return self.found.state_dict()

    def merge(self, tensors: Mapping[str, Tensor]) -> Self:
        """Take other blocks, and put documents behind those of the same block."""
        self.found.merge(tensors)
        return self
