"""A greedy choice for a classifier: as for a language model."""

from outdim.report.sections.greedy_lm import section

__all__ = ["section"]
