"""Blocks and norms by role: the right ones for every family, and nothing else changed."""

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture
from tiny import FAMILIES, HIDDEN, LAYERS, STRANGERS, VOCAB, tiny_inputs, tiny_model
from torch import nn
from transformers import (
    MambaConfig,
    MambaModel,
)

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
