"""Which head of the model a step reads, beside `ModelOptions`: its class says so, not an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs
    from outdim.models import Head


@dataclass(frozen=True)
class WithHead:
    """A step that `reads` a subclass takes its model from ``inputs.model_with(kind.head)``."""

    head: ClassVar[Head | None]

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """Nothing to choose."""
        return {}

    @classmethod
    def identity(cls, inputs: Inputs) -> dict[str, Any]:
        """Class of the model with its head, and hash of all its weights."""
        return {} if cls.head is None else {"head": inputs.about_head(cls.head)}


class LanguageModel(WithHead):
    """Logits for the next token."""

    head = "lm"


class MaskedLanguageModel(WithHead):
    """Logits for masked tokens."""

    head = "mlm"


class Classifier(WithHead):
    """Logits of the labels of a text."""

    head = "classifier"


class NoHead(WithHead):
    """The last hidden states."""

    head = None
