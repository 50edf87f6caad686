"""A tiny Llama as a GGUF file, written as llama.cpp's converter does."""

from pathlib import Path
from typing import Any

import numpy as np
from tiny import LAYERS, VOCAB, tiny_model

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, kind: str = "Q4_1", *, skip: str = "") -> Any:
    """Write `tiny_model("llama")` with a head, matrices of blocks quantised to ``kind``.

    Returns:
        The model with the weights that the file holds: quantised and dequantised.
    """
    import gguf
    import torch

    model = tiny_model("llama", head="CausalLM", num_key_value_heads=2)
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    _add_tokenizer(writer)
    for name, parameter in model.named_parameters():
        if skip and skip in name:
            continue
        values = parameter.detach().numpy()
        wide = values.ndim == 2 and name.startswith("model.layers.")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        turned = next((n for proj, n in heads.items() if proj in name), None)
        if turned:
            values = _permuted(values, turned)
        if wide and kind != "F32":
            of = gguf.GGMLQuantizationType[kind]
            blocks = gguf.quantize(values, of)
            writer.add_tensor(_name(name), blocks, raw_dtype=of)
            values = gguf.dequantize(blocks, of)
        else:
            writer.add_tensor(_name(name), np.ascontiguousarray(values))
        values = _permuted(values, turned, back=True) if turned else values
        parameter.data = torch.from_numpy(np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[inner]}.weight"


def _permuted(values: np.ndarray, heads: int, *, back: bool = False) -> np.ndarray:
    """Rows of each head as llama.cpp's rotary embeddings want them: halves interleaved."""
    rows, columns = values.shape
    half = rows // heads // 2
    shape = (heads, half, 2, columns) if back else (heads, 2, half, columns)
    return values.reshape(shape).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: Any) -> None:
    """Bytes as GPT-2 writes them, two merges, and names without a use for the rest."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", *list(bytes_to_unicode().values())[: VOCAB - 3], "th", "the"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
