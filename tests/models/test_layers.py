"""Layers of unusual models: shared, convolved, padded inside, and no chain at all."""

import pytest
import torch
from outdim.errors import DataError
from outdim.models import Padding, architecture, observe, probe_padding
from tiny import LAYERS, tiny_inputs, tiny_model
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LongformerConfig,
    LongformerModel,
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


def test_one_layer_is_enough():
    for family, placement in (("bert", "post"), ("gpt2", "pre")):
        layers = {"num_hidden_layers": 1} if family == "bert" else {"n_layer": 1}
        found = architecture(tiny_model(family, **layers))
        assert (found.placement, len(found.blocks()), len(found.norms())) == (placement, 1, 1)


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
