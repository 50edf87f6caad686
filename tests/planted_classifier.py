"""A classifier whose label hangs on one dimension, and labelled sentences."""

import numpy as np
import torch
from tiny import tiny_model, tiny_tokenizer

CARRIER = 3  # the dimension of the hidden states that carries the label
POSITIVE, NEGATIVE = "w20", "w21"
ITEMS = 120


def planted_classifier(names=("negative", "positive"), scale: float = 1.0):
    """A BERT that reads the label off one dimension of its first token's last hidden state.

    Word embeddings of w20 and w21 write +8 and -8 there; attention is uniform and hands it to every
    token; all other weights of the blocks are 0, so that the residual stream carries it on.
    """
    model = tiny_model(
        "bert",
        head="SequenceClassification",
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    vocabulary = tiny_tokenizer().get_vocab()
    bert = model.bert
    with torch.no_grad():
        for layer in bert.encoder.layer:
            attention = layer.attention
            for linear in (attention.self.query, attention.self.key, layer.output.dense):
                linear.weight.zero_(), linear.bias.zero_()
            attention.self.value.weight.copy_(torch.eye(32) * 2), attention.self.value.bias.zero_()
            attention.output.dense.weight.copy_(torch.eye(32))
            attention.output.dense.bias.zero_()
            for norm in (attention.output.LayerNorm, layer.output.LayerNorm):
                norm.bias[CARRIER] = 0
        embeddings = bert.embeddings
        words = embeddings.word_embeddings.weight
        embeddings.LayerNorm.bias[CARRIER] = 0
        for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight[:, CARRIER] = 0
        words[:, CARRIER] = 0
        words[vocabulary[POSITIVE], CARRIER] = 8.0 * scale
        words[vocabulary[NEGATIVE], CARRIER] = -8.0 * scale
        bert.pooler.dense.weight.copy_(torch.eye(32)), bert.pooler.dense.bias.zero_()
        model.classifier.weight.zero_(), model.classifier.bias.zero_()
        model.classifier.weight[names.index("positive"), CARRIER] = 5.0
        model.classifier.weight[names.index("negative"), CARRIER] = -5.0
    return model


def sentences(seed: int = 0) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(ITEMS):
        label = int(rng.integers(2))
        words = [f"w{i}" for i in rng.integers(0, 20, rng.integers(2, 6))]
        words.insert(int(rng.integers(len(words) + 1)), (NEGATIVE, POSITIVE)[label])
        found.append((" ".join(words), label))
    return found
