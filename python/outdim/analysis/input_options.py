"""Options of what steps read: text, tokenizer, model, and how the model is run.

Each is one frozen dataclass; a step lists those that it `reads`, and command line, YAML and plan
follow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from outdim import gguf
from outdim.analysis.variants.variant import AblationOptions
from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from outdim.analysis.inputs import Inputs
    from outdim.corpus import Corpus

_SHARDS, _MAX_SHARD_BYTES = 256, 1 << 26
_MIN_SHARD_BYTES = 1 << 18
_MAX_THREADS = 1024  # more than any machine has cores; libraries abort when they cannot start them
_MIN_SHARD_BYTES_OF_A_MODEL = 1 << 16  # a model takes longer over a byte
_MIN_SHARD_BYTES_OF_VARIANTS = 1 << 14  # read by all together: a batch of tokens


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
        source: Local files (parquet, arrow, csv, jsonl, txt, also .gz, .zst), globs or folders of
            them, a Hugging Face id, or python-docs, the English documentation inside Python itself.
        column: Column (parquet, Hugging Face) or key (jsonl) that holds the text.
        name: Configuration of a Hugging Face dataset.
        split: Split of a Hugging Face dataset.
        min_chars: Leave out documents with fewer characters. Puccetti et al. 2022 use 71 on
            WikiText-2.
        max_document_bytes: A longer document is one that cannot be read; it bounds the memory.
        on_error: Whether a broken line or file ends the run, or is skipped and accounted for.
        shard_bytes: Size of a commit unit in bytes of input; None takes 1/256 of the data, between
            256 KiB (with a model 64 KiB, with V variants of one 16 KiB / V) and 64 MiB.
    """

    source: list[str] = field(
        default_factory=list, metadata={"positional": "TEXT", "example": "python-docs"}
    )
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

    tokenizer: str | None = field(
        default=None, metadata={"unless": "model", "example": "bert-base-uncased"}
    )

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

    model: str = field(metadata={"example": "bert-base-uncased"})
    part: Literal["encoder", "decoder"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records."""
        if (packed := gguf.about(self.model)) is not None:
            inputs.cautions.append(gguf.caution(self.model, packed, self.dtype))
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
        exclude: Tokens that are left out of the statistics: unk, or tokens as the vocabulary
            writes them.
        threads: Threads of a process. Matrix products split their sums by it, so it is part of the
            plan.
    """

    max_length: int | None = None
    token_budget: int = 4096
    autocast: Literal["bfloat16", "float16"] | None = None
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


@dataclass(frozen=True, kw_only=True)
class ObserveOptions:
    """How hidden states are looked at.

    Args:
        fused: Take moments inside our LayerNorm (may differ from torch's in the last bits).
    """

    fused: bool = True

    def resolve(self, inputs: Inputs) -> dict[str, Any]:
        """What the plan records."""
        return dataclasses.asdict(self)

    @staticmethod
    def identity(inputs: Inputs) -> dict[str, Any]:
        """Nothing of its own."""
        return {}


def args_of(kind: type[Any]) -> str:
    """What options say of each of them, for the docstring of options that have them too."""
    return (kind.__doc__ or "").partition("Args:")[2]


def option_names(kind: type[Any]) -> list[str]:
    """The names of what a plan records of a dataclass of options."""
    return [*(part.name for part in dataclasses.fields(kind)), *getattr(kind, "derived", ())]


#: What steps read that run a model over a text.
MODEL_ON_TEXT: tuple[type[Any], ...] = (
    TextOptions,
    TokenizerOptions,
    ModelOptions,
    ForwardOptions,
)

#: In the order in which they are resolved: a tokenizer may be the model's.
GROUPS: tuple[type[Any], ...] = (
    ModelOptions,
    TextOptions,
    TokenizerOptions,
    ForwardOptions,
    ObserveOptions,
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


def cut_by_work(inputs: Inputs, forwards: int, shards: int) -> int:
    """How many bytes of text make a unit by default, where variants of a model read each.

    A shard is a batch of tokens or more, and there are about as many as of any text.

    Args:
        inputs: Whose text is cut as a model alone would read it; never coarser than that.
        forwards: How many variants of the model read a shard.
        shards: How many shards have the same unit of text.
    """
    total = sum(unit.size_bytes for unit in inputs.corpus.units)
    least = _MIN_SHARD_BYTES_OF_VARIANTS // forwards
    finer = max(total * shards // _SHARDS, least, 1)
    return min(int(inputs.options["shard_bytes"]), finer)


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
