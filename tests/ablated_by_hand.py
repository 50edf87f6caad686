"""Norms by hand, and models rewritten by hand, which ablations are compared with."""

import copy
from functools import cache

import torch
from tiny import HEADS, LAYERS, SINGLE, tiny_inputs, tiny_model

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


def zero(name, p, offset=0.0):
    p[DIMS] = -offset if name == "weight" else 0.0
