"""Losses in closed form are those of real ablations."""

import pytest
import torch
from outdim.errors import ArgumentError
from outdim.models import Ablation, Predictor, apply_ablation, architecture, observe
from outdim.models.last_layer import LastLayer
from tiny import LAYERS, tiny_inputs, tiny_model
from torch.nn.functional import cross_entropy

DIMS = (0, 9, 16, 17, 31)
# LayerNorm and no bias, RMSNorm, soft cap and 1 + weight, a bias in the output layer, a norm
# without parameters.
FAMILIES = ("gpt2", "llama", "gemma2", "phi", "olmo")


def real(model, ids, at, dims=DIMS):
    """The loss of every token but the first without each dimension, [R, M]."""
    found, losses = architecture(model), []
    for dim in dims:
        ablation = Ablation([dim], [LAYERS], at)
        with torch.inference_mode(), apply_ablation(model, ablation, found=found):
            logits = model(ids).logits[:, :-1].double()
        losses.append(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"))
    return torch.stack(losses, 1)


def closed(model, ids, at, dims=DIMS):
    last = architecture(model).blocks()[-1]
    with torch.inference_mode(), observe(model, [last]) as seen:
        model(ids)
    hidden = seen[last.name][:, :-1].flatten(0, 1)
    return LastLayer(model, at).losses(hidden, ids[:, 1:].flatten(), dims)


@pytest.mark.parametrize("at", ["state", "readers"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_are_those_of_real_ablations(family, at, dtype):
    model = tiny_model(family, head="CausalLM").to(dtype)
    ids = tiny_inputs(model)["input_ids"]
    if family == "olmo" and at == "readers":
        with pytest.raises(ArgumentError, match="no gamma"):
            LastLayer(model, at)
        return
    found = closed(model, ids, at)
    assert found.dtype == torch.float64
    assert found.shape == (18, len(DIMS))
    torch.testing.assert_close(found, real(model, ids, at), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_massive_activation_is_taken_out_without_loss_of_digits(family):
    """Dimension 5 is 24,000 times what others are: the norm without it is another."""
    model = tiny_model(family, head="CausalLM").double()
    block = model.get_submodule(architecture(model).blocks()[-1].module)

    plain = block.forward

    def massive(*args, **kwargs):
        output = plain(*args, **kwargs)
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        hidden[:, 0, 5] = 24_000.0
        return output

    block.forward = massive
    ids = tiny_inputs(model)["input_ids"]
    found = closed(model, ids, "state", [4, 5])
    torch.testing.assert_close(found, real(model, ids, "state", [4, 5]), rtol=0, atol=2e-5)
    assert (found[:, 1] - found[:, 0]).abs().max() > 0.1


def test_post_layer_norm_without_a_head_of_its_own():
    """Where the output layer reads the state itself there is no norm to redo."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=200, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64)
    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(config).eval()
    ids = tiny_inputs(model)["input_ids"]
    for at in ("state", "parameters"):
        torch.testing.assert_close(closed(model, ids, at), real(model, ids, at), rtol=0, atol=2e-5)


def test_parts_of_tokens_and_vocabulary(monkeypatch):
    model = tiny_model("gpt2", head="CausalLM")
    ids = tiny_inputs(model)["input_ids"]
    whole = closed(model, ids, "state")
    monkeypatch.setattr("outdim.models.last_layer._ROWS", 5)
    monkeypatch.setattr("outdim.models.last_layer._COLUMNS", 33)
    torch.testing.assert_close(closed(model, ids, "state"), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "modernbert"])
def test_a_head_that_transforms_has_no_closed_form(family):
    with pytest.raises(ArgumentError, match="no closed form"):
        LastLayer(tiny_model(family, head="MaskedLM"))


def test_a_projection_has_no_closed_form():
    with pytest.raises(ArgumentError, match="no closed form"):
        LastLayer(tiny_model("opt-post", head="CausalLM"))


def test_bad_input():
    model = tiny_model("gpt2", head="CausalLM")
    with pytest.raises(ArgumentError, match="denominator"):
        LastLayer(model, "denominator")
    with pytest.raises(ArgumentError, match="'parameters' has no meaning"):
        LastLayer(model, "parameters")
    last = LastLayer(model, predictor=Predictor(model), found=architecture(model))
    with pytest.raises(ArgumentError, match="dims: expected 0 to 31, got 32"):
        last.losses(torch.ones(2, 32), torch.zeros(2, dtype=torch.int64), [32])
    with pytest.raises(ArgumentError, match="targets: expected one for each"):
        last.losses(torch.ones(2, 32), torch.zeros(3, dtype=torch.int64), [1])
    none = last.losses(torch.ones(0, 32), torch.zeros(0, dtype=torch.int64), [1])
    assert none.shape == (0, 1)
