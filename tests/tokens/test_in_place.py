"""Tokens where they stand, and others in their place."""

import pytest
from outdim.tokens.in_place import CONTEXT, InPlace
from tokenizer_zoo import build


def words(place: InPlace, text: str) -> list[str]:
    return [text[start:end] for start, end in place.spans(text)]


@pytest.fixture(scope="module")
def wordpiece(minilm) -> tuple[InPlace, object]:
    return InPlace(minilm), minilm


def test_spans_are_of_the_text_as_it_stands(wordpiece):
    place, _ = wordpiece
    text = "Don't  play Unaffable games, Zoë."
    assert words(place, text) == [
        "Don", "'", "t", "play", "Una", "ffa", "ble", "games", ",", "Zoë", "."
    ]  # fmt: skip


def test_spans_of_byte_level_tokens_have_no_blanks_around_them():
    place = InPlace(build("gpt2"))
    text = "The quick  fox\n\ndoesn't"
    found = words(place, text)
    assert all(word == word.strip() for word in found)
    assert "".join(found) == "".join(text.split())
    start, end = place.spans(text)[0]
    assert (start, end) == (0, len(found[0]))


@pytest.mark.parametrize(
    ("text", "which", "token", "expected", "own"),
    [
        ("the dog sat.", 1, "cat", "the cat sat.", "cat"),
        ("the dog sat.", 2, ".", "the dog..", "."),
        ("the playing dog", 0, "a", "a playing dog", "a"),
        ("unaffable dog", 1, "##so", "unsoble dog", "so"),  # una ##ffa ##ble
        ("unaffable dog", 0, "play", "playffable dog", "play"),
        ("unaffable dog", 1, "play", "una playble dog", "play"),  # it begins a word
        ("the dog sat", 1, "##ing", "theing sat", "ing"),  # it goes on with one
    ],
)
def test_another_token_is_written_where_one_stands(wordpiece, text, which, token, expected, own):
    place, tokenizer = wordpiece
    spans = place.spans(text)
    if text.startswith("una") or text.startswith("unaff"):
        assert words(place, text)[:3] == ["una", "ffa", "ble"]
        expected = expected.replace("unsoble", "unasoble")
    found = place.written(text, spans[which], tokenizer.convert_tokens_to_ids(token))
    assert found.text == expected
    assert found.text[found.start : found.end] == own


def test_byte_level_tokens_bring_their_blank(wordpiece):
    tokenizer = build("gpt2")
    place = InPlace(tokenizer)
    text = "The quick brown fox"
    spans = place.spans(text)
    joined = next(i for t, i in tokenizer.get_vocab().items() if t == "\u0120the")
    plain = next(i for t, i in tokenizer.get_vocab().items() if t == "the")
    last = len(spans) - 1
    left = text[: spans[last][0]]
    assert place.written(text, spans[last], joined).text == left.rstrip() + (
        " the" if left[-1:] == " " or left else "the"
    )
    assert place.surface(joined) == ("the", True)
    assert place.surface(plain) == ("the", False)


def test_the_text_around_is_cut_at_blanks(wordpiece):
    place, tokenizer = wordpiece
    text = " ".join(["lorem"] * 200 + ["dog"] + ["ipsum"] * 200)
    span = (text.index("dog"), text.index("dog") + 3)
    found = place.written(text, span, tokenizer.convert_tokens_to_ids("cat"))
    assert found.text[found.start : found.end] == "cat"
    assert set(found.text.split()) == {"lorem", "cat", "ipsum"}
    assert CONTEXT <= found.start <= CONTEXT + 6
    assert CONTEXT <= len(found.text) - found.end <= CONTEXT + 6


def test_without_a_blank_it_is_cut_all_the_same(wordpiece):
    place, tokenizer = wordpiece
    text = "x" * 5000 + "dog" + "y" * 5000
    found = place.written(text, (5000, 5003), tokenizer.convert_tokens_to_ids("cat"))
    assert len(found.text) < 6 * CONTEXT


def test_special_tokens_are_known(wordpiece):
    place, tokenizer = wordpiece
    assert place.is_special(tokenizer.sep_token_id)
    assert place.is_special(tokenizer.unk_token_id)
    assert not place.is_special(tokenizer.convert_tokens_to_ids("dog"))


def test_ids_beyond_the_tokenizer_stand_for_no_word(wordpiece):
    place, tokenizer = wordpiece
    assert not place.is_special(len(tokenizer) - 1)
    assert place.is_special(len(tokenizer))
