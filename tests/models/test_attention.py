"""Attention beside the model: equal to eager's matrices, and the model keeps every bit."""

import pytest
import torch
from outdim.errors import DataError
from outdim.models import architecture, observe_attention
from tiny import LAYERS, tiny_model
from transformers import AttentionInterface, AttentionMaskInterface

ENCODERS = ["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "t5"]
DECODERS = ["gpt2", "opt", "gpt_neox", "llama", "mistral", "gemma2", "gpt_oss", "olmo2", "qwen2"]
LENGTH = 24


def model_of(family):
    model = tiny_model(family)
    return model.get_encoder() if family == "t5" else model


def batch(padding):
    """Three sequences of up to LENGTH ids; lengths 24, 17 and 9 where they are padded."""
    ids = torch.randint(5, 200, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    if padding == "none":
        return {"input_ids": ids}
    lengths = torch.tensor([LENGTH, 17, 9])[:, None]
    mask = (torch.arange(LENGTH) < lengths).long()
    if padding == "left":
        mask = mask.flip(1)
    if padding == "ones":
        mask = torch.ones_like(mask)
    return {"input_ids": ids, "attention_mask": mask}


def eager_sums(model, inputs, kept):
    """Column sums of eager attention over the queries that are kept, by layer: [B, H, S]."""
    running = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(running)
    return [torch.where(kept[:, None, :, None], a.double(), 0).sum(-2) for a in attentions]


@pytest.mark.parametrize("padding", ["none", "right", "left", "ones"])
@pytest.mark.parametrize("family", ENCODERS + DECODERS)
def test_sums_are_those_of_eager_attention(family, padding):
    model, inputs = model_of(family), batch(padding)
    kept = inputs.get("attention_mask", torch.ones(3, LENGTH)).bool()
    found = {}
    with torch.inference_mode():
        plain = model(**inputs).last_hidden_state
        with observe_attention(
            model, lambda a: found.update({a.layer: a.received(kept.byte())})
        ) as layers:
            observed = model(**inputs).last_hidden_state
        after = model(**inputs).last_hidden_state
    assert torch.equal(plain, observed)
    assert torch.equal(plain, after)
    assert layers == tuple(range(1, LAYERS + 1)) == tuple(found)
    for want, got in zip(eager_sums(model, inputs, kept), found.values(), strict=True):
        torch.testing.assert_close(got.sums[:, 0], want, rtol=1e-5, atol=1e-5)
        if family in DECODERS and padding == "none" and family not in ("mistral", "gemma2"):
            seen = torch.arange(LENGTH, 0, -1).expand(3, 1, LENGTH)
            if family != "gpt_oss":
                assert torch.equal(got.seen[:, 0], seen)


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2", "gpt_oss", "t5"])
def test_weights_are_those_of_eager_attention(family):
    model, inputs = model_of(family), batch("right")
    found = []
    with torch.inference_mode(), observe_attention(model, lambda a: found.append(a.weights())):
        model(**inputs)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    kept = inputs["attention_mask"].bool()[:, None, :, None]
    for got, want in zip(found, attentions, strict=True):
        torch.testing.assert_close(
            torch.where(kept, got, 0), torch.where(kept, want, 0), rtol=1e-5, atol=1e-6
        )


def test_sinks_take_their_share():
    model, found = model_of("gpt_oss"), []
    with torch.inference_mode(), observe_attention(model, lambda a: found.append(a.received())):
        model(**batch("none"))
    assert all(bool((one.sums.sum(-1) < LENGTH - 1).any()) for one in found)


def test_nothing_is_left_behind():
    model, other = model_of("bert"), model_of("bert")
    names = [AttentionInterface().valid_keys(), AttentionMaskInterface().valid_keys()]
    seen = []
    with observe_attention(model, lambda a: seen.append(a.layer)):
        assert other.config._attn_implementation == "sdpa"
        with torch.inference_mode():
            other(**batch("none"))  # another model goes its own way
        assert not seen
        with pytest.raises(ZeroDivisionError), observe_attention(model, lambda a: 1 / 0):
            model(**batch("none"))
        with torch.inference_mode():
            model(**batch("none"))
    assert model.config._attn_implementation == "sdpa"
    assert names == [AttentionInterface().valid_keys(), AttentionMaskInterface().valid_keys()]
    assert seen[-LAYERS:] == list(range(1, LAYERS + 1))


def test_contexts_nest():
    model, counts = model_of("llama"), [[], []]
    with (
        torch.inference_mode(),
        observe_attention(model, lambda a: counts[0].append(a.layer)),
        observe_attention(model, lambda a: counts[1].append(a.layer), found=architecture(model)),
    ):
        model(**batch("none"))
    assert counts[0][-LAYERS:] == counts[1] == list(range(1, LAYERS + 1))


def test_half_precision_under_autocast():
    model, found = model_of("bert"), []
    with (
        torch.inference_mode(),
        observe_attention(model, lambda a: found.append(a.received())),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(**batch("right"))
    for one in found:
        assert one.sums.sum(-1).sub(LENGTH).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["deberta-v2", "xlnet", "bloom"])
def test_attention_outside_of_the_registry_is_an_error(family):
    with (
        pytest.raises(DataError, match="does not go through transformers' registry"),
        observe_attention(tiny_model(family), print),
    ):
        pass


def test_another_implementation_is_an_error():
    model = model_of("bert")
    found = architecture(model)
    model.config._attn_implementation_internal = "flex_attention"
    with (
        pytest.raises(DataError, match="expected one that runs sdpa or eager attention, got flex"),
        observe_attention(model, print, found=found),
    ):
        pass
    assert model.config._attn_implementation == "flex_attention"
