"""The analyses, one module a step: models, text and statistics in, results out."""

from outdim.analysis.correlate import Correlation, correlate
from outdim.analysis.detect import Detection, detect, detect_parameters

__all__ = ["Correlation", "Detection", "correlate", "detect", "detect_parameters"]
