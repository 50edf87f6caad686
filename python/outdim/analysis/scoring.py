"""Batches through every variant of a model, and what they predict added up by document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import xxhash
from torch import Tensor

from outdim.analysis.evaluation import SUMS
from outdim.analysis.fitting import Fitting, autocast, side_by_side
from outdim.analysis.heads import WithHead
from outdim.analysis.inputs import Inputs
from outdim.analysis.reading import Reading
from outdim.models import Ablation, Predictor, architecture, check_eval_mode
from outdim.models.last_states import LastStates
from outdim.models.losses import Scores, scores
from outdim.models.prefix import PrefixForward
from outdim.tokens import Piece
from outdim.tokens.targets import TargetBatch
from outdim.tokens.tokenizer import backend, template

T = TypeVar("T")

_STATE_BYTES = 1 << 28  # of the states of so many variants as are scored at once


def predictor_of(inputs: Inputs, head: type[WithHead]) -> Any:
    """The model with its head as a `Predictor`, opened once; of `NoHead` `LastStates`."""
    kind = Predictor if head.head else LastStates
    return inputs.keep(f"predictor {head.head}", lambda: kind(inputs.model_with(head.head)))


class Rows(NamedTuple):
    """The R tokens that a batch predicts, int64 [R] each.

    Attributes:
        documents: By number, as the items have it.
        places: In the document, see `outdim.tokens.targets.TargetBatch.first`.
        targets: The true ids.
        sequences: Of the batch.
    """

    documents: Tensor
    places: Tensor
    targets: Tensor
    sequences: Tensor


class Predicted(NamedTuple, Generic[T]):
    """What a batch gives: its rows, and what was measured of each of the M variants."""

    rows: Rows
    found: Sequence[T]


#: What is measured of the states [R, D] of variants, the intact model first, each by itself or
#: beside the intact one.
Measure = Callable[[Predictor, Sequence[Tensor], Rows], list[T]]


def scored(
    predictor: Predictor, states: Sequence[Tensor], rows: Rows, *, brief: bool = False
) -> list[Scores]:
    """Measure what predictions are worth; ``brief`` as in `outdim.models.losses.scores`."""
    return scores(predictor.logits, states, rows.targets, predictor.vocab_size, brief=brief)


class Closed(Protocol[T]):
    """What measures some variants without running them, as `outdim.models.last_layer`."""

    def takes(self, ablation: Ablation) -> bool:
        """Whether this is one of them."""

    def scores(
        self, hidden: Tensor, targets: Tensor, intact: T, ablations: Sequence[Ablation]
    ) -> list[T]:
        """Measure them from the hidden states [R, D] of the last layer."""


class Runner(Generic[T]):
    """Runs variants over the same batches; layers below their first edit run once for all.

    Args:
        inputs: Where model and text are.
        head: What the model predicts with.
        measure: Of the states of every variant.
        at_once: How many variants share a forward; None takes as many as make a batch of
            the token budget, on CPUs no more than it takes to use them.
        closed: What measures some of them otherwise.
    """

    def __init__(
        self,
        inputs: Inputs,
        head: type[WithHead],
        measure: Measure[T],
        at_once: int | None = 1,
        closed: Closed[T] | None = None,
    ) -> None:
        self._model = inputs.model_with(head.head)
        check_eval_mode(self._model)
        self.predictor = predictor_of(inputs, head)
        found = architecture(self._model)
        self._layers = found.layers
        self._forward = PrefixForward(self._model, found, self.predictor.states)
        self._at_once, self._measure, self._closed = at_once, measure, closed
        self._budget: int = inputs.options["token_budget"]
        self._autocast = inputs.options["autocast"]
        self._fitting = Fitting()
        self.reading = Reading(inputs)
        self._inputs = inputs

    @cached_property
    def log_counts(self) -> Tensor:
        """By id log(1 + count), [V]; ids that the tokenizer does not know were never counted."""
        found = torch.zeros(self.predictor.vocab_size, dtype=torch.float64)
        counts = torch.from_numpy(self._inputs.frequencies.log1p())[: len(found)]
        found[: len(counts)] = counts
        return found

    @property
    def note(self) -> str:
        """Why every variant runs all of the model; "" where it does not."""
        return self._forward.note

    def run(
        self,
        batch: TargetBatch,
        ablations: Sequence[Ablation],
        take: Callable[[Predicted[T]], None],
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure the intact model and the ablated ones on a batch, in parts if it does not fit.

        Meanwhile ``tell`` is called for each of them, and may raise.
        """
        held: list[Predicted[T]] = []

        def commit() -> None:
            for predicted in held:
                take(predicted)
            held.clear()

        self._fitting.run(
            batch,
            lambda part: held.extend(self._predict(part, ablations, tell)),
            commit,
            discard=held.clear,
        )

    def _predict(
        self, batch: TargetBatch, ablations: Sequence[Ablation], tell: Callable[[], None]
    ) -> Iterator[Predicted[T]]:
        """What a batch gives; nothing where there is nothing to predict."""
        batch = batch.to(self._model.device)
        chosen = batch.labels >= 0
        if not chosen.any():
            return
        documents = batch.batch.documents[:, None].expand_as(chosen)
        places = batch.first[:, None] + batch.batch.position
        rows = Rows(documents[chosen], places[chosen], batch.labels[chosen], chosen.nonzero()[:, 0])
        ids, mask = batch.input_ids, batch.batch.attention_mask
        with torch.inference_mode(), autocast(self._autocast, self._model.device):
            closed = self._in_closed_form(ablations)
            last = [self._layers] if closed else []
            intact = self._forward.keep(ids, mask, ablations, last)[chosen]
            run = [one for number, one in enumerate(ablations) if number not in closed]
            at_once = self._at_once or side_by_side(ids.numel(), self._budget, ids.device)
            states = partial(self._states, at_once=at_once, tell=tell)
            found = self._run(run, states, intact, chosen, rows)
            if self._closed is not None and closed:
                hidden = self._forward.hidden(self._layers)[chosen]
                some = [ablations[number] for number in closed]
                scores = self._closed.scores(hidden, rows.targets, found[0], some)
                for number, one in zip(closed, scores, strict=True):
                    found.insert(1 + number, one)
        yield Predicted(rows, found)

    def _in_closed_form(self, ablations: Sequence[Ablation]) -> list[int]:
        """The numbers of those that need not be run."""
        if self._closed is None or self._autocast or self._forward.note:
            return []
        return [number for number, one in enumerate(ablations) if self._closed.takes(one)]

    def _run(
        self,
        ablations: Sequence[Ablation],
        states: Callable[[Sequence[Ablation]], Iterator[Tensor]],
        intact: Tensor,
        chosen: Tensor,
        rows: Rows,
    ) -> list[T]:
        """Measure the intact model and ablated ones on the batch that is kept."""
        found = [] if ablations else self._measure(self.predictor, [intact], rows)
        held = max(1, _STATE_BYTES // (intact.numel() * intact.element_size()))
        for start in range(0, len(ablations), held):
            some = ablations[start : start + held]
            own = [h[chosen] for h in states(some)]
            measured = self._measure(self.predictor, [intact, *own], rows)
            found += measured[1:] if start else measured
        return found

    def _states(
        self, ablations: Sequence[Ablation], at_once: int, tell: Callable[[], None]
    ) -> Iterator[Tensor]:
        for states in self._forward.variants(ablations, at_once):
            tell()
            yield states


class Documents:
    """What is noted of the documents of a unit while they are read, by their number.

    Attributes:
        keys: 64 bits of the text and the seed, by which its masks are drawn.
        bytes: UTF-8.
        tokens: Without those of the template.
        texts: Themselves, where they are kept.
        before: Tokens of the template before a text.
    """

    def __init__(
        self, inputs: Inputs, seed: int, *, words: bool = False, texts: bool = False
    ) -> None:
        self._seed = seed
        self._inner = backend(inputs.tokenizer)
        self._template = tuple(map(len, template(self._inner)))
        self.before = self._template[0]
        self.texts: list[str] | None = [] if texts else None
        self._words: list[list[int | None]] | None = [] if words else None
        self.keys: list[int] = []
        self.bytes: list[int] = []
        self.tokens: dict[int, int] = {}

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """Hand documents on, noting what they are."""
        for text in texts:
            encoded = text.encode()
            self.keys.append(xxhash.xxh64_intdigest(encoded, self._seed))
            self.bytes.append(len(encoded))
            if self._words is not None:
                self._words.append(self._inner.encode(text, add_special_tokens=False).word_ids)
            if self.texts is not None:
                self.texts.append(text)
            yield text

    def noting(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Hand pieces on, adding up their tokens."""
        for piece in pieces:
            own = len(piece.ids) - sum(self._template)
            self.tokens[piece.document] = self.tokens.get(piece.document, 0) + own
            yield piece

    def share(self, unit: Mapping[str, Any], tokens: int) -> float:
        """Which share of a unit so many tokens are, as far as what was read of it tells."""
        read, whole = sum(self.bytes), unit.get("size_bytes") or 0
        expected = sum(self.tokens.values()) * max(1.0, whole / read if read else 1.0)
        return min(1.0, tokens / expected) if expected else 1.0

    def words_of(self, piece: Piece) -> list[int | None]:
        """Which word of its document each token of a piece belongs to."""
        assert self._words is not None
        before, after = self._template
        own = len(piece.ids) - before - after
        words = self._words[piece.document][piece.offset : piece.offset + own]
        return [*[None] * before, *words, *[None] * after]


class Tally:
    """Sums by document of one unit.

    Attributes:
        columns: K, what is added up.
    """

    columns = len(SUMS)

    def __init__(self, variants: int, log_counts: Tensor, documents: Documents) -> None:
        self._variants, self._log_counts, self._read = variants, log_counts, documents
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def documents(self) -> int:
        """How many documents there are in which something was predicted."""
        return len({number for part in self._parts for number in part[0].tolist()})

    @classmethod
    def nothing(cls, variants: int) -> dict[str, Tensor]:
        """The state of no document."""
        return {
            "sums": torch.zeros(0, variants, cls.columns, dtype=torch.float64),
            "tokens": torch.zeros(0, dtype=torch.int64),
            "bytes": torch.zeros(0, dtype=torch.float64),
        }

    def add(self, predicted: Predicted[Any]) -> None:
        """Take what a batch gave."""
        (documents, _, targets, _), found = predicted
        numbers, which = _numbered(documents.cpu())
        values = torch.stack([self._values(targets, one, found[0]) for one in found], 1)
        shape = (len(numbers), *values.shape[1:])
        sums = torch.zeros(shape, dtype=torch.float64).index_add_(0, which, values)
        self._parts.append((numbers, sums, which.bincount(minlength=len(numbers))))

    def _values(self, targets: Tensor, own: Any, intact: Any) -> Tensor:
        """[R, K]; on the CPU, where sums have one order."""
        predicted, true = own.predicted.cpu(), targets.cpu()
        # A logit of -inf that is not the true token's leaves the loss finite alone.
        finite = own.loss.isfinite() & own.kl.isfinite()
        if not own.brief:
            finite &= own.entropy.isfinite()
        return torch.stack(
            [
                own.loss.cpu(),
                (predicted == true).double(),
                own.entropy.cpu(),
                own.kl.cpu(),
                (predicted == intact.predicted.cpu()).double(),
                own.top.cpu(),
                self._log_counts[predicted] - self._log_counts[true],
                (~finite).double().cpu(),
            ],
            1,
        )

    def state(self) -> dict[str, Tensor]:
        """Of the documents in which something was predicted, in the order read."""
        if not self._parts:
            return self.nothing(self._variants)
        every, sums, tokens = (torch.cat(each) for each in zip(*self._parts, strict=True))
        numbers, which = _numbered(every)
        total = torch.zeros(len(numbers), *sums.shape[1:], dtype=torch.float64)
        scored = torch.zeros(len(numbers), dtype=torch.int64).index_add_(0, which, tokens)
        # What is not predicted is as long as what is.
        share = [self._read.bytes[n] / self._read.tokens[n] for n in numbers.tolist()]
        return {
            "sums": total.index_add_(0, which, sums),
            "tokens": scored,
            "bytes": scored * torch.tensor(share, dtype=torch.float64),
        }


def _numbered(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The documents that there are, in order, and which of these each is."""
    numbers, which = np.unique(documents.numpy(), return_inverse=True)
    return torch.from_numpy(numbers), torch.from_numpy(which)
