"""Attention and the feed-forward part: what is added to the hidden state."""

import pytest
import torch
from outdim.models import architecture, observe
from tiny import LAYERS, SINGLE, tiny_inputs, tiny_model

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
