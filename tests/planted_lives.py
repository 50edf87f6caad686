"""Models in which a dimension is written at one word, and text that has it."""

import numpy as np
import torch
from outdim.models import observe
from tiny import tiny_model, tiny_tokenizer

DIM, LAYER = 7, 2
WORD = "w7"
SIZE = 200.0


def write_text(path):
    """60 documents of words; every third has the word at which a dimension is planted."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        words = [f"w{w}" for w in rng.integers(10, 80, rng.integers(4, 20))]
        if number % 3 == 0:
            words[2] = WORD
        lines.append(" ".join([*words, "."]))
    path.write_text("\n".join(lines))
    return str(path)


def word_id():
    return tiny_tokenizer()(WORD).input_ids[1]


def planted(branch, *, erased=None, gain=SIZE):
    """A Llama in which one branch of a block writes a dimension where a word stands.

    The word has a dimension of its own, 0 at all others, which the branch copies. Another block may
    take it away again.
    """
    model = tiny_model("llama")
    words = model.embed_tokens.weight.data
    words[:, [DIM, 0]] = 0
    words[word_id(), 0] = 3
    for layer in model.layers:  # nobody else writes either, or mixes the mark with others
        layer.self_attn.o_proj.weight.data[[DIM, 0]] = 0
        layer.mlp.down_proj.weight.data[[DIM, 0]] = 0
    write(model.layers[LAYER - 1], branch, gain)
    if erased is not None:
        erase(model, erased)
    return model


def erase(model, layer):
    """Let the feed-forward part of a layer take the dimension away where it is large."""
    mlp = model.layers[layer - 1].mlp
    for part in (mlp.gate_proj, mlp.up_proj):
        part.weight.data[0] = 0
        part.weight.data[0, DIM] = 4
    mlp.down_proj.weight.data[:, 0] = 0
    mlp.down_proj.weight.data[DIM, 0] = 1
    ids = torch.tensor([tiny_tokenizer()(WORD).input_ids])
    with torch.inference_mode(), observe(model, [f"block.{layer - 1}.mlp", "block.2"]) as seen:
        model(ids)
    wrong = float(seen["block.2"][0, 1, DIM] / seen[f"block.{layer - 1}.mlp"][0, 1, DIM])
    mlp.down_proj.weight.data[DIM, 0] = -wrong


def write(layer, branch, gain):
    if branch == "mlp":
        mlp = layer.mlp
        for part in (mlp.gate_proj, mlp.up_proj):
            part.weight.data[0] = 0
            part.weight.data[0, 0] = 4
        mlp.down_proj.weight.data[:, 0] = 0
        mlp.down_proj.weight.data[DIM, 0] = gain / 50
    else:  # values of the first head carry the mark to every later token
        attention = layer.self_attn
        attention.v_proj.weight.data[0] = 0
        attention.v_proj.weight.data[0, 0] = 1
        attention.o_proj.weight.data[:, 0] = 0
        attention.o_proj.weight.data[DIM, 0] = gain


def spoiled(model, words=("w13",)):
    """The model with a NaN in the embeddings of words, which its attention hands on."""
    ids = tiny_tokenizer().convert_tokens_to_ids(list(words))
    model.embed_tokens.weight.data[ids, 5] = torch.nan
    return model
