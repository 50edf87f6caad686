"""Which tokens a masked language model predicts: as a causal one."""

from outdim.report.sections.predictions_lm import section

__all__ = ["section"]
