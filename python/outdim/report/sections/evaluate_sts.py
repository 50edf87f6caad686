"""Similarity of texts: as a labelled task."""

from outdim.report.sections.evaluate_glue import section

__all__ = ["section"]
