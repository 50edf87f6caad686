"""The step that counts the tokens of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from outdim.analysis.inputs import Inputs
from outdim.analysis.step import Json, Progress, Result, TextStep, add_accounts
from outdim.errors import EmptyCorpusError
from outdim.text import listing, percent

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from outdim.counting import TokenCounter
    from outdim.tokens import TokenFrequencies

_TOP = 100

# Rows that hold no document, and those that the user left out: all others could not be read.
_NOT_AMISS = ("blank", "null", "short")


@dataclass(frozen=True, kw_only=True)
class CountOptions:
    """Count how often each token of a tokenizer's vocabulary occurs in a corpus.

    Args:
        method: chunks tokenises each distinct chunk of text once, where that is provably exact;
            encode tokenises everything; auto decides and says why in the manifest.
        documents: Count as well in how many documents each token occurs.
    """

    method: Literal["auto", "chunks", "encode"] = "auto"
    documents: bool = False


@dataclass(frozen=True)
class Counted(Result):
    """Token counts of a text.

    Attributes:
        frequencies: Counts by token id.
        method: How they were counted, and why so.
        read: Documents, characters, bytes, tokens; rows left out by reason, and where.
        min_chars: Documents with fewer characters were left out.
    """

    frequencies: TokenFrequencies
    method: Mapping[str, str]
    read: Mapping[str, Any]
    min_chars: int = 0

    def tables(self) -> dict[str, pa.Table]:
        """``counts.parquet``: one row a token id."""
        return {"counts": self.frequencies.table()}

    def account(self) -> Json:
        """How it was counted and what was read."""
        return {
            "counting": {**self.method, "accounting": dict(self.read)},
            "tokens": {
                "read": self.read["tokens"],
                "special": self.read["special"],
                "documents": self.read["documents"],
                "excluded": dict(self.read["skipped"]),
            },
        }

    def headline(self) -> list[str]:
        """How many tokens, and of how many kinds."""
        frequencies = self.frequencies
        ordinary = frequencies.counts[~frequencies.special]
        total = int(ordinary.sum())
        if not total:
            return []
        top = sum(sorted(ordinary.tolist(), reverse=True)[:_TOP])
        short = self.read["skipped"].get("short", 0)
        limit = f"shorter than {self.min_chars:,} characters" if self.min_chars else "too short"
        left_out = f" ({short:,} more, {limit}, were left out)" if short else ""
        return [
            f"{total:,} text tokens of {self.read['documents']:,} documents{left_out} were counted;"
            f" {int((ordinary > 0).sum()):,} of {len(ordinary):,} tokens of the vocabulary occur, "
            f"and the {_TOP} most frequent make up {percent(top / total)} of the text."
        ]

    def cautions(self) -> list[str]:
        """Rows that could not be read."""
        return unread_rows(self.read["skipped"], self.read["places"])


def unread_rows(skipped: Mapping[str, int], places: Sequence[str]) -> list[str]:
    """Say which rows could not be read, and where the first is; nothing where all could."""
    amiss = {why: n for why, n in skipped.items() if n and why not in _NOT_AMISS}
    if not amiss:
        return []
    parts = [f"{n:,} × {why}" for why, n in sorted(amiss.items(), key=lambda item: -item[1])]
    first = f" The first: {places[0]}." if places else ""
    return [
        f"Rows were left out because they could not be read: {listing(parts)}. The numbers are "
        f"about the rest.{first}"
    ]


class Count(TextStep):
    """Counts by token id; its state is a vector of counts."""

    name = "count"
    Options = CountOptions
    presentation = ("why",)  # it tells of a sample of the whole text; both methods are exact

    def __init__(self, recorded: Mapping[str, Any], inputs: Inputs) -> None:
        super().__init__(recorded, inputs)
        self._counts: torch.Tensor | None = None
        self._documents: torch.Tensor | None = None

    @classmethod
    def resolve(cls, options: CountOptions, inputs: Inputs) -> Json:
        """The method is chosen once, by a sample of the text."""
        from outdim.counting import choose_method

        method = choose_method(inputs.corpus, inputs.tokenizer, options.method)
        return {"method": method.name, "why": method.why, "documents": options.documents}

    @property
    def _method(self) -> dict[str, str]:
        return {"name": self.recorded["method"], "why": self.recorded["why"]}

    def _counter(self) -> TokenCounter:
        """Keeps what it has tokenised from shard to shard."""
        from outdim.counting import CountingMethod, TokenCounter

        resources = self.inputs.resources
        return TokenCounter(
            self.inputs.tokenizer,
            CountingMethod(**self._method),
            documents=self.recorded["documents"],
            memory_bytes=resources.memory,
            workers=resources.counters,
        )

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Count one unit."""
        import torch

        from outdim.corpus import Unit

        counter = self.inputs.keep("counter", self._counter)
        counted = counter.count(
            self.inputs.corpus, [Unit(**unit)], self.inputs.resources.check_stop
        )
        progress(counted.accounting.tokens)
        tensors = {"counts": torch.from_numpy(counted.counts)}
        if counted.documents is not None:
            tensors["documents"] = torch.from_numpy(counted.documents)
        self.account = add_accounts(self.account, counted.accounting.as_dict())
        return self.merge(tensors)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """``counts`` [V] int64 and, where asked for, ``documents`` [V] int64."""
        found = {"counts": self._counts, "documents": self._documents}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Add counts."""
        counts, documents = tensors["counts"], tensors.get("documents")
        self._counts = counts if self._counts is None else self._counts + counts
        if documents is not None:
            self._documents = documents if self._documents is None else self._documents + documents
        return self

    def result(self) -> Counted:
        """The counts.

        Raises:
            EmptyCorpusError: There was no token in all of the text.
        """
        from outdim.tokens import TokenFrequencies

        inputs = self.inputs
        read = add_accounts(self.account, inputs.corpus.unreadable.as_dict())
        if self._counts is None or not bool(self._counts.any()):
            raise EmptyCorpusError(
                f"source: {' '.join(inputs.options['source'])}: the corpus has no token (left out: "
                f"{read['skipped']})."
            )
        documents = None if self._documents is None else self._documents.numpy()
        frequencies = TokenFrequencies.for_tokenizer(
            inputs.tokenizer, self._counts.numpy(), documents
        )
        return Counted(frequencies, self._method, read, inputs.options.get("min_chars", 0))
