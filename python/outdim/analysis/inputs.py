"""What steps read: text, tokenizer, model and earlier results, each opened when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from outdim import gguf
from outdim.analysis.input_options import GROUPS, ModelOptions, open_recorded
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.analysis.pass_ import Pass
    from outdim.analysis.variants.text_means import Means
    from outdim.corpus import Corpus
    from outdim.models import Architecture, Head
    from outdim.tokens import TokenFrequencies

T = TypeVar("T")

#: The copy of the token counts that a study was given.
COUNTS_FILE = "counts.parquet"

_OF_MODEL = {"model", "architecture", "about_model", "heads"}
_SHAREABLE = {"corpus", "tokenizer", "files", *_OF_MODEL}


@dataclass(frozen=True)
class Resources:
    """What a process may use; none of it changes a result.

    Attributes:
        device: Where the model runs.
        memory: Bytes that the table of chunks may take while counting.
        counters: Threads that count; None takes all cores.
        check_stop: Called between batches; raises `Interrupted` when the process was asked to stop.
        note: Called within a shard that takes long, with the share of it that is done, about, and
            what is being done.
    """

    device: str = "cpu"
    memory: int = 1 << 30
    counters: int | None = None
    check_stop: Callable[[], None] = lambda: None
    note: Callable[[float, str], None] = lambda share, said: None

    def counting(
        self, variants: int, before: float = 0.0, share: float = 1.0
    ) -> Callable[[], None]:
        """What is to be called for every variant that is run on a batch; it may raise.

        Args:
            variants: How many there are.
            before: The share of the shard that was done before the batch.
            share: That of the batch.
        """
        numbers = count(1)

        def tell() -> None:
            number = next(numbers)
            self.check_stop()
            self.note(before + share * min(1.0, number / variants), f"variant {number}/{variants}")

        return tell


class Inputs:
    """What the steps of one process read.

    Args:
        options: Resolved options, as a plan records them.
        resources: Of this process.
        result: Gives the merged result of an earlier step by name.
        attached: Gives the path of a file that the study keeps, by name; None where there is none.
        known_files: What an earlier call of `Corpus.files` gave: such files are not hashed again.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        resources: Resources = Resources(),
        result: Callable[[str], Any] | None = None,
        attached: Callable[[str], Path | None] = lambda name: None,
        known_files: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.options = dict(options or {})
        self.resources = resources
        self.attached = attached
        self._result = result
        self._held: dict[str, Any] = {}
        self._known_files = known_files
        self._kept: dict[str, Any] = {}
        self.cautions: list[str] = []  # what a reader has to know of what is read
        #: What was asked of steps, by name.
        self.asked: Mapping[str, Mapping[str, Any]] = {}
        #: Gives the means of ``--mode mean``, for a seed; None where they are those of the text.
        self.means: Callable[[int], Means] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any] | None = None, **opened: Any) -> Self:
        """Inputs that are open already: ``model``, ``tokenizer``, ``corpus``, ``frequencies``."""
        inputs = cls(options)
        for name, value in opened.items():
            setattr(inputs, name, value)
        return inputs

    def name(self, given: Sequence[Any]) -> None:
        """Take from options of `GROUPS` which model is meant, and open nothing."""
        for options in given:
            if isinstance(options, ModelOptions):
                self.options["model"] = options.model

    def resolve(self, given: Sequence[Any]) -> dict[str, Any]:
        """Resolve options of `GROUPS`, one object of each kind; they are then in force."""
        by_kind = {type(options): options for options in given}
        self.name(given)
        for kind in GROUPS:
            if kind in by_kind:
                self.options.update(by_kind[kind].resolve(self))
        return self.options

    def result(self, step: str) -> Any:
        """The merged result of an earlier step.

        Raises:
            ArgumentError: There is none.
        """
        if step in self._held:
            return self._held[step]
        if self._result is None:
            raise ArgumentError(f"inputs: expected a result of the step {step!r}, got none.")
        return self._result(step)

    def hold(self, step: str, result: Any) -> None:
        """Have the result of a step that was run in memory."""
        self._held[step] = result

    def sharing(self, other: Inputs, *, model: bool = True) -> Self:
        """These, with what ``other`` has open already; both are of one study."""
        for name in _SHAREABLE if model else (_SHAREABLE - _OF_MODEL) | {"about_model"}:
            if name in vars(other):
                setattr(self, name, vars(other)[name])
        return self

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gave the first time: for what is costly and serves every shard."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    @property
    def has_model(self) -> bool:
        """Whether a model is read."""
        return "model" in self.options or "model" in vars(self)

    @property
    def device(self) -> torch.device:
        """Where hidden states are: that of a model at hand, else what the process may use."""
        import torch

        model = vars(self).get("model")
        return torch.device(self.resources.device) if model is None else model.device

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus."""
        return open_recorded(self.options)

    def recut(self, shard_bytes: int) -> None:
        """Cut the text into units of another size."""
        self.options["shard_bytes"] = shard_bytes
        vars(self).pop("corpus", None)

    @cached_property
    def files(self) -> list[dict[str, Any]]:
        """Path, size, times and hash of every file of the corpus."""
        return self.corpus.files(self._known_files)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        from outdim.tokens import load_tokenizer

        return load_tokenizer(self.options["tokenizer"])

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, on the device."""
        from outdim.models import load_model

        return load_model(
            self.options["model"],
            dtype=self.options["dtype"],
            device=self.resources.device,
            part=self.options["part"],
        )

    def model_with(self, head: Head | None) -> PreTrainedModel:
        """The model with a head (None: without), on the device; it shares the weights of `model`.

        The hidden states of one are those of the other. A model at hand (`of`) is taken as it is.

        Raises:
            ArgumentError: The model has no such head.
            DataError: The weights of the head are not there.
        """
        if head is None:
            return self.model
        if head not in self.heads:
            self.heads[head] = self._with_head(head)
        return self.heads[head]

    def _with_head(self, head: Head) -> PreTrainedModel:
        from outdim.models import check_head, load_model, share_weights

        if "model" not in self.options:
            check_head(self.model, head)
            return self.model
        dtype, device, part = self.options["dtype"], self.resources.device, self.options["part"]
        model = load_model(self.options["model"], dtype, device, part=part, head=head)
        share_weights(model, self.model)
        return model

    @cached_property
    def heads(self) -> dict[Head, PreTrainedModel]:
        """The models with a head that are open."""
        return {}

    def about_head(self, head: Head) -> dict[str, Any]:
        """What plan and manifest say of a head: its kind, class and hash with the model's."""
        from outdim.models import model_sha256

        model = self.model_with(head)
        return {"kind": head, "class": type(model).__name__, "sha256": model_sha256(model)}

    @cached_property
    def architecture(self) -> Architecture:
        """Where the model can be observed."""
        from outdim.models import architecture

        return architecture(self.model)

    @property
    def declared_size(self) -> tuple[int | None, int | None]:
        """Hidden size and layers of a model that is not open yet, as its configuration has them."""
        from outdim.models.load import declared_size

        return declared_size(self.options["model"]) if "model" in self.options else (None, None)

    @cached_property
    def about_model(self) -> dict[str, Any]:
        """What a manifest says of the model, its hash among it."""
        from outdim.models import describe

        packed = gguf.about(self.options["model"]) if "model" in self.options else None
        about = describe(self.model, self.architecture)
        return about if packed is None else {**about, "gguf": packed}

    @cached_property
    def frequencies(self) -> TokenFrequencies:
        """The token frequencies that states are related to: those attached, else the text's own."""
        from outdim.tokens import TokenFrequencies

        attached = self.attached(COUNTS_FILE)
        if attached is not None:
            return TokenFrequencies.from_parquet(attached)
        return self.text_frequencies

    @property
    def own_counts(self) -> bool:
        """Whether `frequencies` are the text's own, since no others were given."""
        return self.frequencies is vars(self).get("text_frequencies")

    @cached_property
    def text_frequencies(self) -> TokenFrequencies:
        """The token frequencies of the text itself, counted here where no step did it."""
        from outdim.counting import count_tokens

        if self._result is None:
            return count_tokens(self.corpus, self.tokenizer)
        found: TokenFrequencies = self._result("count").frequencies
        return found

    @cached_property
    def forward(self) -> Pass:
        """Runs the model; what it learns of the memory serves every shard."""
        from outdim.analysis.pass_ import Pass

        return Pass(self)
