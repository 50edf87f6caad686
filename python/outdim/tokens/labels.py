"""Labels of ids for people, and the bytes they stand for."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from outdim.tokens.tokenizer import inside

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def token_labels(tokenizer: Any, size: int) -> tuple[str, ...]:
    """The token of each id.

    Args:
        tokenizer: A fast tokenizer.
        size: V, of the vocabulary.

    Returns:
        V strings, "" where an id has none.
    """
    labels = [""] * size
    for token, i in tokenizer.get_vocab().items():
        if i < size:
            labels[i] = token
    return tuple(labels)


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes a byte as a printable character: itself, or one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return alphabet


def token_bytes(tokenizer: Any, labels: tuple[str, ...]) -> tuple[bytes | None, ...] | None:
    """The bytes of each id of byte-level and byte-fallback vocabularies.

    Args:
        tokenizer: A fast tokenizer.
        labels: Its `token_labels`.

    Returns:
        What each id stands for, None for an id that stands for none; None for other vocabularies.
    """
    inner = inside(tokenizer)
    added = {i: token.content for i, token in inner.get_added_tokens_decoder().items()}
    decoder = inner.decoder.__getstate__().decode() if inner.decoder is not None else ""
    if '"ByteLevel"' in decoder:
        alphabet = _byte_alphabet()
        return tuple(
            added[i].encode()
            if i in added
            else bytes(alphabet[letter] for letter in label)
            if all(letter in alphabet for letter in label)
            else None
            for i, label in enumerate(labels)
        )
    if '"ByteFallback"' in decoder:
        found = [_BYTE_TOKEN.fullmatch(label) for label in labels]
        return tuple(
            bytes([int(match[1], 16)]) if match else label.replace("\u2581", " ").encode()
            for match, label in zip(found, labels, strict=True)
        )
    return None
