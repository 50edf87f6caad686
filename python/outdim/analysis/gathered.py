"""Steps whose state is tensors by name, each of which one shard finds alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from outdim.analysis.inputs import Inputs
from outdim.analysis.step import Step


class Gathered(Step):
    """A step that puts what other shards found beside its own.

    Attributes:
        tensors: By name what was found; its class says which there are.
    """

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """What was found."""
        return dict(self.tensors)

    def merge(self, tensors: Mapping[str, Tensor]) -> Self:
        """Put what other shards found beside it."""
        self.tensors.update(tensors)
        return self
