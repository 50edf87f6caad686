"""Counting by chunks gives the counts of plain encoding, for every kind and any text."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outdim.corpus import Texts
from outdim.counting import CountingMethod, TokenCounter
from outdim.tokens.tokenizer import backend
from tokenizer_zoo import BUILD, FRAGMENTS, TEXTS, build, build_with_visible_edges

pytest.importorskip("outdim._core")
CHUNKS = CountingMethod("chunks", "test")
UNSPLIT = {"llama", "llama legacy", "gemma"}  # whose rule rests on their own vocabulary
PIECES = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FEW = [x for i, x in enumerate(FRAGMENTS) if x.isascii() or i % 3 == 0][:75]

Builder = Callable[[str], Any]


@cache
def counter(builder: Builder, name: str) -> tuple[TokenCounter, Any]:
    return TokenCounter(builder(name), CHUNKS, workers=2), backend(builder(name))


def assert_same(builder: Builder, name: str, texts: Sequence[str]) -> None:
    count, inner = counter(builder, name)
    counts, _ = count.count_texts(Texts.of(texts))
    ids = [i for row in inner.encode_batch(list(texts)) for i in row.ids]
    expected = np.bincount(np.array(ids, np.int64), minlength=len(counts))
    wrong = np.flatnonzero(counts != expected)
    labels = [inner.id_to_token(int(i)) for i in wrong]
    assert not len(wrong), f"{labels} {counts[wrong]} {expected[wrong]} in {texts!r}"


@pytest.mark.parametrize("name", BUILD)
class TestEveryKind:
    def test_texts_of_many_scripts_as_the_tokenizer_itself_gives_them(self, name: str) -> None:
        texts = [*TEXTS, " ".join(TEXTS), "\n".join(TEXTS), "".join(TEXTS)]
        tokenizer = build(name)
        counts, _ = counter(build, name)[0].count_texts(Texts.of(texts))
        rows = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        np.testing.assert_array_equal(
            counts, np.bincount(np.concatenate(rows), minlength=len(counts))
        )

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(PIECES, max_size=6), more=st.lists(ANY, max_size=3))
    def test_any_text(self, name: str, texts: list[str], more: list[str]) -> None:
        assert_same(build, name, texts + more)

    @pytest.mark.slow
    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(PIECES, max_size=6), more=st.lists(ANY, max_size=3))
    def test_any_text_at_length(self, name: str, texts: list[str], more: list[str]) -> None:
        assert_same(build, name, texts + more)


@pytest.mark.parametrize("name", [name for name in BUILD if name not in UNSPLIT])
class TestEdgesOfPieces:
    def test_every_two_neighbours(self, name: str) -> None:
        assert_same(build_with_visible_edges, name, [f"a{x}{y}b c" for x in FEW for y in FEW])

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(PIECES, max_size=6))
    def test_any_text(self, name: str, texts: list[str]) -> None:
        assert_same(build_with_visible_edges, name, texts)

    @pytest.mark.slow
    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(PIECES, max_size=6))
    def test_any_text_at_length(self, name: str, texts: list[str]) -> None:
        assert_same(build_with_visible_edges, name, texts)
