"""The report of a run: one self-contained HTML page, and every figure as SVG and CSV."""

from outdim.report.compare import write_comparison
from outdim.report.page import write_report
from outdim.report.terminal import summary, terminal_width

__all__ = ["summary", "terminal_width", "write_comparison", "write_report"]
