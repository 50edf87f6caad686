"""Documents, tokens and their frequencies: where text comes from, how it is counted and batched."""

from outdim.corpus.compare import Comparison, compare
from outdim.corpus.count import count_tokens
from outdim.corpus.counter import CountingMethod, TokenCounter, UnitCounts
from outdim.corpus.documents import Corpus, open_corpus
from outdim.corpus.frequency import Coverage, TokenFrequencies
from outdim.corpus.method import choose_method
from outdim.corpus.texts import Accounting, Texts
from outdim.corpus.tokens import (
    Batch,
    Piece,
    batches,
    check_tokenizer,
    encode_pieces,
    load_tokenizer,
    special_ids,
    vocabulary_size,
)
from outdim.corpus.units import Unit

__all__ = [
    "Accounting",
    "Batch",
    "Comparison",
    "Corpus",
    "CountingMethod",
    "Coverage",
    "Piece",
    "Texts",
    "TokenCounter",
    "TokenFrequencies",
    "Unit",
    "UnitCounts",
    "batches",
    "check_tokenizer",
    "choose_method",
    "compare",
    "count_tokens",
    "encode_pieces",
    "load_tokenizer",
    "open_corpus",
    "special_ids",
    "vocabulary_size",
]
