"""What the Python functions of steps have in common: how text is given, and what is refused."""

from dataclasses import replace

import numpy as np
import outdim
import pytest
from outdim import open_corpus
from outdim.analysis.embeddings import embeddings
from outdim.analysis.lifecycle import LifecycleOptions
from outdim.analysis.registry import step_class, steps
from outdim.analysis.step import Result
from outdim.errors import ArgumentError, DataError
from outdim.tokens import TokenFrequencies
from tiny import tiny_model, tiny_texts, tiny_tokenizer

#: With what each is called, and a number that tells one text from another.
FACES = {
    "correlate": ({"types": 0}, lambda found: found.pearson("block.1").tolist()),
    "criteria": ({}, lambda found: found.states["block.1", "all"].squares.tolist()),
    "geometry": ({"top": 0}, lambda found: found.spaces["block.1", "text"].cosines.value),
    "lifecycle": ({"dims": [3]}, lambda found: found.lives[3].size),
    "evaluate": ({"controls": 0}, lambda found: found.loss),
    "predictions": ({"controls": 0}, lambda found: found.measure("entropy").value.value.tolist()),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", head="CausalLM")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return tiny_texts(12, 20)


@pytest.mark.parametrize("face", FACES)
def test_documents_a_path_and_a_corpus_are_all_taken(face, model, texts, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(texts))
    options, told = FACES[face]
    one, *others = (
        told(getattr(outdim, face)(model, tiny_tokenizer(), given, **options))
        for given in (texts, path, str(path), open_corpus([str(path)]))
    )
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-6)


@pytest.mark.parametrize("face", [*FACES, "sweep"])
def test_names_of_files_are_no_documents(face, model):
    with pytest.raises(ArgumentError, match="texts: expected documents, got names of files"):
        getattr(outdim, face)(model, tiny_tokenizer(), [__file__])
    with pytest.raises(ArgumentError, match=r"texts: expected a list .*got dict"):
        getattr(outdim, face)(model, tiny_tokenizer(), {"text": ["The keys are no documents."]})


def test_published_counts_that_do_not_join_are_told_or_refused(model, texts):
    tokenizer = tiny_tokenizer()
    counts = TokenFrequencies.for_tokenizer(tokenizer, np.full(len(tokenizer), 10))
    some, most = (replace(counts, unjoined=((" the", n * len(counts)),)) for n in (1, 2))
    for face in ("correlate", "predictions"):
        found = getattr(outdim, face)(model, tokenizer, texts[:2], frequencies=some)
        assert "belong to no single token id" in str(found)
        with pytest.raises(DataError, match="another vocabulary"):
            getattr(outdim, face)(model, tokenizer, texts[:2], frequencies=most)


def test_a_result_is_shown_in_a_line(model):
    found = repr(outdim.detect(model, k=0.5))
    assert found.startswith("<Detection: dims")
    assert "min_fraction=0.5" in found
    assert "gamma_z," in found
    assert len(found) < 400
    for name in steps():
        step_class(name)
    known = Result.__subclasses__()
    while known:
        cls = known.pop()
        assert cls.__repr__ is Result.__repr__, cls
        known += cls.__subclasses__()


def test_a_printed_result_says_what_to_beware_of(texts):
    """Of its intervals and controls, and of the model and tokenizer it was given."""
    model = tiny_model("llama", head="CausalLM", pad_token_id=7)
    given = model, tiny_tokenizer(), texts[:3]
    evaluated = outdim.evaluate(*given, ablations=[3], controls=1, draws=20)
    said = str(evaluated)
    for sentence in evaluated.headline():
        assert f"- {sentence}\n" in said
    beware = said.split("Beware:\n")[1]
    for caution in ("pad_token_id is 0, that of the", "on 3 documents and may", "1 control says"):
        assert caution in beware
    swept = outdim.sweep(*given, dims=[3], controls=1, draws=20)
    observed = outdim.analyze(*given, ["count"])["count"]
    for found in (swept, observed):
        assert "pad_token_id is 0, that of the model's config 7" in str(found)


def test_options_of_another_kind_are_refused(model, texts):
    for given in ({"dims": [3]}, None):
        with pytest.raises(ArgumentError, match="steps: expected LifecycleOptions for 'lifecycle'"):
            outdim.analyze(model, tiny_tokenizer(), texts, {"lifecycle": given})
    with pytest.raises(
        ArgumentError, match="steps: expected GeometryOptions for 'geometry', got L"
    ):
        outdim.analyze(model, tiny_tokenizer(), texts, {"geometry": LifecycleOptions()})


def test_names_that_a_result_does_not_have_are_refused(model, texts):
    few = texts[:3]
    tokenizer = tiny_tokenizer()
    predicted = outdim.predictions(model, tokenizer, few, controls=0)
    evaluated = outdim.evaluate(model, tokenizer, few, controls=0, draws=10)
    criteria = outdim.criteria(model, tokenizer, few)
    for ask, said in (
        (lambda: predicted.measure("type"), "name: expected one of mean_log_frequency, types, "),
        (lambda: predicted.measure("types", "masked"), "reading: expected one of next, got 'mask"),
        (lambda: predicted.predicted("masked", 0), "reading: expected one of next, got 'masked'"),
        (lambda: evaluated.value("bits"), "metric: expected one of loss, .*, got 'bits'"),
        (lambda: evaluated.comparison("bits"), "metric: expected one of loss, .*, got 'bits'"),
        (lambda: criteria.flagged("mass", "block.1"), "rule: expected one of .*, got 'mass'"),
        (lambda: criteria.flagged("mad", "block.9"), "point, selection: expected one of .*block.1"),
        (lambda: embeddings(model).outside("type"), "part: expected one of word, got 'type'"),
    ):
        with pytest.raises(ArgumentError, match=said):
            ask()
