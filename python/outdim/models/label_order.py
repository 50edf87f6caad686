"""Which output of a classifier stands for which label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from outdim.errors import ArgumentError, DataError
from outdim.text import listing

_UNNAMED = re.compile(r"(label_?)?\d+")


class LabelOrder(NamedTuple):
    """The outputs of a classifier in the order of a task's labels.

    Attributes:
        outputs: ``outputs[k]`` is the output that stands for label k.
        caution: What a reader has to know of it; "" where names agree.
    """

    outputs: tuple[int, ...]
    caution: str = ""


def label_order(
    config: Any, labels: Sequence[str], given: Sequence[str] | None = None
) -> LabelOrder:
    """Map labels to outputs by name.

    Case, blanks and hyphens do not count: ``NOT ENTAILMENT`` is ``not_entailment``.

    Args:
        config: Of the model: ``num_labels`` and ``id2label``.
        labels: Names in the order of their numbers; none for a score, which is one output.
        given: Names of the outputs in their order, where the model does not say them.

    Raises:
        ArgumentError: ``given`` are not the labels.
        DataError: The model has another number of outputs, or names of its own.
    """
    count = int(config.num_labels)
    if count != (len(labels) or 1):
        wanted = f"one for each of {listing(labels)}" if labels else "one, the score"
        raise DataError(
            f"model: the task wants {len(labels) or 1} outputs, {wanted}, and the classifier has "
            f"{count}; give a model that was fine-tuned on it, or --finetune."
        )
    if not labels:
        return LabelOrder((0,))
    plain = [_plain(name) for name in labels]
    if given is not None:
        outputs = [_plain(name) for name in given]
        if sorted(outputs) != sorted(plain):
            raise ArgumentError(
                f"outputs: expected each of {listing(labels)} once, in the order of the model's "
                f"outputs, got {listing(given)}."
            )
        return LabelOrder(tuple(outputs.index(name) for name in plain))
    own = [str(config.id2label[i]) for i in range(count)]
    outputs = [_plain(name) for name in own]
    if sorted(outputs) == sorted(plain):
        return LabelOrder(tuple(outputs.index(name) for name in plain))
    if all(_UNNAMED.fullmatch(name) for name in outputs):
        order = listing([f"{number} {name}" for number, name in enumerate(labels)])
        return LabelOrder(
            tuple(range(count)),
            f"The outputs of the model have no names ({listing(own)}): they are taken in the order "
            f"of the data, {order}.",
        )
    raise DataError(
        f"model: its outputs are {listing(own)}, those of the task {listing(labels)}; say which is "
        "which with --outputs, the task's labels in the order of the model's outputs."
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())
