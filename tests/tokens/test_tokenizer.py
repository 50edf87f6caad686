"""Tokenizers, pieces and batches: nothing is lost, nothing is counted twice."""

import json
from copy import deepcopy
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
    document_key,
    encode_pieces,
    load_tokenizer,
    padding_id,
    special_ids,
    vocabulary_size,
)
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.pieces import Piece
from outdim.tokens.tokenizer import backend, template
from tokenizer_zoo import TEXTS, build
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast


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

    @pytest.mark.parametrize("file", ["tokenizer.json", "vocabulary of mine"])
    def test_a_bare_tokenizer_json_by_any_path(self, tmp_path: Path, file: str) -> None:
        tokenizer = build("bert uncased")
        tokenizer.backend_tokenizer.save(str(tmp_path / file))
        loaded = load_tokenizer(tmp_path / file)
        assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
        assert special_ids(loaded) == special_ids(tokenizer)  # the unknown token is none of them

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"model": 3}')
        with pytest.raises(DataError, match=r"a\.json is no tokenizer\.json"):
            load_tokenizer(tmp_path / "a.json")

    def test_code_of_a_repository_is_neither_run_nor_asked_about(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build("bert uncased").save_pretrained(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
        monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(prompt))
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer(TEXTS)["input_ids"] == build("bert uncased")(TEXTS)["input_ids"]
        (caution,) = check_tokenizer(tokenizer, vocabulary_size(tokenizer))
        assert "code of its own, which was not run" in caution
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(DataError, match=r"cannot be loaded .*custom code"):
            load_tokenizer(tmp_path)

    @pytest.mark.parametrize("model_type", ["bert", None, "albert", "nystromformer"])
    def test_a_vocab_txt_is_a_vocabulary(self, tmp_path: Path, model_type: str | None) -> None:
        vocabulary = build("bert uncased").get_vocab()
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        if model_type:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.get_vocab() == vocabulary
        assert tokenizer("the dog")["input_ids"] == build("bert uncased")("the dog")["input_ids"]

    def test_a_class_whose_vocabulary_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
        with pytest.raises(DataError, match="knows 5 special ids and no words"):
            load_tokenizer(tmp_path)

    def test_slow_tokenizers_are_refused_with_advice(self, tmp_path: Path) -> None:
        from transformers import ByT5Tokenizer

        slow = ByT5Tokenizer()
        slow.save_pretrained(tmp_path)
        with pytest.raises(DataError, match=r"ByT5Tokenizer without a fast backend; give a"):
            load_tokenizer(tmp_path)
        for use in (backend, vocabulary_size, special_ids, chunk_rule):
            with pytest.raises(ArgumentError, match=r"expected a fast tokenizer, .* got ByT5"):
                use(slow)
        with pytest.raises(ArgumentError, match=r"expected a fast tokenizer, .* got NoneType"):
            backend(None)


class TestChecking:
    def test_a_tokenizer_of_the_model(self, bert: Any) -> None:
        assert check_tokenizer(bert, vocabulary_size(bert)) == ()
        assert check_tokenizer(bert, vocabulary_size(bert) + 64) == ()  # to a multiple of 64

    def test_ids_beyond_the_vocabulary(self, bert: Any) -> None:
        size = vocabulary_size(bert)
        with pytest.raises(DataError, match=f"ids up to {size - 1} .* ends at {size - 2}"):
            check_tokenizer(bert, size - 1)

    def test_a_vocabulary_far_larger_is_worth_a_caution(self, bert: Any) -> None:
        size = vocabulary_size(bert)
        (caution,) = check_tokenizer(bert, 100_000)
        assert caution.startswith(f"The tokenizer knows {size} ids, the model 100000")

    def test_other_special_ids_than_the_models_are_worth_a_caution(self, bert: Any) -> None:
        config = SimpleNamespace(pad_token_id=bert.pad_token_id, sep_token_id=7, bos_token_id=None)
        (caution,) = check_tokenizer(bert, vocabulary_size(bert), config)
        assert caution.startswith("The tokenizer's sep_token_id is 3, that of the model's config 7")
        config.sep_token_id = bert.sep_token_id
        assert check_tokenizer(bert, vocabulary_size(bert), config) == ()

    def test_a_padding_token_that_was_added_behind_the_vocabulary(self, gpt2: Any) -> None:
        gpt2 = deepcopy(gpt2)
        size = vocabulary_size(gpt2)
        gpt2.add_special_tokens({"pad_token": "[PAD]"})
        assert gpt2.pad_token_id == size
        (caution,) = check_tokenizer(gpt2, size)
        assert f"'[PAD]' ({size}) is not in the model's vocabulary" in caution
        assert padding_id(gpt2, size) == 0
        assert padding_id(gpt2, size + 1) == size
        with pytest.raises(DataError, match=r"document 2, 'b\[PAD\]': it has the id \d+ \('\[PAD"):
            list(encode_pieces(["a", "b[PAD]"], gpt2, 64, vocab_size=size))
        gpt2.add_tokens(["another"])
        with pytest.raises(DataError, match="They do not belong together"):
            check_tokenizer(gpt2, size)


class TestSpecials:
    def test_the_unknown_token_stands_for_text(self, bert: Any) -> None:
        names = bert.convert_ids_to_tokens(sorted(special_ids(bert)))
        assert names == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]

    def test_unless_it_ends_texts_too(self, gpt2: Any) -> None:
        assert gpt2.convert_ids_to_tokens(list(special_ids(gpt2))) == ["<|endoftext|>"]

    def test_what_tokenizer_json_marks_special(self, gpt2: Any) -> None:
        gpt2 = deepcopy(gpt2)
        added = [AddedToken(f"<|{name}|>", special=True) for name in ("user", "eot_id")]
        gpt2.add_tokens([*added, AddedToken("<tool>", special=False)])
        names = gpt2.convert_ids_to_tokens(sorted(special_ids(gpt2)))
        assert names == ["<|endoftext|>", "<|user|>", "<|eot_id|>"]
        (piece,) = encode_pieces(["hi<|user|>ho<tool>"], gpt2, 64)
        marked = [gpt2.convert_ids_to_tokens(int(i)) for i in piece.ids[piece.group == 2]]
        assert marked == ["<|user|>"]

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

    def test_the_template_of_a_vocabulary_of_one_script(self) -> None:
        """Without an unknown token nothing but its own letters gives ids."""
        letters = {letter: i for i, letter in enumerate("აბგდე")}
        inner = Tokenizer(models.BPE({**letters, "[CLS]": 5, "[SEP]": 6}, []))
        inner.post_processor = processors.Sequence(
            [
                processors.ByteLevel(),
                processors.TemplateProcessing(
                    single="[CLS] [CLS] $A [SEP]", special_tokens=[("[CLS]", 5), ("[SEP]", 6)]
                ),
            ]
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
        assert template(backend(tokenizer)) == ([5, 5], [6])
        (piece,) = encode_pieces(["აბ"], tokenizer, 9)
        assert piece.ids.tolist() == tokenizer("აბ")["input_ids"] == [5, 5, 0, 1, 6]

    def test_templates_that_repeat_the_text_are_refused(self) -> None:
        inner = backend(build("gpt2"))
        inner.post_processor = processors.TemplateProcessing(single="$A $A", special_tokens=[])
        with pytest.raises(DataError, match="not of the form prefix, text, suffix"):
            template(backend(PreTrainedTokenizerFast(tokenizer_object=inner)))


@pytest.mark.parametrize("name", ["bert uncased", "roberta", "gpt2", "t5"])
@pytest.mark.parametrize("max_length", [3, 8, 1000])
def test_pieces_put_together_are_the_document(name: str, max_length: int) -> None:
    tokenizer = build(name)
    prefix, suffix = template(backend(tokenizer))
    texts = [*TEXTS, "", "x"]
    keys = [document_key(text) for text in texts]
    found: dict[int, list[int]] = {}
    for piece in encode_pieces(texts, tokenizer, max_length):
        ids = piece.ids.tolist()
        assert len(ids) <= max_length
        assert ids[: len(prefix)] == prefix
        assert ids[len(ids) - len(suffix) :] == suffix
        body = ids[len(prefix) : len(ids) - len(suffix)]
        assert piece.offset == len(found.setdefault(piece.document, []))
        assert piece.key == keys[piece.document]
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


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 200), max_size=60),
    budget=st.integers(1, 600),
    window=st.integers(1, 40),
)
def test_batches_hold_every_token_once(lengths: list[int], budget: int, window: int) -> None:
    pieces = [
        Piece(np.arange(n) + 1000 * i, np.arange(n, dtype=np.uint8) % 4, i, 0, 7 * i)
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
            assert int(batch.keys[row]) == pieces[document].key
            seen.append(document)
    assert sorted(seen) == list(range(len(lengths)))


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 30), max_size=60), multiple=st.integers(1, 9))
def test_batches_of_one_length_or_of_multiples(lengths: list[int], multiple: int) -> None:
    pieces = [Piece(np.arange(n), np.ones(n, np.uint8), i, 0, i) for i, n in enumerate(lengths)]
    equal = list(batches(pieces, 100, pad=False))
    assert all(batch.padded == 0 for batch in equal)
    padded = list(batches(pieces, 100, multiple=multiple))
    for batch in padded:
        rows, width = batch.input_ids.shape
        assert width % multiple == 0
        assert rows * width <= 100 or rows == 1
        assert width - int(batch.attention_mask.sum(1).max()) < multiple
    for found in (equal, padded):
        assert sorted(int(i) for b in found for i in b.documents) == list(range(len(lengths)))
        assert sum(batch.tokens for batch in found) == sum(lengths)


def test_equal_lengths_fill_batches() -> None:
    pieces = [Piece(np.arange(7), np.ones(7, np.uint8), i, 0, i) for i in range(60)]
    assert [len(b.input_ids) for b in batches(pieces, 100, pad=False)] == [14, 14, 14, 14, 4]


def test_batches_refuse_nonsense() -> None:
    for name in ("token_budget", "window", "multiple"):
        with pytest.raises(ArgumentError, match=f"{name}: expected at least 1, got 0"):
            list(batches([], **{"token_budget": 1, name: 0}))


def test_halves_and_devices(bert: Any) -> None:
    (batch,) = batches(encode_pieces(["a b c"] * 5, bert, 9), 1000)
    first, second = batch.to("cpu").halves()
    assert len(first.input_ids) + len(second.input_ids) == 5
    assert first.tokens + second.tokens == batch.tokens
