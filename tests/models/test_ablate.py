"""What an ablation computes: that of models that were changed by hand, to the bit."""

import copy

import pytest
import torch
from ablated_by_hand import (
    DIMS,
    ENDERS,
    PRE,
    READERS,
    kept,
    kept_base,
    logits,
    norm_paths,
    rewritten,
    zero,
)
from outdim import ablate, observe
from outdim.models import Edited
from tiny import HIDDEN, LAYERS, SINGLE, tiny_inputs, tiny_model
from torch import nn

pytestmark = pytest.mark.usefixtures("found_once")

BLOCKS = {
    "distilbert": "transformer.layer",
    "albert": "encoder.albert_layer_groups.0.albert_layers",
    "opt": "decoder.layers",
    "opt-post": "decoder.layers",
    "gpt2": "h",
    "bloom": "h",
    "xlnet": "layer",
} | dict.fromkeys(("bert", "roberta", "electra", "deberta-v2"), "encoder.layer")

CHANGES = {
    "zero": {},
    "gamma": {"only": "gamma"},
    "beta": {"only": "beta"},
    "scale": {"mode": "scale", "value": 0.25},
    "factors": {"mode": "scale", "value": [3.0, -1.0]},
    "clip": {"mode": "clip", "value": 0.02},
    "mean": {"mode": "mean"},
}


def _change(kind):
    def change(name, p):
        old = p[DIMS].clone()
        others = torch.ones(len(p), dtype=torch.bool)
        others[DIMS] = False
        new = {
            "scale": old * 0.25,
            "factors": old * torch.tensor([3.0, -1.0]),
            "clip": old.clamp(-0.02, 0.02),
            "mean": p[others].mean().expand(2),
        }.get(kind, torch.zeros(2))
        if kind not in ("gamma", "beta") or (kind == "gamma") == (name == "weight"):
            p[DIMS] = new

    return change


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "zero") for family in ENDERS), *(("bert", kind) for kind in CHANGES),
     ("albert", "factors"), ("xlnet", "mean")],
)  # fmt: skip
def test_parameters_are_those_of_a_rewritten_model(family, kind):
    model = kept(family)
    plain = logits(model)
    paths = [ENDERS[family].format(i) for i in range(LAYERS)]
    expected = logits(rewritten(model, paths, _change(kind)))
    with ablate(model, DIMS, at="parameters", **CHANGES[kind]) as edited:
        assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, plain)
    assert torch.equal(logits(model), plain)
    assert edited.parameters == 2 * len(set(paths)) * (1 if kind in ("gamma", "beta") else 2)


@pytest.mark.parametrize("family", ["bert", "electra", "deberta-v2", "roberta"])
def test_the_norm_of_the_head_stays(family):
    """The published code zeroes that one too, by its name (52 parameters instead of 48)."""
    model = kept(family)
    with observe_head(model) as seen, ablate(model, DIMS, at="parameters"):
        logits(model)
    assert seen
    assert all((h != 0).all() for h in seen)


class observe_head:  # noqa: N801 - a context manager
    def __init__(self, model):
        base = model.base_model_prefix
        self.norms = [
            module
            for name, module in model.named_modules()
            if "norm" in type(module).__name__.lower() and not name.startswith(f"{base}.")
        ]

    def __enter__(self):
        self.seen = []
        self.handles = [
            n.register_forward_hook(lambda m, a, out: self.seen.append(out)) for n in self.norms
        ]
        return self.seen

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def test_two_dimensions_of_bert_base_are_48_parameters():
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=99, intermediate_size=8)  # the sizes that count are BERT-base's
    model = BertForMaskedLM(config).eval()
    assert (config.num_hidden_layers, config.hidden_size) == (12, 768)
    with ablate(model, [308, 381], at="parameters") as edited:
        logits(model, input_ids=torch.tensor([[5, 6, 7]]))
    assert edited == Edited(
        tuple(f"norm bert.encoder.layer.{i}.output.LayerNorm" for i in range(12)), 48
    )


@pytest.mark.parametrize("family", PRE)
def test_readers_are_those_of_a_rewritten_model(family):
    model = kept(family)
    layers = range(1, LAYERS + 1)
    offset = 1.0 if family == "gemma2" else 0.0
    paths = norm_paths(family, layers)
    expected = logits(rewritten(model, paths, lambda n, p: zero(n, p, offset)))
    with ablate(model, DIMS, at="readers") as edited:
        assert torch.equal(logits(model), expected)
    assert len(edited.points) == len(paths)


def replaced(model, paths, dims, weights=None):
    """A copy of the model with norms written by hand, in float64, with other statistics."""
    other = copy.deepcopy(model)
    for path in dict.fromkeys(paths):
        parent, _, name = path.rpartition(".")
        holder = other.base_model.get_submodule(parent)
        setattr(holder, name, HandNorm(getattr(holder, name), dims, weights))
    return other


class HandNorm(nn.Module):
    def __init__(self, norm, dims, weights):
        super().__init__()
        self.rms = not any(hasattr(norm, name) for name in ("bias", "normalized_shape"))
        self.eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))
        zeros = torch.zeros(HIDDEN)
        gamma = getattr(norm, "weight", None)
        self.gamma = torch.ones(HIDDEN) if gamma is None else gamma.data
        if "Gemma" in type(norm).__name__:
            self.gamma = 1 + self.gamma
        beta = getattr(norm, "bias", None)
        self.beta = zeros if beta is None else beta.data
        self.w = torch.ones(HIDDEN, dtype=torch.float64)
        self.w[dims] = 0.0 if weights is None else torch.tensor(weights, dtype=torch.float64)

    def forward(self, x):
        h, total = x.double(), self.w.sum()
        mean = 0.0 if self.rms else (h * self.w).sum(-1, keepdim=True) / total
        variance = ((h - mean) ** 2 * self.w).sum(-1, keepdim=True) / total
        y = (h - mean) / (variance + self.eps).sqrt() * self.gamma.double() + self.beta.double()
        return y.to(x.dtype)


@pytest.mark.parametrize(
    ("family", "weights"),
    [*((family, None) for family in READERS), ("bert", [0.5, 0.0]), ("gemma2", [0.5, 0.0]),
     ("gpt2", [1.0, 1.0])],
)  # fmt: skip
def test_the_denominator_is_that_of_norms_by_hand(family, weights):
    model = kept(family)
    paths = norm_paths(family, range(1, LAYERS + 1))
    if family in ENDERS:
        paths += [ENDERS[family].format(i) for i in range(LAYERS)]
    expected = logits(replaced(model, paths, DIMS, weights))
    how = {} if weights is None else {"mode": "scale", "value": weights}
    with ablate(model, DIMS, at="denominator", **how) as edited:
        found = logits(model)
    plain = logits(model)
    # Float32 through four layers against float64 norms.
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.abs().max())
    changed = float((expected - plain).abs().max()) > 1e-3 * float(plain.abs().max())
    assert changed == (weights != [1.0, 1.0])
    assert edited.parameters == 0
    assert len(edited.points) == len(paths)


def test_the_state_keeps_what_the_denominator_forgets():
    model = tiny_model("gpt2", outliers=[7])
    with torch.inference_mode(), observe(model, ["block.0"]) as before:
        model(**tiny_inputs(model))
    with torch.inference_mode(), ablate(model, [7], [1], at="denominator"), observe(
        model, ["block.0", "block.0.norm"]
    ) as seen:  # fmt: skip
        model(**tiny_inputs(model))
    assert torch.equal(seen["block.0"], before["block.0"])
    others = [dim for dim in range(HIDDEN) if dim != 7]
    h, norm = seen["block.0"].double()[..., others], model.h[1].ln_1
    x_hat = (seen["block.0.norm"] - norm.bias.detach()) / norm.weight.detach()
    expected = (h - h.mean(-1, keepdim=True)) / (
        h.var(-1, unbiased=False, keepdim=True) + 1e-5
    ) ** 0.5
    assert torch.allclose(x_hat[..., others].double(), expected, atol=1e-5)
    assert float(x_hat[..., 7].abs().min()) > 0


def edited_by_hooks(model, path, change):
    """Contexts of plain hooks on the blocks of the base model."""
    blocks = model.base_model.get_submodule(path)

    def hook(module, args, output):
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    return [block.register_forward_hook(hook) for block in blocks]


STATE = {
    "zero": ({}, lambda h: torch.zeros_like(h)),
    "scale": ({"mode": "scale", "value": -2.0}, lambda h: h * -2.0),
    "clip": ({"mode": "clip", "value": [0.1, 0.3]},
             lambda h: torch.maximum(torch.minimum(h, torch.tensor([0.1, 0.3])),
                                     -torch.tensor([0.1, 0.3]))),
    "mean": ({"mode": "mean", "value": [1.5, -2.0]},
             lambda h: torch.tensor([1.5, -2.0]).expand_as(h)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "zero") for family in SINGLE), *(("gpt2", kind) for kind in STATE),
     ("xlnet", "mean")],
)  # fmt: skip
def test_the_state_is_that_of_plain_hooks(family, kind):
    options, change = STATE[kind]
    model = kept(family)
    plain = logits(model)

    def edit(h):
        h = h.clone()
        h[..., DIMS] = change(h[..., DIMS])
        return h

    handles = edited_by_hooks(model, BLOCKS.get(family, "layers"), edit)
    expected = logits(model)
    for handle in handles:
        handle.remove()
    with ablate(model, DIMS, **options):
        assert torch.equal(logits(model), expected)
    assert not torch.equal(expected, plain)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("family", SINGLE)
def test_hidden_states_of_transformers_are_the_edited_ones(family):
    model = kept_base(family)
    with torch.inference_mode(), ablate(model, DIMS, [0, 2]):
        states = model(**tiny_inputs(model), output_hidden_states=True).hidden_states
    # ALBERT's are taken in the block, one module further in than what it gives.
    assert (states[2][..., DIMS] == 0).all() == (family != "albert")
    assert (states[1][..., DIMS] != 0).any()
    with torch.inference_mode(), ablate(model, DIMS, [0, 2]), observe(model) as seen:
        model(**tiny_inputs(model))
    zero = [name for name, h in seen.items() if (h[..., DIMS] == 0).all()]
    assert zero == ["embeddings", "block.1"]


def test_layers_that_share_a_norm_are_told_apart():
    model = kept_base("albert")
    for at in ("state", "parameters"):
        with torch.inference_mode(), ablate(model, DIMS, [2, 4], at=at), observe(model) as seen:
            model(**tiny_inputs(model))
        zero = [name for name, h in seen.items() if (h[..., DIMS] == 0).all()]
        assert zero == ["block.1", "block.3"], at


def test_the_embeddings_on_request():
    model = kept("bert")
    copied = rewritten(model, ["embeddings.LayerNorm"], zero)
    with ablate(model, DIMS, 0, at="parameters") as edited:
        assert torch.equal(logits(model), logits(copied))
    assert edited.parameters == 4
    with ablate(model, DIMS, 0):
        assert torch.equal(logits(model), logits(copied))
