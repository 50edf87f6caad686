"""Documents: where text comes from, cut into units that are read in any order."""

import importlib
import warnings
from typing import Any

from outdim.corpus.corpus import Corpus, listed, open_corpus
from outdim.corpus.given import GivenTexts, corpus_of
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.unit import Unit

__all__ = [
    "Accounting",
    "Corpus",
    "GivenTexts",
    "Texts",
    "Unit",
    "corpus_of",
    "listed",
    "open_corpus",
]

_MOVED = {
    **dict.fromkeys(
        (
            *("Batch", "Comparison", "Coverage", "Piece", "TokenFrequencies", "batches"),
            *("check_tokenizer", "compare", "encode_pieces", "load_tokenizer", "special_ids"),
            "vocabulary_size",
        ),
        "outdim.tokens",
    ),
    **dict.fromkeys(
        ("CountingMethod", "TokenCounter", "UnitCounts", "choose_method", "count_tokens"),
        "outdim.counting",
    ),
}


def __getattr__(name: str) -> Any:
    """Names that stood here in version 0.1."""
    if name not in _MOVED:
        raise AttributeError(f"module 'outdim.corpus' has no attribute {name!r}")
    warnings.warn(f"outdim.corpus.{name} is {_MOVED[name]}.{name}", DeprecationWarning, 2)
    return getattr(importlib.import_module(_MOVED[name]), name)
