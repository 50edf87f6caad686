"""Units of text as pieces for the model of `Inputs`, with an account of what was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from outdim.analysis.inputs import Inputs
from outdim.corpus import Accounting, Unit
from outdim.errors import DataError
from outdim.tokens import Piece, PieceEncoder, padding_id


class Reading:
    """Reads units; what it knows of the tokenizer serves all of them."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        options = inputs.options
        vocab_size = inputs.architecture.vocab_size or None
        self._encode = PieceEncoder(
            inputs.tokenizer,
            options["max_length"],
            exclude=options["exclude"],
            vocab_size=vocab_size,
        )
        #: What `outdim.tokens.batches` has to know of the model.
        self.padding: dict[str, Any] = {
            "pad": not options["padding"]["reaches_text"],
            "multiple": options["padding"]["multiple"],
            "pad_id": padding_id(inputs.tokenizer, vocab_size),
        }

    def pieces(
        self,
        unit: Mapping[str, Any],
        account: Accounting,
        watch: Callable[[Iterable[str]], Iterable[str]] = lambda texts: texts,
    ) -> Iterator[Piece]:
        """The pieces of a unit; ``watch`` may look at its documents as they are read.

        Raises:
            DataError: Broken data and ``on_error`` is ``fail``.
        """
        skipping = self._inputs.corpus.options.on_error == "skip"

        def unencodable(reason: str) -> None:
            place = f"{unit['path']}: {reason}"
            if not skipping:
                raise DataError(f"tokenizer: {place}")
            account.skip("not encodable", place)

        return self._encode(watch(self._inputs.corpus.read(Unit(**unit), account)), unencodable)
