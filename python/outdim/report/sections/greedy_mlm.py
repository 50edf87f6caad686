"""A greedy choice for a masked language model: as for a causal one."""

from outdim.report.sections.greedy_lm import section

__all__ = ["section"]
