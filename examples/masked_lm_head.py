"""Fit a masked-LM head on a BERT that has none, its encoder frozen.

Sentence encoders such as MiniLM are published without the head that predicts masked words, and
without one nothing says what an ablation does to predictions. Fitted here are transform and bias of
a `BertForMaskedLM`; its output weights are the word embeddings, frozen like all of the encoder.
What is written loads as `outdim.load_model(OUTPUT, head="mlm")`; `training.json` and `training.png`
hold the loss on text that was not trained on.

    python examples/masked_lm_head.py MODEL TRAIN VALIDATION OUTPUT [--passes 3]

Some minutes on two cores. The bias starts from the frequencies of the tokens, so that the first
loss is about that of guessing by frequency alone.
"""

import json
import time
from pathlib import Path

import numpy as np
import outdim
import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from outdim.corpus import Accounting, open_corpus
from outdim.tokens import GROUPS, Batch, batches, encode_pieces
from torch.nn.functional import cross_entropy
from transformers import (
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    get_cosine_schedule_with_warmup,
)

#: Ids with masks in them, attention mask, and the true ids of what is masked, -100 elsewhere.
Masked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

MIN_CHARS = 71  # leaves out headings and blank lines
TEXT = 1 + GROUPS.index("text")  # ordinary tokens, neither of the template nor special
MASKED = 0.15  # of the tokens, as Devlin et al. 2019, with their 80 % [MASK], 10 % other, 10 % same


def main(
    model: str,
    train: str,
    validation: str,
    output: Path,
    passes: int = 3,
    validation_tokens: int = 20_000,
    batch_tokens: int = 512,
    max_length: int = 128,
    learning_rate: float = 2e-3,
    looks: int = 10,
    seed: int = 0,
) -> None:
    """Fit the head and write the whole model.

    Args:
        model: Directory or id of a BERT.
        train: Text to fit on.
        validation: Text to take the loss of.
        output: Directory that is written.
        passes: How often the training text is read, each time with other masks.
        validation_tokens: Of the other text, at most.
        batch_tokens: Ids in a batch, padding included.
        max_length: Ids in a sequence.
        learning_rate: The largest; it rises for a twentieth of the steps and falls as a cosine.
        looks: How often the loss is taken.
        seed: Of the order of the text and of the masks.
    """
    tokenizer = outdim.load_tokenizer(model)
    fitted = with_new_head(outdim.load_model(model, dtype="float32"))
    counts = outdim.count_tokens(open_corpus(train, min_chars=MIN_CHARS), tokenizer).counts
    by_frequency = (torch.tensor(counts + 1) / (counts + 1).sum()).log().float()
    with torch.no_grad():
        fitted.get_output_embeddings().bias.copy_(by_frequency)
    masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED, seed=seed)
    text, other = (
        shuffled_batches(source, tokenizer, batch_tokens, max_length, seed)
        for source in (train, validation)
    )
    held_out = [mask(masking, batch) for batch in up_to(validation_tokens, other)]
    true = torch.cat([labels[labels >= 0] for _, _, labels in held_out])
    report = {
        "model": model,
        "train": train,
        "validation": validation,
        "tokens": passes * sum(batch.tokens for batch in text),
        "loss_by_frequency": -float(by_frequency[true].mean()),
        "curve": fit(fitted, masking, passes * text, held_out, learning_rate, looks),
    }
    fitted.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(report).savefig(output / "training.png", dpi=150)


def fit(
    model: BertForMaskedLM,
    masking: DataCollatorForLanguageModeling,
    text: list[Batch],
    held_out: list[Masked],
    learning_rate: float,
    looks: int,
) -> list[dict[str, float | None]]:
    """Take a step a batch; the losses at every look."""
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(head, lr=learning_rate, weight_decay=0)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(text) // 20, len(text))
    look_at = {round(i * len(text) / looks) for i in range(looks + 1)}
    curve, recent, begin = [], [], time.monotonic()
    for step in range(len(text) + 1):
        if step in look_at:
            look = {"step": step, "validation_loss": loss_of(model, held_out)}
            look |= {"training_loss": float(torch.cat(recent).mean()) if recent else None}
            curve.append({**look, "seconds": round(time.monotonic() - begin, 1)})
            print(json.dumps(curve[-1]), flush=True)
            recent = []
        if step < len(text):
            optimizer.zero_grad()
            found = losses(model, *mask(masking, text[step]))
            (found.sum() / max(1, len(found))).backward()  # in a short batch there may be no mask
            optimizer.step()
            schedule.step()
            recent.append(found.detach())
    return curve


def with_new_head(base: torch.nn.Module) -> BertForMaskedLM:
    """The same encoder, frozen, under a head whose output weights are its word embeddings."""
    model = BertForMaskedLM(base.config)
    encoder = {name: w for name, w in base.state_dict().items() if not name.startswith("pooler.")}
    model.bert.load_state_dict(encoder)
    model.tie_weights()
    torch.nn.init.eye_(model.cls.predictions.transform.dense.weight)  # 0.1 nats ahead of random
    model.bert.requires_grad_(False)
    return model.eval()  # no dropout: what is frozen need not be noisy


def shuffled_batches(
    source: str, tokenizer: object, batch_tokens: int, max_length: int, seed: int
) -> list[Batch]:
    """The text in batches of pieces of like length, in random order."""
    corpus = open_corpus(source, min_chars=MIN_CHARS)
    texts = (text for unit in corpus.units for text in corpus.read(unit, Accounting()))
    rng = np.random.default_rng(seed)
    pieces = list(encode_pieces(texts, tokenizer, max_length))
    found = list(batches((pieces[i] for i in rng.permutation(len(pieces))), batch_tokens))
    return [found[i] for i in rng.permutation(len(found))]


def up_to(tokens: int, found: list[Batch]) -> list[Batch]:
    """The first batches that hold so many tokens together; at least one."""
    ends = np.cumsum([batch.tokens for batch in found])
    return found[: max(1, int(np.searchsorted(ends, tokens, side="right")))]


def mask(masking: DataCollatorForLanguageModeling, batch: Batch) -> Masked:
    """A batch with masks in it, other ones each time."""
    ids, labels = masking.torch_mask_tokens(batch.input_ids.clone(), batch.group != TEXT)
    return ids, batch.attention_mask, labels


def losses(
    model: BertForMaskedLM, ids: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Of every masked token, in nats; logits are made for these alone."""
    with torch.no_grad():
        hidden = model.bert(ids, attention_mask=attended).last_hidden_state
    chosen = labels >= 0
    return cross_entropy(model.cls(hidden[chosen]), labels[chosen], reduction="none")


@torch.no_grad()
def loss_of(model: BertForMaskedLM, held_out: list[Masked]) -> float:
    """The mean over all masked tokens."""
    return float(torch.cat([losses(model, *batch) for batch in held_out]).mean())


def draw(report: dict) -> Figure:
    """The loss on held-out text by step, beside that of guessing by frequency."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = [look["step"] for look in report["curve"]]
    axes.plot(steps, [look["validation_loss"] for look in report["curve"]], "o-", label="held out")
    fitted = [look for look in report["curve"] if look["training_loss"] is not None]
    axes.plot(
        [look["step"] for look in fitted],
        [look["training_loss"] for look in fitted],
        label="training, mean since the last look",
    )
    axes.axhline(report["loss_by_frequency"], color="grey", ls=":", label="by frequency alone")
    axes.set(xlabel="step", ylabel="loss of a masked token (nats)")
    axes.legend()
    return figure


if __name__ == "__main__":
    auto_cli(main)
