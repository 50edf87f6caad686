"""Token ids of a text: tokenizers, batches for a model, frequencies by id."""

from outdim.tokens.batches import Batch, batches
from outdim.tokens.compare import Comparison, compare
from outdim.tokens.fit import check_frequencies, unjoined_words
from outdim.tokens.frequencies import Coverage, TokenFrequencies
from outdim.tokens.pieces import GROUPS, Piece, PieceEncoder, document_key, encode_pieces
from outdim.tokens.tokenizer import (
    check_tokenizer,
    load_tokenizer,
    padding_id,
    special_ids,
    tokenizer_sha256,
    vocabulary_size,
)

__all__ = [
    "GROUPS",
    "Batch",
    "Comparison",
    "Coverage",
    "Piece",
    "PieceEncoder",
    "TokenFrequencies",
    "batches",
    "check_frequencies",
    "check_tokenizer",
    "compare",
    "document_key",
    "encode_pieces",
    "load_tokenizer",
    "padding_id",
    "special_ids",
    "tokenizer_sha256",
    "unjoined_words",
    "vocabulary_size",
]
