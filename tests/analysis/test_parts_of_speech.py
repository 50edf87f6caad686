"""Parts of speech in context: by a tagger that looks words up, and by spaCy where it is there."""

import re
import sys
from types import MappingProxyType

import numpy as np
import pytest
from outdim.analysis.parts_of_speech import CLASSES, PartsOfSpeech, SpacyTagger, Word
from outdim.errors import BackendError, DataError

LEXICON = {
    **{"the": "DET", "dog": "NOUN", "cat": "NOUN", "dogsq": "NOUN", "sees": "VERB"},
    **{"runs": "VERB", "quickly": "ADV", ".": "PUNCT", "she": "PRON"},
}


class LookedUp:
    """A tagger with a lexicon; "her" is a determiner before a noun, else a pronoun."""

    about = MappingProxyType({"name": "looked up", "version": "1"})

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts):
        for text in texts:
            self.texts.append(text)
            found = list(re.finditer(r"\w+|[^\w\s]", text))
            yield [self._word(found, i) for i in range(len(found))]

    def _word(self, found, i: int) -> Word:
        word = found[i].group().lower()
        after = found[i + 1].group().lower() if i + 1 < len(found) else ""
        tag = LEXICON.get(word, "made up")
        if word == "her":
            tag = "DET" if LEXICON.get(after) == "NOUN" else "PRON"
        return Word(found[i].start(), found[i].end(), tag)


@pytest.fixture
def tagged(minilm):
    tagger = LookedUp()
    parts = PartsOfSpeech(tagger, minilm)

    def give(texts, rows):
        """Tags of (document, token, true, predicted ...), in words."""
        places = np.array([row[:2] for row in rows])
        ids = np.array([[minilm.convert_tokens_to_ids(t) for t in row[2:]] for row in rows]).T
        ids[ids == minilm.unk_token_id] = -1
        found = parts(texts, places, ids)
        return [[CLASSES[tag] if tag >= 0 else None for tag in row] for row in found.T.tolist()]

    return give, tagger


def test_a_word_is_tagged_where_it_stands(tagged):
    give, _ = tagged
    texts = ["She sees her dog.", "The dog sees her."]
    rows = [(0, 2, "her", "the"), (1, 3, "her", "the"), (0, 3, "dog", "runs")]
    assert give(texts, rows) == [["DET", "DET"], ["PRON", "DET"], ["NOUN", "VERB"]]


def test_the_place_decides_what_a_predicted_word_is(tagged):
    give, _ = tagged
    assert give(["The cat sees dog"], [(0, 0, "the", "her"), (0, 3, "dog", "her")]) == [
        ["DET", "DET"], ["NOUN", "PRON"]
    ]  # fmt: skip


def test_a_part_of_a_word_has_the_part_of_speech_of_the_word(tagged, minilm):
    give, _ = tagged
    text = "the dogxq"
    assert minilm.tokenize(text) == ["the", "dog", "##x", "##q"]
    # With "##s" in the place of "##x" it is "dogsq"; with "cat" nothing that is known.
    assert give([text], [(0, 2, "##x", "##s"), (0, 1, "dog", "cat")]) == [
        ["X", "NOUN"], ["X", "X"]
    ]  # fmt: skip


def test_right_predictions_are_not_tagged_again(tagged):
    give, tagger = tagged
    assert give(["the dog runs"], [(0, 1, "dog", "dog", "dog")]) == [["NOUN", "NOUN", "NOUN"]]
    assert tagger.texts == ["the dog runs"]


def test_the_same_text_is_tagged_once(tagged):
    give, tagger = tagged
    rows = [(0, 1, "dog", "cat", "cat"), (1, 1, "dog", "cat", "runs")]
    assert give(["the dog runs", "the dog runs"], rows) == [
        ["NOUN", "NOUN", "NOUN"], ["NOUN", "NOUN", "VERB"]
    ]  # fmt: skip
    assert sorted(tagger.texts) == ["the cat runs", "the dog runs", "the runs runs"]


def test_a_document_that_goes_on_is_not_tagged_again(tagged):
    give, tagger = tagged
    text, other = "she sees the dog", "the cat"
    assert give([text], [(0, 1, "sees", "sees")]) == [["VERB", "VERB"]]
    assert give([other, text], [(1, 3, "dog", "dog"), (0, 1, "cat", "cat")]) == [["NOUN"] * 2] * 2
    assert tagger.texts == [text, other]
    give([other], [(0, 1, "cat", "cat")])
    give([text], [(0, 3, "dog", "dog")])  # only what the call before had is known
    assert tagger.texts == [text, other, text]


def test_special_tokens_and_nothing_have_classes_of_their_own(tagged):
    give, _ = tagged
    assert give(["the dog runs"], [(0, 1, "dog", "[SEP]", "no such token")]) == [
        ["NOUN", "special", None]
    ]


def test_a_document_that_is_too_long_has_none(tagged, monkeypatch):
    give, _ = tagged
    monkeypatch.setattr("outdim.analysis.parts_of_speech.LONGEST", 12)
    rows = [(0, 1, "dog", "cat"), (1, 1, "dog", "cat")]
    assert give(["the dog runs", "the dog runs."], rows) == [["NOUN", "NOUN"], [None, None]]


def test_without_spacy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(BackendError, match=r"tagger: .*`pip install 'outdim\[pos\]'"):
        SpacyTagger("en_core_web_sm")


class TestSpacy:
    @pytest.fixture
    def spacy(self):
        return pytest.importorskip("spacy", reason="the extra pos is not installed")

    def test_a_pipeline_with_rules_is_a_tagger(self, spacy, tmp_path):
        pipeline = spacy.blank("en")
        ruler = pipeline.add_pipe("attribute_ruler")
        for word, tag in LEXICON.items():
            ruler.add([[{"LOWER": word}]], {"POS": tag})
        ruler.add([[{"LOWER": "sentence"}]], {"POS": "NOUN"})
        pipeline.to_disk(tmp_path / "rules")
        tagger = SpacyTagger(str(tmp_path / "rules"))
        assert tagger.about["spacy"] == spacy.__version__
        found = list(tagger(["The dog runs.", "", "she"]))
        assert found == [
            [Word(0, 3, "DET"), Word(4, 7, "NOUN"), Word(8, 12, "VERB"), Word(12, 13, "PUNCT")],
            [],
            [Word(0, 3, "PRON")],
        ]

    def test_one_that_is_not_there_is_named(self, spacy):
        with pytest.raises(BackendError, match="tagger: spaCy has no pipeline 'no_such_thing'"):
            SpacyTagger("no_such_thing")

    def test_one_without_parts_of_speech_is_refused(self, spacy, tmp_path):
        spacy.blank("en").to_disk(tmp_path / "blank")
        with pytest.raises(DataError, match="gives no parts of speech; it has the components"):
            SpacyTagger(str(tmp_path / "blank"))
