"""Heads: loaded whole or not at all, sharing the weights of their base model."""

import json

import pytest
import torch
from outdim.analysis.inputs import Inputs, Resources
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture, check_head, load_model, observe, share_weights
from outdim.tokens import load_tokenizer
from tiny import HEADS, tiny_inputs, tiny_model

CAUSAL = [family for family, head in HEADS.items() if head == "CausalLM"]
MASKED = [family for family, head in HEADS.items() if head == "MaskedLM"]
AUTO = {"mlm": "MaskedLM", "lm": "CausalLM", "classifier": "SequenceClassification"}


def logits(model):
    with torch.inference_mode():
        return model(**tiny_inputs(model)).logits


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def options(path, **others):
    return {"model": str(path), "dtype": None, "part": None, **others}


@pytest.mark.parametrize(
    ("family", "head"),
    [
        *((family, "lm") for family in CAUSAL),
        *((family, "mlm") for family in MASKED),
        *((family, "classifier") for family in ("bert", "llama", "gpt2", "distilbert")),
    ],
)
def test_a_head_comes_back_as_it_was_saved(tmp_path, family, head):
    model = tiny_model(family, head=AUTO[head], pad_token_id=0)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, head=head)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert loaded.config._name_or_path == str(tmp_path)
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("family", "head", "lacking"),
    [
        ("bert", "mlm", "BertForMaskedLM .cls.predictions.bias, cls.predictions.decoder.bias"),
        ("bert", "classifier", "BertForSequenceClassification .classifier.bias, classifier.weight"),
        ("gpt2", "classifier", "GPT2ForSequenceClassification .score.weight"),
    ],
)
def test_a_head_that_would_be_random(tmp_path, family, head, lacking):
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=rf"no weights for \d tensors of {lacking}.*would be rand"):
        load_model(tmp_path, head=head)


def test_tied_weights_are_not_missing(tmp_path):
    """GPT-2 has no tensors of its head beside the embeddings: a base model is complete."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    loaded = load_model(tmp_path, head="lm")
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    # Not tied, they are missing.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(DataError, match=r"no weights for 1 tensors of GPT2LMHeadModel .lm_head"):
        load_model(tmp_path, head="lm")


def test_weights_of_the_base_are_as_necessary(tmp_path):
    model = tiny_model("gpt2", head="CausalLM")
    state = {k: v for k, v in model.state_dict().items() if "h.2.ln_1" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(DataError, match=r"2 tensors of GPT2LMHeadModel .transformer.h.2.ln_1.bias"):
        load_model(tmp_path, head="lm")


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "xlnet"])
def test_a_language_model_that_sees_the_next_token(tmp_path, family):
    tiny_model(family, head="CausalLM").save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="its tokens see those after them"):
        load_model(tmp_path, head="lm")
    tiny_model("bert", head="CausalLM", is_decoder=True).save_pretrained(tmp_path)
    assert load_model(tmp_path, head="lm").config.is_decoder


def test_heads_that_a_family_does_not_have(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(
        ArgumentError,
        match=r"no masked language model of the family gpt2 .AutoModelForMaskedLM.; "
        "expected 'lm' or 'classifier' or None, got 'mlm'",
    ):
        load_model(tmp_path, head="mlm")
    with pytest.raises(ArgumentError, match="head: expected 'mlm', 'lm', 'classifier' or None"):
        load_model(tmp_path, head="nsp")
    with pytest.raises(ArgumentError, match="part: expected None with a head"):
        load_model(tmp_path, head="lm", part="decoder")
    tiny_model("bart").save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="which has an encoder and a decoder, got 'lm'"):
        load_model(tmp_path, head="lm")


@pytest.mark.parametrize(("family", "head"), [("bert", "mlm"), ("gpt2", "lm"), ("llama", "lm")])
def test_inputs_hold_one_copy_of_the_weights(tmp_path, family, head):
    whole = tiny_model(family, head=AUTO[head])
    whole.save_pretrained(tmp_path)
    inputs = Inputs(options(tmp_path))
    model = inputs.model_with(head)
    assert inputs.model_with(head) is model
    own = {tensor.data_ptr() for tensor in inputs.model.parameters()}
    base = {tensor.data_ptr() for tensor in model.base_model.parameters()}
    assert base == own
    head_only = {tensor.data_ptr() for tensor in model.parameters()} - own
    assert len(head_only) == {"bert": 5, "gpt2": 0, "llama": 1}[family]
    assert torch.equal(logits(model), logits(whole))
    if family != "llama":  # tied as before
        assert model.get_output_embeddings().weight is inputs.model.get_input_embeddings().weight
    other = Inputs(options(tmp_path)).sharing(inputs)
    assert other.model_with(head) is model


def test_the_identity_of_a_model_does_not_depend_on_what_was_opened_first(tmp_path):
    """The base of a BertForMaskedLM has no pooler, that which AutoModel loads has one."""
    model = tiny_model("bert", head="PreTraining")
    model.save_pretrained(tmp_path)
    first, second = Inputs(options(tmp_path)), Inputs(options(tmp_path))
    first.model_with("mlm")
    assert first.about_model == second.about_model
    assert first.about_head("mlm") == second.about_head("mlm")
    assert first.about_head("mlm")["class"] == "BertForMaskedLM"
    state = model.state_dict()
    state["cls.predictions.bias"][0] += 1
    model.save_pretrained(tmp_path)
    third = Inputs(options(tmp_path))
    assert third.about_model == second.about_model
    assert third.about_head("mlm")["sha256"] != second.about_head("mlm")["sha256"]


@pytest.mark.parametrize(("family", "head"), [("bert", "mlm"), ("gpt2", "lm"), ("opt", "lm")])
def test_points_of_a_model_with_a_head_are_those_of_its_base(tmp_path, family, head):
    tiny_model(family, head=AUTO[head]).save_pretrained(tmp_path)
    inputs = Inputs(options(tmp_path))
    model = inputs.model_with(head)
    assert architecture(model).points.keys() == inputs.architecture.points.keys()
    batch = tiny_inputs(model)
    with torch.inference_mode(), observe(model) as seen, observe(inputs.model) as expected:
        model(**batch)
        inputs.model(**batch)
    for name, hidden in seen.items():
        assert torch.equal(hidden, expected[name])


def test_hooks_on_one_do_not_fire_in_the_other(tmp_path):
    tiny_model("gpt2", head="CausalLM").save_pretrained(tmp_path)
    inputs = Inputs(options(tmp_path))
    model = inputs.model_with("lm")
    with pytest.raises(DataError, match="none fired"), observe(inputs.model):
        model(**tiny_inputs(model))


def test_tensors_that_differ_are_not_shared():
    model, base = tiny_model("gpt2", head="CausalLM"), tiny_model("gpt2")
    base.ln_f.bias.data[0] += 1
    before = logits(model)
    share_weights(model, base)
    assert model.transformer.wte.weight is base.wte.weight
    assert model.transformer.ln_f.bias is not base.ln_f.bias
    assert torch.equal(logits(model), before)


def test_a_model_at_hand_is_taken_as_it_is():
    model = tiny_model("gpt2", head="CausalLM")
    assert Inputs.of(model=model).model_with("lm") is model
    with pytest.raises(ArgumentError, match=r"expected a masked language model .*got GPT2Model; l"):
        Inputs.of(model=tiny_model("gpt2")).model_with("mlm")
    with pytest.raises(ArgumentError, match=r"expected a classifier .*got GPT2LMHeadModel"):
        check_head(model, "classifier")

    class Mine(type(model)):
        pass

    check_head(Mine(model.config), "lm")


def test_the_options_of_the_model_hold_for_its_head(tmp_path):
    tiny_model("gpt2", head="CausalLM").save_pretrained(tmp_path)
    inputs = Inputs(options(tmp_path, dtype="bfloat16"), resources=Resources("cpu"))
    assert inputs.model_with("lm").dtype == torch.bfloat16


@pytest.mark.slow
def test_smollm2(smollm2):
    inputs = Inputs({"model": smollm2, "dtype": None, "part": None})
    model = inputs.model_with("lm")
    assert model.lm_head.weight is inputs.model.embed_tokens.weight
    assert inputs.about_model["gguf"]["tensors"] == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    tokenizer = load_tokenizer(smollm2)
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.inference_mode():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
