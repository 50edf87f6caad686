"""A sweep of a masked language model: as of a causal one."""

from outdim.report.sections.sweep_lm import section

__all__ = ["section"]
