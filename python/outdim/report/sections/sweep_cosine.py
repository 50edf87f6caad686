"""A sweep of vectors of texts: as of a causal language model."""

from outdim.report.sections.sweep_lm import section

__all__ = ["section"]
