"""A masked language model without some of its dimensions: as a causal one."""

from outdim.report.sections.evaluate_lm import section

__all__ = ["section"]
