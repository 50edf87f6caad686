"""outdim: find, explain and test the outlier dimensions of Transformers.

The names below load what they need when first used: ``import outdim`` itself costs nothing but
    Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outdim.analysis.analyze import analyze
    from outdim.analysis.correlate import correlate
    from outdim.analysis.criteria import criteria
    from outdim.analysis.detect import detect
    from outdim.analysis.evaluate import evaluate
    from outdim.analysis.geometry import geometry
    from outdim.analysis.lifecycle import lifecycle
    from outdim.analysis.predictions import predictions
    from outdim.analysis.results.agreement import Criteria
    from outdim.analysis.results.correlation import Correlation
    from outdim.analysis.results.detection import Detection
    from outdim.analysis.results.evaluation import Evaluation
    from outdim.analysis.results.isotropy import Geometry
    from outdim.analysis.sweep import sweep
    from outdim.corpus import open_corpus
    from outdim.counting import count_tokens
    from outdim.errors import OutdimError
    from outdim.models.ablate import ablate, ablate_each
    from outdim.models.ablation import Ablation
    from outdim.models.architecture import architecture
    from outdim.models.controls import controls
    from outdim.models.load import load_model
    from outdim.models.observe import observe
    from outdim.report import write_report
    from outdim.stats import Covariates, Moments, RankHistogram
    from outdim.tokens import TokenFrequencies, load_tokenizer

__version__ = "0.1.0"

_HOME = {
    "Correlation": "analysis.results.correlation",
    "Criteria": "analysis.results.agreement",
    "Detection": "analysis.results.detection",
    "Evaluation": "analysis.results.evaluation",
    "Geometry": "analysis.results.isotropy",
    "analyze": "analysis.analyze",
    "correlate": "analysis.correlate",
    "criteria": "analysis.criteria",
    "detect": "analysis.detect",
    "evaluate": "analysis.evaluate",
    "geometry": "analysis.geometry",
    "lifecycle": "analysis.lifecycle",
    "predictions": "analysis.predictions",
    "sweep": "analysis.sweep",
    "TokenFrequencies": "tokens",
    "count_tokens": "counting",
    "load_tokenizer": "tokens",
    "open_corpus": "corpus",
    "OutdimError": "errors",
    "Ablation": "models",
    "ablate": "models",
    "ablate_each": "models",
    "architecture": "models",
    "controls": "models",
    "load_model": "models",
    "observe": "models",
    "write_report": "report",
    "Covariates": "stats",
    "Moments": "stats",
    "RankHistogram": "stats",
}

__all__ = [
    "Ablation",
    "Correlation",
    "Covariates",
    "Criteria",
    "Detection",
    "Evaluation",
    "Geometry",
    "Moments",
    "OutdimError",
    "RankHistogram",
    "TokenFrequencies",
    "ablate",
    "ablate_each",
    "analyze",
    "architecture",
    "controls",
    "correlate",
    "count_tokens",
    "criteria",
    "detect",
    "evaluate",
    "geometry",
    "lifecycle",
    "load_model",
    "load_tokenizer",
    "observe",
    "open_corpus",
    "predictions",
    "sweep",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'outdim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"outdim.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
