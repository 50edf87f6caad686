"""Blocks and norms by role: the right ones for every family, and errors instead of guesses."""

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import Padding, architecture, model_sha256, observe, probe_padding
from outdim.models.norms import recognise_norm
from tiny import FAMILIES, HIDDEN, LAYERS, SINGLE, STRANGERS, VOCAB, tiny_inputs, tiny_model
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LongformerConfig,
    LongformerModel,
    MambaConfig,
    MambaModel,
    XLMConfig,
    XLMModel,
)

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 99,
}

# family -> placement, path of the block, norm of block i, norm of the last block, norm at the
# embeddings; {i} is the block and {j} the next. Names are what a table of names would get wrong.
EXPECTED = {
    "bert": (
        "post",
        "encoder.layer.{i}",
        "encoder.layer.{i}.output.LayerNorm",
        None,
        "embeddings.LayerNorm",
    ),
    "roberta": (
        "post",
        "encoder.layer.{i}",
        "encoder.layer.{i}.output.LayerNorm",
        None,
        "embeddings.LayerNorm",
    ),
    "electra": ("post", "encoder.layer.{i}", "encoder.layer.{i}.output.LayerNorm", None, None),
    "deberta-v2": (
        "post",
        "encoder.layer.{i}",
        "encoder.layer.{i}.output.LayerNorm",
        None,
        "embeddings.LayerNorm",
    ),
    "distilbert": (
        "post",
        "transformer.layer.{i}",
        "transformer.layer.{i}.output_layer_norm",
        None,
        "embeddings.LayerNorm",
    ),
    "albert": (
        "post",
        "encoder.albert_layer_groups.0",
        "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm",
        None,
        None,
    ),
    "xlnet": ("post", "layer.{i}", "layer.{i}.ff.layer_norm", None, None),
    "gpt2": ("pre", "h.{i}", "h.{j}.ln_1", "ln_f", "h.0.ln_1"),
    "opt": (
        "pre",
        "decoder.layers.{i}",
        "decoder.layers.{j}.self_attn_layer_norm",
        "decoder.final_layer_norm",
        "decoder.layers.0.self_attn_layer_norm",
    ),
    "opt-post": ("post", "decoder.layers.{i}", "decoder.layers.{i}.final_layer_norm", None, None),
    "gpt_neox": (
        "pre",
        "layers.{i}",
        "layers.{j}.input_layernorm",
        "final_layer_norm",
        "layers.0.input_layernorm",
    ),
    "bloom": ("pre", "h.{i}", "h.{j}.input_layernorm", "ln_f", "word_embeddings_layernorm"),
    "phi": (
        "pre",
        "layers.{i}",
        "layers.{j}.input_layernorm",
        "final_layernorm",
        "layers.0.input_layernorm",
    ),
    "modernbert": ("pre", "layers.{i}", "layers.{j}.attn_norm", "final_norm", "embeddings.norm"),
    "vit": (
        "pre",
        "layers.{i}",
        "layers.{j}.layernorm_before",
        "layernorm",
        "layers.0.layernorm_before",
    ),
    "olmo2": ("branch", "layers.{i}", None, "norm", None),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "gemma2", "olmo", "gpt_oss"),
        (
            "pre",
            "layers.{i}",
            "layers.{j}.input_layernorm",
            "norm",
            "layers.0.input_layernorm",
        ),
    ),
}


def test_every_promised_family_is_in_the_table():
    assert set(FAMILIES) <= set(EXPECTED)
    assert set(FAMILIES + STRANGERS) == set(EXPECTED) | {"bart", "t5"}


@pytest.mark.parametrize("family", EXPECTED)
def test_blocks_and_norms_are_found_by_their_role(family):
    placement, block, norm, last, embeddings = EXPECTED[family]
    found = architecture(tiny_model(family))
    assert (found.placement, found.hidden_size) == (placement, HIDDEN)
    points = found.blocks()
    assert [p.name for p in points] == [f"block.{i}" for i in range(LAYERS)]
    assert [p.layer for p in points] == list(range(1, LAYERS + 1))
    assert [p.module for p in points] == [block.format(i=i) for i in range(LAYERS)]
    norms = [norm and norm.format(i=i, j=i + 1) for i in range(LAYERS)]
    assert [p.norm for p in points] == (norms if last is None else [*norms[:-1], last])
    assert ("final_norm" in found.points) == (last is not None)
    assert found.points["embeddings"].norm == embeddings
    assert next(iter(found.points)) == "embeddings"
    assert found.points["embeddings"].layer == 0


@pytest.mark.parametrize("family", EXPECTED)
def test_norms_are_the_parameters_of_the_model(family):
    model = tiny_model(family)
    found = architecture(model)
    norms = found.norms()
    if family in ("olmo", "olmo2"):  # without parameters; only inside branches
        assert norms == []
        return
    assert [n.layer for n in norms] == ([1] if family == "albert" else list(range(1, LAYERS + 1)))
    for norm in norms:
        module = model.get_submodule(norm.path)
        assert torch.equal(norm.gamma, module.weight + (family == "gemma2"))
        bias = getattr(module, "bias", None)
        assert (norm.beta is None) == (bias is None)
        assert bias is None or torch.equal(norm.beta, bias)
    assert [layer for layer, _ in found.layer_norms] == list(range(1, LAYERS + 1))
    assert bool(found.norms_note) == (found.placement == "pre" or family == "albert")


def test_a_shared_block_is_told_apart_by_the_call():
    points = architecture(tiny_model("albert")).blocks()
    assert [(p.call, p.calls) for p in points] == [(i, LAYERS) for i in range(LAYERS)]


def test_albert_with_two_groups_has_one_block_a_layer():
    found = architecture(tiny_model("albert", num_hidden_groups=2))
    assert [(p.module[-1], p.call) for p in found.blocks()] == [
        ("0", 0),
        ("0", 1),
        ("1", 0),
        ("1", 1),
    ]
    assert [(n.layer, n.path.split(".")[2]) for n in found.norms()] == [(1, "0"), (3, "1")]
    assert found.norms_note == (
        "4 layers share 2 distinct norms; each counts once, with its first layer."
    )


ATTENTION = {
    "bert": "encoder.layer.{i}.attention.output.dense",
    "distilbert": "transformer.layer.{i}.attention",
    "albert": "encoder.albert_layer_groups.0.albert_layers.0.attention.dense",
    "gpt2": "h.{i}.attn",
    "opt": "decoder.layers.{i}.self_attn",
    "gpt_neox": "layers.{i}.attention",  # parallel branches
    "llama": "layers.{i}.self_attn",
    "bloom": "h.{i}.self_attention.dense",
    "gemma2": "layers.{i}.post_attention_layernorm",  # which ends the branch
    "olmo2": "layers.{i}.post_attention_layernorm",
}


MLP = {
    "bert": "encoder.layer.{i}.output.dense",
    "distilbert": "transformer.layer.{i}.ffn",
    "albert": "encoder.albert_layer_groups.0.albert_layers.0.ffn_output",
    "gpt2": "h.{i}.mlp",
    "opt": "decoder.layers.{i}.fc2",
    "gpt_neox": "layers.{i}.mlp",
    "llama": "layers.{i}.mlp",
    "bloom": "h.{i}.mlp.dense_4h_to_h",  # the residual is added inside of the rest
    "gemma2": "layers.{i}.post_feedforward_layernorm",
    "olmo2": "layers.{i}.post_feedforward_layernorm",
}


@pytest.mark.parametrize("family", ATTENTION)
def test_branches_are_what_is_added_to_the_hidden_state(family):
    points = architecture(tiny_model(family)).points
    for i in range(LAYERS):
        for name, expected in (("attention", ATTENTION), ("mlp", MLP)):
            assert points[f"block.{i}.{name}"].module == expected[family].format(i=i)


@pytest.mark.parametrize("family", SINGLE)
def test_branches_and_sums_add_up(family):
    model = tiny_model(family)
    found = architecture(model)
    with torch.inference_mode(), observe(model, list(found.points)) as seen:
        model(**tiny_inputs(model))
    for i in range(LAYERS):
        before = seen["embeddings"] if i == 0 else seen[f"block.{i - 1}"]
        parts = [seen[f"block.{i}.{name}"] for name in ("attention", "mlp")]
        middle, end = (seen.get(f"block.{i}.{name}.sum") for name in ("attention", "mlp"))
        if middle is not None:
            assert torch.equal(before + parts[0], middle)
        assert (end is not None) == (found.placement == "post")
        if end is None:
            torch.testing.assert_close(before + parts[0] + parts[1], seen[f"block.{i}"])
        else:  # what a norm made of the first sum, and the second branch
            norm = model.get_submodule(found.points[f"block.{i}.attention.sum"].module)
            with torch.inference_mode():
                torch.testing.assert_close(norm(middle) + parts[1], end)


@pytest.mark.parametrize(
    ("family", "residual"),
    [("bert", True), ("roberta", True), ("electra", True), ("distilbert", False), ("gpt2", False)],
)
def test_the_residual_add_is_known_where_the_block_is_like_bert(family, residual):
    for i, point in enumerate(architecture(tiny_model(family)).blocks()):
        assert point.residual == (f"encoder.layer.{i}.output" if residual else None)


@pytest.mark.parametrize(
    ("family", "head", "prefix"),
    [
        ("bert", "MaskedLM", "bert."),
        ("gpt2", "CausalLM", "transformer."),
        ("llama", "CausalLM", "model."),
    ],
)
def test_paths_are_those_of_the_model_with_its_head(family, head, prefix):
    bare, headed = architecture(tiny_model(family)), architecture(tiny_model(family, head=head))
    assert list(headed.points) == list(bare.points)
    for name, point in headed.points.items():
        assert point.module == prefix + bare.points[name].module
    assert [n.path for n in headed.norms()] == [prefix + n.path for n in bare.norms()]
    assert headed.vocab_size == VOCAB


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_and_decoder_are_resolved_apart(family):
    model = tiny_model(family)
    with pytest.raises(DataError, match=r"part='encoder'\), or model.get_encoder\(\)"):
        architecture(model)
    encoder, decoder = architecture(model.get_encoder()), architecture(model.get_decoder())
    assert encoder.placement == decoder.placement == ("post" if family == "bart" else "pre")
    assert len(encoder.blocks()) == LAYERS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["bert", "llama", "gemma2"])
def test_other_dtypes_give_the_same_architecture(family, dtype):
    expected = architecture(tiny_model(family))
    assert architecture(tiny_model(family).to(dtype)).points == expected.points


def test_one_layer_is_enough():
    for family, placement in (("bert", "post"), ("gpt2", "pre")):
        layers = {"num_hidden_layers": 1} if family == "bert" else {"n_layer": 1}
        found = architecture(tiny_model(family, **layers))
        assert (found.placement, len(found.blocks()), len(found.norms())) == (placement, 1, 1)


def test_looking_changes_nothing():
    model = tiny_model("bert").train()
    model.encoder.layer[1].eval()
    fired = []
    model.encoder.layer[0].register_forward_hook(lambda *args: fired.append(1))
    state = torch.random.get_rng_state()
    modes = [module.training for module in model.modules()]
    hooks = [
        (id(m._forward_hooks), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]
    architecture(model)
    assert fired == []
    assert modes == [module.training for module in model.modules()]
    assert hooks == [
        (id(m._forward_hooks), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]
    assert not any(m._forward_pre_hooks_with_kwargs for m in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("run_before", [False, True])
def test_transformers_still_collects_hidden_states(run_before):
    model = tiny_model("bert", output_hidden_states=True)
    if run_before:
        model(**tiny_inputs(model))
    architecture(model)
    assert len(model(**tiny_inputs(model)).hidden_states) == LAYERS + 1


def test_an_edit_by_a_hook_is_no_evidence():
    model = tiny_model("bert")
    model.encoder.layer[0].register_forward_hook(lambda module, args, output: output * 2)
    assert architecture(model).placement == "post"


def test_wrapped_models_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ArgumentError, match=r"got Linear.*load_model"):
        architecture(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match=r"got DataParallel; pass the model inside, \.module"):
        architecture(nn.DataParallel(model))


@pytest.mark.slow  # torch.compile imports for seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_refused():
    model = tiny_model("bert")
    with pytest.raises(ArgumentError, match=r"pass the model inside, \._orig_mod"):
        architecture(torch.compile(model))
    model.compile()
    with pytest.raises(ArgumentError, match="not compiled"):
        architecture(model)


def test_what_cannot_be_resolved_is_an_error():
    broken = tiny_model("bert")
    broken.encoder.layer[2].output.LayerNorm.bias.data[3] = torch.nan
    with pytest.raises(
        DataError,
        match=r"block 2 of BertModel is not finite for ordinary tokens: 1 tensors hold NaN or inf, "
        r"such as encoder\.layer\.2\.output\.LayerNorm\.bias",
    ):
        architecture(broken)
    huge = tiny_model("bert").half()
    huge.encoder.layer[1].output.LayerNorm.weight.data[:] = 6e4
    with pytest.raises(DataError, match="the dtype is too narrow: try float32"):
        architecture(huge)
    with pytest.raises(
        DataError, match=r"does not run on 2 x 5 dummy inputs \(ValueError: too long"
    ):
        architecture(_failing(tiny_model("gpt2")))
    mixed = tiny_model("bert")
    mixed.encoder.layer[1].output.LayerNorm = nn.Identity()
    with pytest.raises(
        DataError, match=r"neither post-LN nor pre-LN: of 4 blocks, \[0, 2, 3\] end with a norm"
    ):
        architecture(mixed)


def test_a_convolution_between_blocks_ends_its_layer():
    model = tiny_model("deberta-v2", conv_kernel_size=3, conv_act="gelu")
    found = architecture(model)
    assert [p.module for p in found.blocks()] == [
        "encoder.conv",
        *(f"encoder.layer.{i}" for i in range(1, LAYERS)),
    ]
    assert [n.path for n in found.norms()] == [
        f"encoder.layer.{i}.output.LayerNorm" for i in range(LAYERS)
    ]
    inputs = tiny_inputs(model)
    with torch.no_grad(), observe(model, found.blocks()) as seen:
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for point in found.blocks():
        kept = inputs["attention_mask"].bool()
        assert torch.equal(seen[point.name][kept], hidden[point.layer][kept])


def test_blocks_that_are_no_chain_still_show_their_norms():
    """XLM keeps attentions, norms and the rest in lists of their own."""
    config = XLMConfig(vocab_size=99, emb_dim=16, n_layers=3, n_heads=2)
    model = XLMModel(config).eval()
    found = architecture(model)
    assert (found.placement, found.points, found.layers) == ("unknown", {}, 3)
    assert [n.path for n in found.norms()] == [f"layer_norm2.{i}" for i in range(3)]
    assert found.norms_note.startswith("Its blocks are no plain chain")
    with pytest.raises(DataError, match="XLMModel has no list of blocks each of which takes the"):
        found.select(None)


def test_a_model_that_pads_its_input_inside():
    config = LongformerConfig(
        **{**BERT, "max_position_embeddings": 66, "pad_token_id": 1}, attention_window=[8, 8]
    )
    model = LongformerModel(config).eval()
    found = architecture(model)
    assert [n.path for n in found.norms()] == [
        f"encoder.layer.{i}.output.LayerNorm" for i in range(2)
    ]
    assert found.hidden_states == {"embeddings": 0, "block.0": 1, "block.1": 2}
    assert probe_padding(model, found, 64) == Padding(reaches_text=False, multiple=8)


def test_hidden_states_of_transformers_are_named_as_they_are():
    def of(family):
        return architecture(tiny_model(family))

    assert of("bert").hidden_states == {
        "embeddings": 0,
        **{f"block.{i}": i + 1 for i in range(LAYERS)},
    }
    assert of("bert").hidden_states_note == "Layer i is hidden_states[i] of transformers."
    assert of("gpt2").hidden_states["final_norm"] == LAYERS
    assert of("gpt2").hidden_states_note == (
        "Layer i is hidden_states[i] of transformers, but for the last, which is final_norm there."
    )
    assert of("xlnet").hidden_states_note == of("bert").hidden_states_note
    mamba = architecture(
        MambaModel(MambaConfig(vocab_size=99, hidden_size=16, num_hidden_layers=3))
    )
    assert "embeddings" not in mamba.hidden_states
    assert mamba.hidden_states_note.startswith("Layer i is hidden_states[i - 1] of transformers")


def test_the_text_model_of_a_model_for_text_and_images():
    text = {**BERT, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 32}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision)
    found = architecture(Gemma3ForConditionalGeneration(config).eval())
    assert (found.family, found.vocab_size, found.layers) == ("gemma3_text", 99, 2)
    assert found.points["block.1"].module == "model.language_model.layers.1"


def test_weights_that_are_not_in_memory():
    model = tiny_model("llama")
    model.layers[2].to("meta")
    for look in (architecture, model_sha256):
        with pytest.raises(
            DataError, match=r"9 of \d+ weights are offloaded to the meta device, such as layers\.2"
        ):
            look(model)
    model = tiny_model("bert")
    weight = model.pooler.dense.weight.data
    model.pooler.dense.weight = nn.Parameter(weight.to_sparse(), requires_grad=False)
    with pytest.raises(DataError, match=r"1 weights are sparse or nested .*pooler\.dense\.weight"):
        architecture(model)


def _failing(model):
    def forward(*args, **kwargs):
        raise ValueError("too long")

    model.forward = forward
    return model


def test_no_norms_at_all():
    model = tiny_model("bert")
    for layer in model.encoder.layer:
        layer.output.LayerNorm = layer.attention.output.LayerNorm = nn.Identity()
    found = architecture(model)
    assert (found.placement, found.norms()) == ("none", [])


def test_select_names_what_there_is():
    found = architecture(tiny_model("gpt2"))
    assert [p.name for p in found.select(None)] == [
        "embeddings",
        *(f"block.{i}" for i in range(LAYERS)),
    ]
    point = found.points["block.1"]
    assert found.select([point, "final_norm"]) == (point, found.points["final_norm"])
    with pytest.raises(
        ArgumentError, match=r"has no 'block.9'; it has embeddings, block.0, block.0.attention, "
    ):
        found.select(["block.9"])


class CentredNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) * self.weight


@pytest.mark.parametrize(
    ("module", "rms", "eps"),
    [
        (nn.LayerNorm(16, eps=1e-12), False, 1e-12),
        (nn.LayerNorm(16, bias=False), False, 1e-5),
        (nn.LayerNorm(16, elementwise_affine=False), False, 1e-5),
        (nn.RMSNorm(16), True, torch.finfo(torch.float32).eps),
        (nn.RMSNorm(16, eps=1e-3), True, 1e-3),
    ],
)
def test_a_norm_is_what_it_computes(module, rms, eps):
    found = recognise_norm("n", module, 16)
    assert (found.rms, found.eps, found.offset) == (rms, eps, 0.0)


@pytest.mark.parametrize(
    "module",
    [
        CentredNorm(16),
        nn.BatchNorm1d(16).eval(),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 16),
        nn.Linear(16, 16),
    ],
)
def test_what_is_called_norm_need_not_be_one(module):
    with torch.no_grad():
        assert recognise_norm("n", module, 16) is None
