"""The report of a run: one self-contained HTML page, and every figure as SVG and CSV."""

from outdim.report.compare import write_comparison
from outdim.report.page import write_report
from outdim.report.terminal import summary

__all__ = ["summary", "write_comparison", "write_report"]
