"""Ablations in every kind of forward: generation, gradients, autocast, other dtypes, threads."""

import threading

import pytest
import torch
from ablated_by_hand import DIMS, ENDERS, headed, kept, kept_base, logits, rewritten
from outdim import Ablation, ablate, observe
from outdim.errors import DataError
from outdim.models import apply_ablation, architecture
from tiny import HIDDEN, LAYERS, tiny_inputs, tiny_model
from torch import nn

pytestmark = pytest.mark.usefixtures("found_once")


@pytest.mark.parametrize("at", ["state", "readers", "denominator"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_with_a_cache_is_generation_without(family, at):
    model = kept(family)
    ids = torch.tensor([[7, 8, 9, 10], [11, 12, 13, 14]])
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with ablate(model, DIMS, at=at):
        cached = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **how)
    assert torch.equal(cached, plain)
    assert cached.shape == (2, 10)


def test_gradients_are_those_of_a_rewritten_model():
    model = headed("bert")
    paths = [ENDERS["bert"].format(i) for i in range(LAYERS)]
    other = rewritten(model, paths, lambda n, p: p.__setitem__(DIMS, p[DIMS] * 0.25))

    def gradients(of):
        of.zero_grad()
        embedded = of.get_input_embeddings()(tiny_inputs(of)["input_ids"]).detach().requires_grad_()
        of(inputs_embeds=embedded).logits.square().sum().backward()
        return embedded.grad, of.bert.encoder.layer[1].output.LayerNorm.weight.grad

    with ablate(model, DIMS, at="parameters", mode="scale", value=0.25):
        found = gradients(model)
    expected = gradients(other)
    assert torch.equal(found[0], expected[0])
    chain = expected[1].clone()
    chain[DIMS] *= 0.25  # gamma' = gamma / 4
    assert torch.equal(found[1], chain)
    assert found[1][DIMS].abs().min() > 0


@pytest.mark.parametrize("at", ["state", "denominator"])
def test_gradients_flow_to_the_input(at):
    model = tiny_model("gpt2").double()
    embedded = model.get_input_embeddings()(torch.tensor([[7, 8, 9]])).detach()

    def loss(x):
        with ablate(model, DIMS, at=at, mode="scale", value=0.5):
            return model(inputs_embeds=x).last_hidden_state.square().sum()

    x = embedded.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    step = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) * 1e-6
    with torch.no_grad():
        difference = (loss(embedded + step) - loss(embedded - step)) / 2
    assert float(difference) == pytest.approx(float((gradient * step).sum()), rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradient_checkpointing_edits_again(family):
    at = "parameters" if family == "bert" else "readers"
    model = tiny_model(family, attention_dropout=0.0).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def gradient():
        model.zero_grad()
        with ablate(model, DIMS), ablate(model, [5], at=at):
            model(**tiny_inputs(model)).last_hidden_state.square().sum().backward()
        return next(p.grad for n, p in model.named_parameters() if "mlp.up" in n or "inter" in n)

    plain = gradient()
    model.activation_checkpointing_enable()
    assert torch.equal(gradient(), plain)


def test_shared_layers_cannot_be_run_again():
    model = tiny_model("albert").train()
    with ablate(model, DIMS):
        model(**tiny_inputs(model))
        with pytest.raises(DataError, match="layers share it, and it ran outside a forward"):
            model.encoder.albert_layer_groups[0](torch.zeros(1, 2, HIDDEN))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("at", ["state", "denominator"])
def test_autocast(family, at):
    model = kept(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = logits(model)
        with ablate(model, DIMS, at=at), observe(model, ["block.1"]) as seen:
            edited = logits(model)
        with observe(model, ["block.1"]) as before:
            logits(model)
    assert edited.dtype == plain.dtype
    assert seen["block.1"].dtype == before["block.1"].dtype
    assert not torch.equal(edited, plain)
    if at == "state":
        assert (seen["block.1"][..., DIMS] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_other_dtypes(dtype, at):
    model = headed("bert").to(dtype)
    with ablate(model, DIMS, at=at, mode="scale", value=0.5):
        edited = logits(model)
    assert edited.dtype == dtype
    assert torch.isfinite(edited).all()
    assert not torch.equal(edited, logits(model))


def test_values_that_are_not_finite_are_replaced():
    model = tiny_model("gpt2")
    found = architecture(model)
    model.h[0].mlp.c_proj.bias.data[3] = float("inf")
    with torch.inference_mode(), apply_ablation(model, Ablation(3), found=found):
        assert torch.isfinite(model(**tiny_inputs(model)).last_hidden_state).all()


@pytest.mark.parametrize("at", ["state", "parameters"])
def test_observe_sees_what_the_edit_made_in_either_order(at):
    model = kept_base("bert")
    for outer in (True, False):
        with torch.inference_mode():
            if outer:
                with ablate(model, DIMS, at=at), observe(model) as seen:
                    model(**tiny_inputs(model))
            else:
                with observe(model) as seen, ablate(model, DIMS, at=at):
                    model(**tiny_inputs(model))
        zero = [name for name, h in seen.items() if (h[..., DIMS] == 0).all()]
        assert zero == [f"block.{i}" for i in range(LAYERS)]


@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_architecture_is_found_within(at):
    model = tiny_model("bert")
    expected = architecture(model)
    with ablate(model, DIMS, at=at, mode="scale", value=30.0):
        found = architecture(model)
        with torch.inference_mode():
            model(**tiny_inputs(model))
    assert found.points == expected.points
    assert set(found.modules) == set(expected.modules)


def test_eight_threads():
    model = headed("bert")
    with ablate(model, DIMS, at="parameters"):
        expected = logits(model)
        found = []
        work = [threading.Thread(target=lambda: found.append(logits(model))) for _ in range(8)]
        for one in work:
            one.start()
        for one in work:
            one.join()
    assert len(found) == 8
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_is_ablated_in_a_run_of_the_whole_model(part):
    model = tiny_model("bart")
    inputs = tiny_inputs(model)
    inner = model.get_encoder() if part == "encoder" else model.get_decoder()
    with torch.inference_mode(), ablate(inner, DIMS, at="parameters"):
        output = model(**inputs, decoder_input_ids=inputs["input_ids"], output_hidden_states=True)
    states = {
        "encoder": output.encoder_hidden_states[1:],
        "decoder": output.decoder_hidden_states[1:],
    }
    for name, given in states.items():
        assert all((h[..., DIMS] == 0).all() == (name == part) for h in given)
