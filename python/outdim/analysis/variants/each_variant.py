"""What steps share that run variants of a language model over a text and look at predictions.

A step says what is predicted (`Predicting.items`), what is measured of the states before the output
layer and with how many variants a forward (`EachVariant.runner`), and what it keeps of that
(`Keeps`); the loop is here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.given_counts import attached_counts, counts_are_given
from outdim.analysis.inputs import Inputs
from outdim.analysis.predicting import Predicting
from outdim.analysis.step import Json, Progress, add_accounts
from outdim.analysis.variants.runner import Predicted, Runner, predictor_of
from outdim.analysis.variants.variant import Variant
from outdim.corpus import Accounting
from outdim.errors import DataError

if TYPE_CHECKING:
    from outdim.models import Ablation


class Keeps(Protocol):
    """What a step keeps of one unit of text."""

    @property
    def documents(self) -> int:
        """How many documents there are in which something was predicted."""

    def add(self, predicted: Predicted[Any]) -> None:
        """Take what a batch gave."""

    def state(self) -> dict[str, Tensor]:
        """What `EachVariant.merge` takes."""


class EachVariant(Predicting):
    """Runs every variant over the same batches of text."""

    needs: ClassVar[tuple[str, ...]] = ("count",)
    ablates = True

    @classmethod
    def resolve(cls, options: Any, inputs: Inputs) -> Json:
        """The model predicts what is asked for, and ``counts`` are of its tokenizer."""
        recorded = super().resolve(options, inputs)
        recorded["note"] = predictor_of(inputs, cls.head).note
        if "counts" not in recorded:  # of a step that relates nothing to them
            return recorded
        del recorded["counts"]  # a copy is attached
        return {**recorded, "given_counts": counts_are_given(options.counts, inputs)}

    @classmethod
    def attach(cls, options: Any, inputs: Inputs) -> dict[str, bytes]:
        """The counts that were given."""
        return attached_counts(getattr(options, "counts", None), inputs)

    @classmethod
    def requires(cls, recorded: Mapping[str, Any]) -> tuple[str, ...]:
        """The text's own counts, where no others were given."""
        return () if recorded.get("given_counts", True) else EachVariant.needs

    @cached_property
    def variants(self) -> list[Variant]:
        """The intact model first."""
        return [Variant.from_dict(plain) for plain in self.recorded["variants"]]

    @abstractmethod
    def runner(self) -> Runner[Any]:
        """What runs the model; what it learns of the memory serves every shard."""

    @abstractmethod
    def keeping(self, runner: Runner[Any], documents: Documents, variants: int) -> Keeps:
        """What takes what is measured of a unit."""

    def update(self, unit: Mapping[str, Any], progress: Progress) -> Self:
        """Take one unit of text."""
        ablations = [v.ablation for v in self.variants if v.ablation is not None]
        found, read = self.measured(unit, ablations, progress)
        self.account = add_accounts(self.account, read)
        self.merge(found)
        return self

    def measured(
        self, unit: Mapping[str, Any], ablations: Sequence[Ablation], progress: Progress
    ) -> tuple[dict[str, Tensor], Json]:
        """What is kept of a unit of text, of the intact model and ablated ones, and its account."""
        runner, account, documents = self.runner(), Accounting(), self.documents()
        kept = self.keeping(runner, documents, 1 + len(ablations))
        done = 0
        for batch in self.batches(runner.reading, unit, account, documents):
            share = documents.share(unit, done), documents.share(unit, batch.batch.tokens)
            tell = self.inputs.resources.counting(len(ablations), *share)
            runner.run(batch, ablations, kept.add, tell)
            progress(batch.batch.tokens)
            done += batch.batch.tokens
        return kept.state(), {
            "documents": len(documents.tokens),
            "without": len(documents.tokens) - kept.documents,
            "excluded": dict(account.skipped),
            "places": account.places,
        }

    def nothing_to_predict(self) -> DataError:
        """The error where no token of all the text could be predicted."""
        return DataError(
            f"source: {self.inputs.corpus.source}: no token to predict; a document needs two "
            "tokens, or one that is masked."
        )
