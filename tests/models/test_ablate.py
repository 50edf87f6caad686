"""Ablations against models that were changed by hand, and nothing left behind."""

import copy
import threading
from functools import cache

import pytest
import torch
from outdim import Ablation, ablate, ablate_each, observe
from outdim.errors import ArgumentError, DataError
from outdim.models import Edited, apply_ablation, architecture
from tiny import HEADS, HIDDEN, LAYERS, SINGLE, tiny_inputs, tiny_model
from torch import nn

pytestmark = pytest.mark.usefixtures("found_once")
DIMS = [3, 17]

# Norms by hand, of the base model: {} counts the blocks. Those that end them ...
ENDERS = {
    "bert": "encoder.layer.{}.output.LayerNorm",
    "roberta": "encoder.layer.{}.output.LayerNorm",
    "electra": "encoder.layer.{}.output.LayerNorm",
    "distilbert": "transformer.layer.{}.output_layer_norm",
    "albert": "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm",
    "opt-post": "decoder.layers.{}.final_layer_norm",
    "deberta-v2": "encoder.layer.{}.output.LayerNorm",
    "xlnet": "layer.{}.ff.layer_norm",
}
# ... and those that take the stream of a block, with the one behind the last.
READERS = {
    "bert": (["encoder.layer.{}.attention.output.LayerNorm"], None),
    "roberta": (["encoder.layer.{}.attention.output.LayerNorm"], None),
    "electra": (["encoder.layer.{}.attention.output.LayerNorm"], None),
    "distilbert": (["transformer.layer.{}.sa_layer_norm"], None),
    "opt-post": (["decoder.layers.{}.self_attn_layer_norm"], None),
    "deberta-v2": (["encoder.layer.{}.attention.output.LayerNorm"], None),
    "xlnet": (["layer.{}.rel_attn.layer_norm"], None),
    "gpt2": (["h.{}.ln_1", "h.{}.ln_2"], "ln_f"),
    "opt": (
        ["decoder.layers.{}.self_attn_layer_norm", "decoder.layers.{}.final_layer_norm"],
        "decoder.final_layer_norm",
    ),
    "gpt_neox": (
        ["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"],
        "final_layer_norm",
    ),
    "llama": (["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"], "norm"),
    "modernbert": (["layers.{}.attn_norm", "layers.{}.mlp_norm"], "final_norm"),
    "gemma2": (["layers.{}.input_layernorm", "layers.{}.pre_feedforward_layernorm"], "norm"),
    "gpt_oss": (["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"], "norm"),
    "olmo": (["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"], "norm"),
    "mistral": (["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"], "norm"),
    "qwen2": (["layers.{}.input_layernorm", "layers.{}.post_attention_layernorm"], "norm"),
    "bloom": (["h.{}.input_layernorm", "h.{}.post_attention_layernorm"], "ln_f"),
    "phi": (["layers.{}.input_layernorm"], "final_layernorm"),
    "vit": (["layers.{}.layernorm_before", "layers.{}.layernorm_after"], "layernorm"),
}
BLOCKS = {
    "distilbert": "transformer.layer",
    "albert": "encoder.albert_layer_groups.0.albert_layers",
    "opt": "decoder.layers",
    "opt-post": "decoder.layers",
    "gpt2": "h",
    "bloom": "h",
    "xlnet": "layer",
} | dict.fromkeys(("bert", "roberta", "electra", "deberta-v2"), "encoder.layer")
PRE = [family for family in SINGLE if family not in ENDERS and family not in ("olmo", "olmo2")]


def logits(model, batch=3, **inputs):
    with torch.inference_mode():
        return model(**(inputs or tiny_inputs(model, batch=batch))).logits


def headed(family):
    return tiny_model(family, head=HEADS[family])


#: For tests that leave the model as it is, and would fail otherwise.
kept = cache(headed)
kept_base = cache(tiny_model)


def norm_paths(family, layers):
    """The norms by hand that take the output of these layers."""
    inner, final = READERS[family]
    paths = [path.format(layer) for layer in layers if layer < LAYERS for path in inner]
    return paths + ([final] if final and LAYERS in layers else [])


def rewritten(model, paths, change):
    """A copy of the model with other parameters in the norms of its base model."""
    other = copy.deepcopy(model)
    for path in dict.fromkeys(paths):
        norm = other.base_model.get_submodule(path)
        for name, parameter in norm.named_parameters():
            change(name, parameter.data)
    return other


def _zero(name, p, offset=0.0):
    p[DIMS] = -offset if name == "weight" else 0.0


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
    expected = logits(rewritten(model, paths, lambda n, p: _zero(n, p, offset)))
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
    copied = rewritten(model, ["embeddings.LayerNorm"], _zero)
    with ablate(model, DIMS, 0, at="parameters") as edited:
        assert torch.equal(logits(model), logits(copied))
    assert edited.parameters == 4
    with ablate(model, DIMS, 0):
        assert torch.equal(logits(model), logits(copied))


MANY = [
    None,
    Ablation([3]),
    Ablation([5, 6], mode="scale", value=[0.5, 2.0]),
    Ablation([9], [0, 2, 3], mode="clip", value=0.1),
    Ablation([1, 9], [1, 4], mode="mean", value=[[0.5, 1.0], [2.0, -1.0]]),
    Ablation([[1], [], [4, 5]], [1, 2, 3]),
]


@pytest.mark.parametrize("family", SINGLE)
def test_each_block_of_a_batch_is_its_ablation_alone_to_the_bit(family):
    model = kept(family)
    found = architecture(model)
    ablations = list(MANY)
    if family in ENDERS:
        ablations += [Ablation([3], at="parameters"), Ablation([3], [2], "parameters", "mean")]
    elif family in PRE:
        ablations += [Ablation([3], at="readers")]
    if family != "olmo2":
        ablations += [Ablation([3, 4], at="denominator"),
                      Ablation([3], at="denominator", mode="clip", value=0.1)]  # fmt: skip
    inputs = tiny_inputs(model, batch=2)
    inputs = {
        key: value.repeat(len(ablations), *[1] * (value.dim() - 1)) for key, value in inputs.items()
    }
    with ablate_each(model, ablations, found=found) as edited:
        together = logits(model, **inputs)
    assert len(edited) == len(ablations)
    for i, ablation in enumerate(ablations):
        rows = slice(2 * i, 2 * i + 2)
        with apply_ablation(model, ablation, found=found):
            alone = logits(model, **inputs)
        assert torch.equal(together[rows], alone[rows]), ablation
        assert ablation is None or not torch.equal(alone, logits(model, **inputs))


def test_blocks_within_a_context_and_within_blocks():
    model = kept("bert")
    inputs = {k: v.repeat(6, 1) for k, v in tiny_inputs(model, batch=1).items()}
    two = [None, Ablation([3], at="parameters")]
    three = [None, Ablation([4], at="parameters"), Ablation([5])]
    with ablate(model, [6], at="parameters"), ablate_each(model, two), ablate_each(model, three):
        together = logits(model, **inputs)
    for row in range(6):
        with (
            ablate(model, [6], at="parameters"),
            apply_ablation(model, two[row // 3]),
            apply_ablation(model, three[row // 2]),
        ):
            assert torch.equal(together[row], logits(model, **inputs)[row])


def test_a_batch_that_is_no_multiple():
    model = kept("bert")
    with (
        pytest.raises(DataError, match=r"a multiple of 2 sequences.*got a batch of 3; repeat"),
        ablate_each(model, [None, Ablation([3])]),
    ):
        logits(model)


@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_contexts_nest(at):
    model = kept("bert")
    with ablate(model, [3, 17], at=at):
        expected = logits(model)
    with ablate(model, [3], at=at):
        once = logits(model)
        with ablate(model, [17], at=at):
            assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model), once)


def test_the_inner_of_two_contexts_comes_first():
    model = kept("bert")
    for at in ("state", "parameters"):
        with ablate(model, 3, at=at, mode="clip", value=0.1):
            bounded = logits(model)
            with ablate(model, 3, at=at, mode="scale", value=1e6):
                assert not torch.equal(logits(model), bounded)
        with ablate(model, 3, at=at, mode="clip", value=0.1), ablate(
            model, 3, at=at, mode="scale", value=0.0
        ):  # fmt: skip
            nothing = logits(model)
        with ablate(model, 3, at=at):
            assert torch.equal(logits(model), nothing)


def test_none_is_the_model_as_it_is():
    model = headed("gpt2")
    with apply_ablation(model, None) as edited:
        assert torch.equal(logits(model), logits(headed("gpt2")))
    assert edited == Edited((), 0)


def state_of(model):
    return [
        (name, "forward" in vars(m), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_everything_is_put_back_when_a_forward_raises(at, error):
    model = headed("bert")
    plain, before = logits(model), state_of(model)
    weights = {k: (v.data_ptr(), v._version) for k, v in model.state_dict().items()}

    def fail(module, args, output):
        raise error("stop")

    handle = model.bert.encoder.layer[2].output.LayerNorm.register_forward_hook(fail)
    with pytest.raises(error), ablate(model, DIMS, at=at):
        logits(model)
    handle.remove()
    assert state_of(model) == before
    assert {k: (v.data_ptr(), v._version) for k, v in model.state_dict().items()} == weights
    assert torch.equal(logits(model), plain)


def test_a_forward_that_failed_spoils_no_later_one():
    model = headed("bert")
    strike = [True]

    def fail(module, args, output):
        if strike:
            strike.pop()
            raise KeyboardInterrupt

    with ablate(model, DIMS, at="parameters"):
        expected = logits(model)
        handle = model.bert.encoder.layer[2].output.LayerNorm.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            logits(model)
        assert torch.equal(logits(model), expected)
        handle.remove()


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its own
def test_under_torch_compile_the_model_runs_uncompiled():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    compiled = torch.compile(model, backend="eager")
    with torch.inference_mode():
        plain = compiled(**inputs).last_hidden_state
        for how in (lambda: compiled, lambda: torch.compile(model, backend="eager")):
            with ablate(model, DIMS):
                assert (how()(**inputs).last_hidden_state[..., DIMS] == 0).all()
            assert torch.equal(compiled(**inputs).last_hidden_state, plain)
        with pytest.raises(RuntimeError, match="fullgraph"), ablate(model, DIMS):
            torch.compile(model, backend="eager", fullgraph=True)(**inputs)
    torch._dynamo.reset()
    with pytest.raises(ArgumentError, match="got OptimizedModule"), ablate(compiled, DIMS):
        pass
    model.compile()
    with pytest.raises(ArgumentError, match="expected one that is not compiled"), ablate(model, 3):
        pass


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("bert", {"dims": [32]}, "dims: expected 0 to 31, got 32"),
        ("bert", {"dims": [3], "layers": [5]}, r"layers: expected 0 \(the embeddings\) to 4, got"),
        ("bert", {"dims": [3], "at": "readers"}, r"bert model \(post-LN\).*at='parameters' edits"),
        ("gpt2", {"dims": [3], "at": "parameters"},
         r"no norm gives the output of layer 1 in this gpt2 model \(pre-LN\).*1 by h.1.ln_1 and "
         r"h.1.ln_2, .* so on to 4 by ln_f; at='readers' edits.*at='state' takes"),
        ("electra", {"dims": [3], "layers": [0], "at": "parameters"}, "the output of the embedd"),
        ("olmo2", {"dims": [3], "at": "denominator"}, "no norm takes or gives layer 1 in this"),
        ("llama", {"dims": [3], "at": "readers", "only": "beta"}, "only: layers.1.*has no beta"),
        ("olmo", {"dims": [3], "at": "readers"}, "at: layers.1.*has no gamma or beta, but no"),
        ("bert", {"dims": range(32), "at": "denominator"}, "expected fewer than all 32 for at="),
        ("bert", {"dims": range(32), "at": "parameters", "mode": "mean"}, "fewer than all 32"),
        ("bert", {"dims": [3], "at": "denominator", "mode": "scale", "value": -1.0}, "weights >="),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do(family, arguments, message):
    model = kept_base(family)
    before = state_of(model)
    with pytest.raises(ArgumentError, match=message), ablate(model, **arguments):
        pass
    assert state_of(model) == before


def test_nothing_that_ran_is_an_error():
    model = headed("bert")
    with pytest.raises(DataError, match="none fired"), ablate(model, DIMS):
        pass
    with pytest.raises(DataError, match="none fired"), ablate(model, DIMS):
        model.bert.encoder.layer[0](torch.zeros(1, 2, HIDDEN))
    with pytest.raises(ArgumentError, match="ablations: expected at least one"), ablate_each(
        model, []
    ):  # fmt: skip
        pass


def test_a_point_that_does_not_fire_is_an_error():
    model = tiny_model("bert")
    found = architecture(model)
    # A block that leaves its norm out.
    model.encoder.layer[2].output.forward = lambda hidden, residual: residual
    wanted = Ablation(DIMS, at="parameters")
    with (
        pytest.raises(DataError, match=r"norm encoder.layer.2.output.LayerNorm \(0 times\)"),
        apply_ablation(model, wanted, found=found),
    ):
        model(**tiny_inputs(model))


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
