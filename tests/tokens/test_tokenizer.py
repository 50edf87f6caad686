"""Tokenizers, pieces and batches: nothing is lost, nothing is counted twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outdim.errors import ArgumentError, DataError
from outdim.tokens import (
    batches,
    check_tokenizer,
    encode_pieces,
    load_tokenizer,
    special_ids,
    vocabulary_size,
)
from outdim.tokens.batches import Piece
from outdim.tokens.tokenizer import backend, template
from tokenizer_zoo import TEXTS, build


class TestLoading:
    def test_saved_tokenizers_come_back(self, tmp_path: Path) -> None:
        build("roberta").save_pretrained(tmp_path)
        tokenizer = load_tokenizer(str(tmp_path))
        assert tokenizer(TEXTS)["input_ids"] == build("roberta")(TEXTS)["input_ids"]

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"tokenizer: .* cannot be loaded"):
            load_tokenizer(str(tmp_path))

    def test_the_backend_is_a_copy_without_truncation(self, minilm: Any) -> None:
        before = minilm.backend_tokenizer.to_str()
        assert len(backend(minilm).encode("word " * 1000).ids) == 1002
        assert minilm.backend_tokenizer.to_str() == before


class TestChecking:
    def test_a_tokenizer_of_the_model(self, bert: Any) -> None:
        check_tokenizer(bert, vocabulary_size(bert))
        check_tokenizer(bert, vocabulary_size(bert) + 64)  # padded to a multiple of 64

    def test_ids_beyond_the_vocabulary(self, bert: Any) -> None:
        size = vocabulary_size(bert)
        with pytest.raises(DataError, match=f"ids up to {size - 1} .* ends at {size - 2}"):
            check_tokenizer(bert, size - 1)

    def test_a_vocabulary_far_larger(self, bert: Any) -> None:
        with pytest.raises(DataError, match="They do not belong together"):
            check_tokenizer(bert, 100_000)


class TestSpecials:
    def test_the_unknown_token_stands_for_text(self, bert: Any) -> None:
        names = bert.convert_ids_to_tokens(sorted(special_ids(bert)))
        assert names == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]

    def test_unless_it_ends_texts_too(self, gpt2: Any) -> None:
        assert gpt2.convert_ids_to_tokens(list(special_ids(gpt2))) == ["<|endoftext|>"]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("bert uncased", ([2], [3])),
            ("roberta", ([0], [2])),
            ("gpt2", ([], [])),
            ("t5", ([], [2])),
        ],
    )
    def test_templates(self, name: str, expected: tuple[list[int], list[int]]) -> None:
        assert template(backend(build(name))) == expected


@pytest.mark.parametrize("name", ["bert uncased", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize("max_length", [3, 8, 1000])
def test_pieces_put_together_are_the_document(name: str, max_length: int) -> None:
    tokenizer = build(name)
    prefix, suffix = template(backend(tokenizer))
    texts = [*TEXTS, "", "x"]
    found: dict[int, list[int]] = {}
    for piece in encode_pieces(texts, tokenizer, max_length):
        ids = piece.ids.tolist()
        assert len(ids) <= max_length
        assert ids[: len(prefix)] == prefix
        assert ids[len(ids) - len(suffix) :] == suffix
        body = ids[len(prefix) : len(ids) - len(suffix)]
        assert piece.offset == len(found.setdefault(piece.document, []))
        found[piece.document] += body
        special = piece.group == 2
        assert set(piece.ids[special].tolist()) <= special_ids(tokenizer)
        assert special.sum() >= len(prefix) + len(suffix)
        first = piece.group == 3
        assert first[0] == (not prefix and not special[0])
        assert not first[1:].any()
        assert (piece.group > 0).all()
    expected = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    assert found == {i: ids for i, ids in enumerate(expected) if ids}


def test_excluded_ids_are_read_and_in_no_group(bert: Any, gpt2: Any) -> None:
    """Whatever else they are: first, special, or text."""
    for tokenizer, text in ((bert, "the a \u2603 the"), (gpt2, "the a b the")):
        (plain,) = encode_pieces([text], tokenizer, 64)
        for left_out in sorted(set(plain.ids.tolist())):
            (piece,) = encode_pieces([text], tokenizer, 64, exclude=[left_out])
            assert piece.ids.tolist() == plain.ids.tolist()
            expected = np.where(plain.ids == left_out, 0, plain.group)
            assert piece.group.tolist() == expected.tolist()


def test_an_excluded_id_outside_the_vocabulary(bert: Any) -> None:
    with pytest.raises(ArgumentError, match=r"exclude: expected ids from 0 to \d+, got \[-1\]"):
        list(encode_pieces(["x"], bert, 9, exclude=[-1]))


def test_pieces_need_room(bert: Any) -> None:
    with pytest.raises(ArgumentError, match="max_length: expected at least 3, got 2"):
        list(encode_pieces(["x"], bert, 2))


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), max_size=60),
    budget=st.integers(1, 600),
    window=st.integers(1, 40),
)
def test_batches_hold_every_token_once(lengths: list[int], budget: int, window: int) -> None:
    pieces = [
        Piece(np.arange(n) + 1000 * i, np.arange(n, dtype=np.uint8) % 4, i, 0)
        for i, n in enumerate(lengths)
    ]
    seen: list[int] = []
    for batch in batches(pieces, budget, window, pad_id=7):
        rows, width = batch.input_ids.shape
        assert rows * width <= budget or rows == 1
        assert batch.padded <= 0.05 * rows * width
        assert batch.tokens + batch.padded == rows * width
        kept = batch.attention_mask.bool()
        assert (batch.input_ids[~kept] == 7).all()
        assert not batch.group[~kept].any()
        assert torch.equal(batch.position, torch.arange(width).expand(rows, width))
        for row in range(rows):
            ids = batch.input_ids[row][kept[row]].tolist()
            document = int(batch.documents[row])
            assert ids == pieces[document].ids.tolist()
            assert batch.group[row][kept[row]].tolist() == pieces[document].group.tolist()
            seen.append(document)
    assert sorted(seen) == list(range(len(lengths)))


def test_batches_refuse_nonsense() -> None:
    with pytest.raises(ArgumentError, match="token_budget"):
        list(batches([], 0))
    with pytest.raises(ArgumentError, match="window"):
        list(batches([], 1, 0))


def test_halves_and_devices(bert: Any) -> None:
    (batch,) = batches(encode_pieces(["a b c"] * 5, bert, 9), 1000)
    first, second = batch.to("cpu").halves()
    assert len(first.input_ids) + len(second.input_ids) == 5
    assert first.tokens + second.tokens == batch.tokens


def test_special_ids_other_than_the_models_are_refused(bert):
    config = SimpleNamespace(pad_token_id=bert.pad_token_id, sep_token_id=7, bos_token_id=None)
    with pytest.raises(DataError, match="its sep_token_id is"):
        check_tokenizer(bert, vocabulary_size(bert), config)
    config.sep_token_id = bert.sep_token_id
    check_tokenizer(bert, vocabulary_size(bert), config)
