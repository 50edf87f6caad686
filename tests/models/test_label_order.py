"""Outputs of a classifier are mapped to labels by name, whatever their order."""

import pytest
from outdim.errors import ArgumentError, DataError
from outdim.models.label_order import label_order
from transformers import BertConfig

NLI = ("entailment", "neutral", "contradiction")


def config(*names: str) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), num_labels=len(names))


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (NLI, (0, 1, 2)),
        (("CONTRADICTION", "Neutral", "entailment"), (2, 1, 0)),  # roberta-large-mnli
        ((" neutral", "ENTAILMENT", "contradiction"), (1, 0, 2)),
    ],
)
def test_names_decide_and_not_the_order(names, outputs):
    assert label_order(config(*names), NLI) == (outputs, "")


def test_blanks_and_hyphens_do_not_count():
    found = label_order(config("Not Entailment", "entail-ment"), ("entail_ment", "not_entailment"))
    assert found.outputs == (1, 0)


@pytest.mark.parametrize("names", [("LABEL_0", "LABEL_1"), ("0", "1")])
def test_outputs_without_names_are_taken_in_the_order_of_the_data_and_that_is_said(names):
    found = label_order(config(*names), ("negative", "positive"))
    assert found.outputs == (0, 1)
    assert "0 negative and 1 positive" in found.caution
    given = label_order(config(*names), ("negative", "positive"), ["positive", "negative"])
    assert given == ((1, 0), "")


def test_other_names_and_numbers_are_errors():
    with pytest.raises(DataError, match=r"its outputs are joy and anger.*--outputs"):
        label_order(config("joy", "anger"), ("negative", "positive"))
    with pytest.raises(DataError, match="3 outputs, one for each of entailment, neutral and contr"):
        label_order(config("a", "b"), NLI)
    with pytest.raises(DataError, match="1 outputs, one, the score, and the classifier has 2"):
        label_order(config("a", "b"), ())
    assert label_order(config("score"), ()).outputs == (0,)
    with pytest.raises(ArgumentError, match="outputs: expected each of negative and positive once"):
        label_order(config("a", "b"), ("negative", "positive"), ["positive", "positive"])
