"""Counting by chunks gives the counts of plain encoding, for every kind of tokenizer and any text."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from corpus.zoo import BUILD, TEXTS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from outdim.corpus import CountingMethod, Texts, TokenCounter

pytest.importorskip("outdim._core")
CHUNKS = CountingMethod("chunks", "test")


@cache
def counter(name: str) -> TokenCounter:
    return TokenCounter(build(name), CHUNKS, workers=2)


def plain(tokenizer: Any, texts: Sequence[str], size: int) -> np.ndarray:
    counts = np.zeros(size, np.int64)
    if texts:
        for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]:
            counts += np.bincount(ids, minlength=size)
    return counts


def assert_same(name: str, texts: Sequence[str]) -> None:
    counts, _ = counter(name).count_texts(Texts.of(texts))
    expected = plain(build(name), texts, len(counts))
    wrong = np.flatnonzero(counts != expected)
    labels = [build(name).convert_ids_to_tokens(int(i)) for i in wrong]
    assert not len(wrong), f"{labels} {counts[wrong]} {expected[wrong]} in {texts!r}"


FRAGMENTS = [
    *[
        "a",
        "B",
        "the",
        "The",
        "fox",
        "s",
        "t",
        "ll",
        "7",
        "42",
        "1234567",
        "é",
        "e\u0301",
        "ß",
        "İ",
    ],
    *[" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\x0b", "\x0c", "\x00"],
    *["\u00a0", "\u3000", "\u2003", "\u200b", "\u200d", "\ufeff", "\u2028", "\x85", "\x1c", "\x07"],
    *[
        "\u0301",
        "\u0338",
        "\u0308",
        "\u0600",
        "\u00ad",
        "¨",
        "´",
        "ﷺ",
        "ﬁ",
        "½",
        "\ufffd",
        "\u180e",
    ],
    *["'", "'s", "'T", "'re", "’", "“", "—", ".", ",", ";", "!", "?", "(", ")", "[", "]", "<", ">"],
    *['"', "``", "''", "-", "_", "/", "\\", "#", "##", "$", "%", "&", "*", "@", "^", "|", "~", "="],
    *["中", "文", "。", "，", "あ", "ア", "한", "ไ", "हि", "ال", "َ", "١", "я", "Ж", "σ", "ς", "Σ"],
    *[
        "👍",
        "👍🏽",
        "👩\u200d👧",
        "❤\ufe0f",
        "🇩🇪",
        "𝔘",
        "\U000e0041",
        "\ue000",
        "\u2581",
        "\u2581a",
    ],
    *["[SEP]", "[CLS]", "[UNK]", "[MASK]", "<s>", "</s>", "<unk>", "<mask>", "<pad>", "[", "<|"],
    *["<|endoftext|>", "[sep]", "‡", "¶", "§", "x" * 40, "lowe" * 30],
]
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", BUILD)
class TestEveryKind:
    def test_texts_of_many_scripts(self, name: str) -> None:
        assert_same(name, TEXTS)

    def test_texts_in_one_document(self, name: str) -> None:
        assert_same(name, [" ".join(TEXTS), "\n".join(TEXTS), "".join(TEXTS)])

    @settings(max_examples=60)
    @given(texts=st.lists(PIECES, max_size=4))
    def test_fragments(self, name: str, texts: list[str]) -> None:
        assert_same(name, texts)

    @settings(max_examples=25)
    @given(texts=st.lists(ANY, max_size=4))
    def test_any_text(self, name: str, texts: list[str]) -> None:
        assert_same(name, texts)

    def test_every_pair_of_fragments(self, name: str) -> None:
        assert_same(name, [f"a{x}{y} b" for x in FRAGMENTS for y in FRAGMENTS])
