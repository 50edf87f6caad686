"""Where an ablation of the last layer changes one dimension of the last hidden state alone."""

import pytest
import torch
from outdim.errors import ArgumentError
from outdim.models import ablate, architecture
from outdim.models.pooled import exact_at
from tiny import SINGLE, tiny_inputs, tiny_model

POST = ("bert", "roberta", "electra", "distilbert", "albert", "deberta-v2")
TEXT = [family for family in SINGLE if family not in ("vit", "opt-post")]


@pytest.mark.parametrize("family", TEXT)
def test_what_is_named_is_exact_and_what_is_not_is_not(family):
    model = tiny_model(family)
    found = architecture(model)
    exact = exact_at(model, found)
    if family in POST:
        assert exact == ("state", "parameters")
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state.clone()
        expected[..., [3, 17]] = 0
        for at in ("state", "parameters", "readers"):
            try:
                with ablate(model, [3, 17], found.layers, at=at):
                    states = model(**inputs).last_hidden_state
            except ArgumentError:
                assert at not in exact
                continue
            assert torch.equal(states, expected) == (at in exact)


def test_a_final_norm_makes_it_that_of_the_reader():
    assert exact_at(tiny_model("gpt2")) == exact_at(tiny_model("llama")) == ("readers",)


def test_behind_a_projection_nothing_is_exact():
    assert exact_at(tiny_model("opt-post")) == ()


def test_a_model_with_a_head_has_no_pooled_state():
    with pytest.raises(ArgumentError, match="last_hidden_state"):
        exact_at(tiny_model("bert", head="MaskedLM"))
