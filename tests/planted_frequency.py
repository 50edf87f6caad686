"""Language models that say nothing yet, to be taught how frequent tokens are."""

import torch
from tiny import tiny_model


def quiet_llama(tokenizer, texts, width):
    """A llama whose blocks, words and head hold next to nothing; log counts of its tokens, [V]."""
    model = tiny_model("llama", head="CausalLM", hidden_size=width, num_attention_heads=2)
    for layer in model.model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.data *= 0.01
    words = model.model.embed_tokens.weight.data
    for weight in (words, model.lm_head.weight.data):
        weight *= 0.01
    counts = torch.ones(len(words))
    for text in texts:
        counts += torch.tensor(tokenizer(text).input_ids).bincount(minlength=len(words))
    return model, counts.log()
