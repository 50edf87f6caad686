"""The analyses, one module a step: models, text and statistics in, results out."""

from outdim.analysis.analyze import analyze
from outdim.analysis.correlate import correlate
from outdim.analysis.correlation import Correlation
from outdim.analysis.detect import Detection, detect, detect_parameters

__all__ = ["Correlation", "Detection", "analyze", "correlate", "detect", "detect_parameters"]
