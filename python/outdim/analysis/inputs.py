"""What steps read: text, tokenizer, model and earlier results, each opened when first used.

The options of each are one frozen dataclass; a step lists those that it `reads`, and command line,
YAML and plan follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from outdim import gguf
from outdim.analysis.variants import AblationOptions
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from outdim.analysis.pass_ import Pass
    from outdim.corpus import Corpus
    from outdim.models import Architecture, Head
    from outdim.tokens import TokenFrequencies

_SHARDS, _MAX_SHARD_BYTES = 256, 1 << 26
_MIN_SHARD_BYTES = 1 << 18
_MAX_THREADS = 1024  # more than any machine has cores; libraries abort when they cannot start them
_MIN_SHARD_BYTES_OF_A_MODEL = 1 << 16  # a model takes longer over a byte


class InputOptions(Protocol):
    """Options of something that steps read."""

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records, defaults filled in."""

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Hashes by which another run knows that it reads the same."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which text is read.

    Args:
        source: Local parquet, jsonl or txt files or globs (also .gz, .zst), a Hugging Face id, or
            python-docs, the English documentation inside Python itself.
        column: Column (parquet, Hugging Face) or key (jsonl) that holds the text.
        name: Configuration of a Hugging Face dataset.
        split: Split of a Hugging Face dataset.
        min_chars: Leave out documents with fewer characters. Puccetti et al. 2022 use 71 on
            WikiText-2.
        max_document_bytes: A longer document is one that cannot be read; it bounds the memory.
        on_error: Whether a broken line or file ends the run, or is skipped and accounted for.
        shard_bytes: Size of a commit unit in bytes of input. None: 1/256 of the data, between 256
            KiB (with a model 64 KiB) and 64 MiB.
    """

    source: list[str] = field(default_factory=list, metadata={"positional": "TEXT"})
    column: str = "text"
    name: str | None = None
    split: str = "train"
    min_chars: int = 0
    max_document_bytes: int = 64 << 20
    on_error: Literal["fail", "skip"] = "fail"
    shard_bytes: int | None = None

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records; the corpus can be opened."""
        if not self.source:
            raise ArgumentError(
                "source: name the text: files, globs, a Hugging Face dataset id, or python-docs."
            )
        if self.min_chars < 0:
            raise ArgumentError(f"min-chars: expected 0 or more, got {self.min_chars}.")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise ArgumentError(f"shard-bytes: expected at least 1, got {self.shard_bytes}.")
        recorded = dataclasses.asdict(self)
        if self.shard_bytes is None:
            # Any cut into units has the same total; nothing is read for it.
            whole = open_recorded({**recorded, "shard_bytes": _MAX_SHARD_BYTES})
            total = sum(unit.size_bytes for unit in whole.units)
            least = _MIN_SHARD_BYTES_OF_A_MODEL if inputs.has_model else _MIN_SHARD_BYTES
            recorded["shard_bytes"] = min(max(total // _SHARDS, least), _MAX_SHARD_BYTES)
        return recorded

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Path, size and hash of every file."""
        return {
            "files": [{k: f[k] for k in ("path", "size_bytes", "sha256")} for f in inputs.files]
        }


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """Which tokenizer makes tokens of the text.

    Args:
        tokenizer: Hugging Face id or local directory of a fast tokenizer; None takes the model's.
    """

    tokenizer: str | None = None

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records."""
        name = self.tokenizer or inputs.options.get("model")
        if name is None:
            raise ArgumentError("tokenizer: name it: a Hugging Face id or a local directory.")
        return {"tokenizer": name}

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Hash of all that decides the ids of a text."""
        from outdim.tokens import tokenizer_sha256

        return {"tokenizer": tokenizer_sha256(inputs.tokenizer)}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model is looked at.

    Args:
        model: Hugging Face id, local directory or GGUF file, which is dequantised.
        part: Of a model with two: its encoder or its decoder.
        dtype: The model's parameters are converted to it; None leaves them.
    """

    model: str
    part: Literal["encoder", "decoder"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records."""
        if (packed := gguf.about(self.model)) is not None:
            inputs.cautions.append(gguf.caution(self.model, packed))
        return dataclasses.asdict(self)

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Hash of the weights, and of the GGUF file that they come from."""
        about = inputs.about_model
        packed = {"gguf": about["gguf"]["sha256"]} if "gguf" in about else {}
        return {"model": about["sha256"], **packed}


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """How the model is run over the text.

    Args:
        max_length: Tokens per sequence with special tokens; None takes the model's limit, at most
            512.
        token_budget: Tokens per batch, padding included.
        autocast: Run the forward under torch.autocast with this type.
        fused: Take moments inside our LayerNorm (may differ from torch's in the last bits).
        exclude: Tokens that are left out of the statistics: unk, or tokens as the vocabulary
            writes them.
        threads: Threads of a process. Matrix products split their sums by it, so it is part of the
            plan.
    """

    max_length: int | None = None
    token_budget: int = 4096
    autocast: Literal["bfloat16", "float16"] | None = None
    fused: bool = True
    exclude: list[str] = field(default_factory=list)
    threads: int = 1

    #: What the plan records besides: how the model takes padding (`outdim.models.Padding`).
    derived: ClassVar[tuple[str, ...]] = ("padding",)

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records; model and tokenizer fit each other."""
        from outdim.models import probe_padding, sequence_length
        from outdim.tokens import check_tokenizer

        if self.token_budget < 1:
            raise ArgumentError(f"token-budget: expected at least 1, got {self.token_budget}.")
        if not 1 <= self.threads <= _MAX_THREADS:
            raise ArgumentError(f"threads: expected 1 to {_MAX_THREADS}, got {self.threads}.")
        model, arch = inputs.model, inputs.architecture
        arch.select(None)  # says why, where hidden states cannot be named
        inputs.cautions += check_tokenizer(inputs.tokenizer, arch.vocab_size, model.config)
        length = sequence_length(model, self.max_length)
        padding = probe_padding(model, arch, length)
        if padding.reaches_text:
            inputs.cautions.append(
                "Padding changes the hidden states of the text before it in this model: only texts "
                "of the same length share a batch."
            )
        return {
            **dataclasses.asdict(self),
            "max_length": length,
            "exclude": excluded_ids(inputs.tokenizer, self.exclude),
            "padding": dataclasses.asdict(padding),
        }

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Nothing of its own."""
        return {}


def option_names(kind: type[Any]) -> list[str]:
    """The names of what a plan records of a dataclass of options."""
    return [*(part.name for part in dataclasses.fields(kind)), *getattr(kind, "derived", ())]


#: In the order in which they are resolved: a tokenizer may be the model's.
GROUPS: tuple[type[Any], ...] = (
    ModelOptions,
    TextOptions,
    TokenizerOptions,
    ForwardOptions,
    AblationOptions,
)

#: What two steps of one study must agree in.
SHARED: tuple[type[Any], ...] = (ModelOptions, TextOptions, TokenizerOptions)


def excluded_ids(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Ids of tokens by their names in the vocabulary; ``unk`` is the unknown token.

    Raises:
        ArgumentError: The vocabulary has no such token.
    """
    vocabulary = tokenizer.get_vocab()
    found = []
    for token in tokens:
        i = tokenizer.unk_token_id if token == "unk" else vocabulary.get(token)
        if i is None:
            raise ArgumentError(f"exclude: the vocabulary has no token {token!r}.")
        found.append(int(i))
    return sorted(set(found))


def open_recorded(options: Mapping[str, Any]) -> Corpus:
    """The corpus of a plan's options."""
    from outdim.corpus import open_corpus

    source = options["source"]
    return open_corpus(
        source[0] if len(source) == 1 else source,
        column=options["column"],
        name=options["name"],
        split=options["split"],
        min_chars=options["min_chars"],
        max_document_bytes=options["max_document_bytes"],
        on_error=options["on_error"],
        unit_bytes=options["shard_bytes"],
    )


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
    """

    device: str = "cpu"
    memory: int = 1 << 30
    counters: int | None = None
    check_stop: Callable[[], None] = lambda: None


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
        self._known_files = known_files
        self._kept: dict[str, Any] = {}
        self.cautions: list[str] = []  # what a reader has to know of what is read

    @classmethod
    def of(cls, options: Mapping[str, Any] | None = None, **opened: Any) -> Self:
        """Inputs that are open already: ``model``, ``tokenizer``, ``corpus``, ``frequencies``."""
        inputs = cls(options)
        for name, value in opened.items():
            setattr(inputs, name, value)
        return inputs

    def resolve(self, given: Sequence[Any]) -> dict[str, Any]:
        """Resolve options of `GROUPS`, one object of each kind; they are then in force."""
        by_kind = {type(options): options for options in given}
        if ModelOptions in by_kind:
            self.options["model"] = by_kind[ModelOptions].model
        for kind in GROUPS:
            if kind in by_kind:
                self.options.update(by_kind[kind].resolve(self))
        return self.options

    def result(self, step: str) -> Any:
        """The merged result of an earlier step.

        Raises:
            ArgumentError: There is none.
        """
        if self._result is None:
            raise ArgumentError(f"inputs: expected a result of the step {step!r}, got none.")
        return self._result(step)

    def sharing(self, other: Inputs, *, model: bool = True) -> Self:
        """These, with what ``other`` has open already; both are of one study."""
        for name in _SHAREABLE if model else (_SHAREABLE - _OF_MODEL) | {"about_model"}:
            if name in vars(other):
                setattr(self, name, vars(other)[name])
        return self

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave the first time: for what is costly and serves every shard."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

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

    def model_with(self, head: Head) -> PreTrainedModel:
        """The model with a head, on the device; it shares the weights of `model`.

        The hidden states of one are those of the other. A model at hand (`of`) is taken as it is.

        Raises:
            ArgumentError: The model has no such head.
            DataError: The weights of the head are not there.
        """
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

        attached = self.attached("counts.parquet")
        if attached is not None:
            return TokenFrequencies.from_parquet(attached)
        return self.text_frequencies

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
