"""From options to a plan: everything that changes the answer is resolved and hashed here, once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from outdim.errors import ArgumentError
from outdim.options import CorpusOptions, CorrelateOptions, CountOptions, SpreadOptions
from outdim.run.engine import Share
from outdim.run.plan import Plan, Stage

if TYPE_CHECKING:
    from outdim.corpus import Corpus

_MIN_SHARD_BYTES, _MAX_SHARD_BYTES, _SHARDS = 1 << 18, 1 << 26, 256


def plan_corpus(source: Sequence[str], options: CorpusOptions) -> tuple[Corpus, dict[str, Any]]:
    """Open the corpus; return it with the plan options that open the same one again."""
    from outdim.corpus import open_corpus

    if not source:
        raise ArgumentError("source: name the text: files, globs, a Hugging Face dataset id, or python-docs.")
    if options.min_chars < 0 or (options.shard_bytes is not None and options.shard_bytes < 1):
        raise ArgumentError("min-chars, shard-bytes: expected positive numbers.")
    planned = {
        "source": list(source),
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(CorpusOptions)},
    }
    if options.shard_bytes is None:
        total = sum(file["size_bytes"] for file in open_corpus(list(source), name=options.name).files)
        planned["shard_bytes"] = min(max(total // _SHARDS, _MIN_SHARD_BYTES), _MAX_SHARD_BYTES)
    return open_planned_corpus(planned), planned


def open_planned_corpus(options: Mapping[str, Any]) -> Corpus:
    """The corpus of a plan's options."""
    from outdim.corpus import open_corpus

    source = options["source"]
    return open_corpus(
        source[0] if len(source) == 1 else source,
        column=options["column"],
        name=options["name"],
        split=options["split"],
        min_chars=options["min_chars"],
        on_error=options["on_error"],
        unit_bytes=options["shard_bytes"],
    )
