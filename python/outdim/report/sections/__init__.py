"""What the page shows of each step: a file by the name of the step, else the default."""

import importlib
import importlib.util
from collections.abc import Sequence

from outdim.report.section import Section
from outdim.report.sections import _default
from outdim.report.study import Study

#: Steps that are shown as another one.
_AS = {
    "evaluate-mlm": "evaluate-lm",
    "evaluate-sts": "evaluate-glue",
    "greedy-glue": "greedy-lm",
    "greedy-mlm": "greedy-lm",
    "predictions-mlm": "predictions-lm",
    "sweep-cosine": "sweep-lm",
    "sweep-glue": "sweep-lm",
    "sweep-mlm": "sweep-lm",
}


def section_of(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The section of a step; ``marked`` are the outlier dimensions."""
    file = _AS.get(step, step).replace("-", "_")
    name = f"{__name__}.{file}"
    named = file.isidentifier() and not file.startswith("_")
    if not named or importlib.util.find_spec(name) is None:
        return _default.section(study, step, marked)
    found: Section = importlib.import_module(name).section(study, step, marked)
    return found
