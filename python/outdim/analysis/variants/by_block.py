"""States of blocks of variants over text: documents behind each other, blocks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor


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
        return {
            f"{block}/{name}": tensor
            for block in self._parts
            for name, tensor in self._whole(block).items()
        }

    def blocks(self, group: int) -> list[dict[str, Tensor]]:
        """Those named ``<group>.<number>``, in the order of their numbers."""
        named = [block.split(".") for block in self._parts]
        numbers = sorted(int(number) for own, number in named if int(own) == group)
        return [self._whole(f"{group}.{number}") for number in numbers]

    def _whole(self, block: str) -> dict[str, Tensor]:
        parts = self._parts[block]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
