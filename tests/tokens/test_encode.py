"""Encoding in parts gives the ids of the whole; what cannot be encoded is named."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outdim.errors import DataError
from outdim.tokens import encode, encode_pieces
from outdim.tokens.encode import Encoder, Unencodable
from tokenizer_zoo import BUILD, FRAGMENTS, TEXTS, build, build_with_visible_edges
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNSPLIT = {"llama", "llama legacy", "gemma"}  # whose rule rests on their own vocabulary


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is long: it is cut wherever that is allowed."""
    monkeypatch.setattr(encode, "_PART_CHARS", 2)


def assert_parts_are_exact(tokenizer: Any, texts: list[str]) -> int:
    """Compare with encoding whole texts; returns how many parts there were."""
    encoder = Encoder(tokenizer)
    parts = 0
    for text, ids in zip(texts, encoder(texts), strict=True):
        whole = encoder.inner.encode(text, add_special_tokens=False).ids
        assert not isinstance(ids, Unencodable)
        assert ids.tolist() == whole, text
        parts += len(list(encoder._parts(text)))
    return parts


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("name", BUILD)
class TestParts:
    def test_of_texts_of_many_scripts(self, name: str) -> None:
        texts = [*TEXTS, " ".join(TEXTS), "\n".join(TEXTS), "".join(TEXTS), "中文" * 9]
        assert assert_parts_are_exact(build(name), texts) > 60

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(text=st.lists(st.sampled_from([*FRAGMENTS, " ", " a"]), max_size=40).map("".join))
    def test_of_any_text(self, name: str, text: str) -> None:
        assert_parts_are_exact(build(name), [text])
        if name not in UNSPLIT:
            assert_parts_are_exact(build_with_visible_edges(name), [text])


def test_ideographs_are_cut_apart_where_the_normalizer_does() -> None:
    encoder = Encoder(build("bert uncased"))
    assert {len(part) for part in encoder._parts("字文" * 100_000)} == {
        1 << 15,
        200_000 % (1 << 15),
    }
    assert len(list(Encoder(build("gpt2"))._parts("中文" * 100_000))) == 1


def test_an_unknown_kind_is_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Tokenizer(models.BPE({"a": 0, " ": 1}, []))
    inner.pre_tokenizer = pre_tokenizers.UnicodeScripts()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=inner))
    text = "a " * 100_000
    assert list(encoder._parts(text)) == [text]
    monkeypatch.setattr(encode, "_LONGEST_PART_BYTES", 150_000)
    (found,) = encoder([text])
    assert str(found) == (
        f"{text[:40]!r}: 200000 bytes in a row have no place at which this tokenizer's text can be "
        "cut, expected at most 150000: split the document"
    )


@pytest.mark.parametrize("name", ["bert uncased", "gpt2", "llama", "llama legacy", "t5"])
def test_no_call_of_the_tokenizer_is_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = encode.encode_batch

    def watched(inner: Any, texts: list[str]) -> Any:
        sizes.append(sum(map(len, texts)))
        return plain(inner, texts)

    monkeypatch.setattr(encode, "encode_batch", watched)
    monkeypatch.setattr(encode, "_CALL_CHARS", 1 << 14)
    monkeypatch.setattr(encode, "_PART_CHARS", 1 << 10)
    texts = ["some words again, " * 5_000, *["short"] * 8_000, "a b " * 100]
    ids = list(Encoder(build(name))(texts))
    assert len(ids) == len(texts)
    assert 1 << 13 < max(sizes) <= 1 << 14
    assert sum(sizes) == pytest.approx(sum(map(len, texts)), abs=200)  # spaces put back


def without_unknown_token(*, prepended: bool = False) -> Any:
    inner = Tokenizer(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_what_fails_is_named_and_nothing_else_is_lost() -> None:
    tokenizer = without_unknown_token()
    texts = ["a b", "a x b", "b", "", "y"]
    found = list(Encoder(tokenizer)(texts))
    assert [row.tolist() for row in found if not isinstance(row, Unencodable)] == [[0, 1], [1], []]
    assert [row.text for row in found if isinstance(row, Unencodable)] == ["a x b", "y"]
    with pytest.raises(DataError, match=r"tokenizer: document 2, 'a x b': .*Missing \[UNK\]"):
        list(encode_pieces(texts, tokenizer, 8))
    skipped: list[str] = []
    pieces = list(encode_pieces(texts, tokenizer, 8, skip=skipped.append))
    assert [piece.document for piece in pieces] == [0, 2]
    assert [line.split(",")[0] for line in skipped] == ["document 2", "document 5"]


def test_a_long_document_that_fails_is_left_out_whole() -> None:
    text = "a " * 100_000 + "x " + "b " * 100_000
    found = list(Encoder(without_unknown_token())(["a", text, "b"]))
    assert isinstance(found[1], Unencodable)
    assert [len(row) for row in (found[0], found[2]) if isinstance(row, np.ndarray)] == [1, 1]


def test_a_panic_of_the_library_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust's panics reach Python as a class of their own, which is no Exception."""
    panic = type("PanicException", (BaseException,), {})

    class Panicking:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            raise panic("index out of bounds")

    encoder = Encoder(build("gpt2"))
    encoder.inner = Panicking()
    (found,) = encoder(["a"])
    assert str(found) == "'a': the tokenizer fails on it (index out of bounds)"
    monkeypatch.setattr(Panicking, "encode_batch_fast", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(encoder(["a"]))


def interrupted(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt
