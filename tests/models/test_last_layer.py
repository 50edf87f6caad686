"""Scores in closed form are those of real ablations."""

import pytest
import torch
from outdim.models import Ablation, Predictor, apply_ablation, architecture, observe
from outdim.models.last_layer import LastLayer
from outdim.models.losses import scores
from tiny import LAYERS, tiny_inputs, tiny_model

SETS = ([0], [9], [16, 3], [17], list(range(5, 30)))
# LayerNorm and no bias, RMSNorm, soft cap and 1 + weight, a bias in the output layer, a norm
# without parameters.
FAMILIES = ("gpt2", "llama", "gemma2", "phi", "olmo")


def real(model, ids, asked, found, targets):
    """The scores of targets after every token but the last, intact and of each ablation."""
    predictor, states = Predictor(model), []
    for ablation in (None, *asked):
        with torch.inference_mode(), apply_ablation(model, ablation, found=found):
            states.append(predictor.states(ids, torch.ones_like(ids))[:, :-1].flatten(0, 1))
    with torch.inference_mode():
        return scores(predictor.logits, states, targets, predictor.vocab_size)


def form_of(model, found=None):
    found = found or architecture(model)
    return found.blocks()[-1], LastLayer(model, Predictor(model), found)


def closed(model, ids, asked, intact, found, targets):
    last, form = form_of(model, found)
    assert form.note == ""
    assert all(map(form.takes, asked))
    with torch.inference_mode(), observe(model, [last]) as seen:
        model(ids)
        return form.scores(seen[last.name][:, :-1].flatten(0, 1), targets, intact, asked)


def compare(model, at, sets=SETS, targets=None, tolerance=2e-5):
    """Loss and KL of each set; the likeliest token where it is one of two that are asked for."""
    ids = tiny_inputs(model)["input_ids"]
    targets = ids[:, 1:].flatten() if targets is None else targets
    asked = [Ablation(one, [LAYERS], at) for one in sets]
    known = architecture(model)
    intact, *expected = real(model, ids, asked, known, targets)
    found = closed(model, ids, asked, intact, known, targets)
    for one, other in zip(found, expected, strict=True):
        assert one.brief
        assert one.loss.dtype == torch.float64
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=tolerance)
        torch.testing.assert_close(one.kl, other.kl, rtol=1e-6, atol=tolerance)
        same = one.predicted == other.predicted
        named = (other.predicted == targets) | (other.predicted == intact.predicted)
        assert (same | (~named & (one.predicted == -1))).all()
    return found


@pytest.mark.parametrize("at", ["state", "readers"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_are_those_of_real_ablations(family, at, dtype):
    if family == "olmo" and at == "readers":
        return  # its norms have no parameters
    compare(tiny_model(family, head="CausalLM").to(dtype), at)


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
    four, five = compare(model, "state", ([4], [5]))
    assert (four.loss - five.loss).abs().max() > 0.1


def test_post_layer_norm_without_a_head_of_its_own():
    """Where the output layer reads the state itself there is no norm to redo."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=200, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64)
    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(config).eval()
    for at in ("state", "parameters"):
        compare(model, at)


@pytest.mark.parametrize("at", ["state", "readers"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_large_logits_are_taken_in_float64(family, at):
    model = tiny_model(family, head="CausalLM").double()
    model.get_output_embeddings().weight.data *= 60
    compare(model, at, tolerance=1e-9 if family == "gpt2" else 2e-5)


def test_parts_of_tokens_and_vocabulary_change_nothing(monkeypatch):
    monkeypatch.setattr("outdim.models.last_layer._CPU", (5, 33))
    compare(tiny_model("gpt2", head="CausalLM"), "state")


@pytest.mark.parametrize("columns", [2, 64, 2048])  # ties across parts, and within one
def test_of_equally_likely_tokens_the_first_is_predicted(columns, monkeypatch):
    """Every token has a twin, so that none of the second half can be the one predicted."""
    monkeypatch.setattr("outdim.models.last_layer._CPU", (64, columns))
    model = tiny_model("gpt2", head="CausalLM").double()
    weight = model.get_output_embeddings().weight.data
    half = len(weight) // 2
    weight[half : 2 * half] = weight[:half]
    ids, off = tiny_inputs(model)["input_ids"], Ablation([9], [LAYERS])
    _, found = real(model, ids, [off], architecture(model), ids[:, 1:].flatten())
    twins = found.predicted + half
    (one,) = compare(model, "state", ([9],), targets=twins)
    assert not (one.predicted == twins).any()


def test_a_variant_is_the_same_whatever_stands_beside_it():
    model = tiny_model("gpt2", head="CausalLM")
    alone, together = compare(model, "state", SETS[2:3]), compare(model, "state")
    for name in ("loss", "kl", "predicted"):
        assert torch.equal(getattr(alone[0], name), getattr(together[2], name))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "modernbert"])
def test_a_head_that_transforms_has_no_closed_form(family):
    _, form = form_of(tiny_model(family, head="MaskedLM"))
    assert "more than a norm stands" in form.note
    assert not form.takes(Ablation([1], [LAYERS]))


def test_neither_has_a_projection_nor_half_precision():
    _, form = form_of(tiny_model("opt-post", head="CausalLM"))
    assert "more than a norm stands" in form.note
    _, form = form_of(tiny_model("gpt2", head="CausalLM").bfloat16())
    assert "torch.bfloat16 rounds" in form.note


@pytest.mark.parametrize(
    "other",
    [
        Ablation([1], [LAYERS - 1]),
        Ablation([1], [LAYERS - 1, LAYERS]),
        Ablation([1]),
        Ablation([1], [LAYERS], "denominator"),
        Ablation([1], [LAYERS], "parameters"),  # of a norm before the final one: all is rescaled
        Ablation([1], [LAYERS], "readers", only="gamma"),
        Ablation([1], [LAYERS], mode="scale", value=0.5),
        Ablation([[1]], [LAYERS]),
    ],
)
def test_what_it_does_not_take(other):
    _, form = form_of(tiny_model("gpt2", head="CausalLM"))
    assert form.takes(Ablation([1], [LAYERS]))
    assert not form.takes(other)
