"""The tiny models and tokenizers that all tests stand on."""

import string

import pytest
import torch
from outdim.models import architecture
from tiny import FAMILIES, VOCAB, tiny_inputs, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_the_same_each_time_and_norms_have_a_spread(family):
    model, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    with torch.inference_mode():
        outputs = [m(**tiny_inputs(m))[0] for m in (model, again, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    for norm in architecture(model).norms():
        assert norm.gamma.std() > 0.03


def test_a_head_stands_on_the_same_base():
    bare, headed = tiny_model("bert"), tiny_model("bert", head="MaskedLM")
    base = headed.base_model.state_dict()
    assert all(torch.equal(t, base[n]) for n, t in bare.state_dict().items() if n in base)


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_outliers_are_the_extreme_values(family):
    for norm in architecture(tiny_model(family, outliers=[3, 20])).norms():
        assert set((norm.gamma - 1).abs().topk(2).indices.tolist()) == {3, 20}
        if norm.beta is not None:
            assert set(norm.beta.abs().topk(2).indices.tolist()) == {3, 20}


def test_the_tokenizer_covers_text_and_has_the_size_of_the_model():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == VOCAB
    assert max(tokenizer.get_vocab().values()) == VOCAB - 1
    text = string.printable + " w7 Transformers, 2022!"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.unk_token_id not in ids
    assert (
        tokenizer.decode(tokenizer("w7 in 22")["input_ids"], skip_special_tokens=True) == "w7 in 22"
    )
    with pytest.raises(ValueError, match="at least"):
        tiny_tokenizer(20)
