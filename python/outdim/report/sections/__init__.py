"""What the page shows of each step: a file by the name of the step, else the default."""

import importlib
import importlib.util
from collections.abc import Sequence

from outdim.report.section import Section
from outdim.report.sections import _default
from outdim.report.study import Study


def section_of(study: Study, step: str, marked: Sequence[int]) -> Section:
    """The section of a step; ``marked`` are the outlier dimensions."""
    name = f"{__name__}.{step.replace('-', '_')}"
    if step.startswith("_") or not step.replace("-", "_").isidentifier():
        return _default.section(study, step, marked)
    if importlib.util.find_spec(name) is None:
        return _default.section(study, step, marked)
    found: Section = importlib.import_module(name).section(study, step, marked)
    return found
