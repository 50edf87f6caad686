"""The figures of the report, one file each: table, interactive plot and static drawing."""

from outdim.report.figures.base import Choice, Figure
from outdim.report.figures.correlation import read_correlations
from outdim.report.figures.frequency import frequency_curve
from outdim.report.figures.heat_map import heat_map
from outdim.report.figures.layer_curves import layer_curves
from outdim.report.figures.norms import norm_scatter, read_norms
from outdim.report.run_files import Run

__all__ = ["Choice", "Figure", "figures_of"]


def figures_of(run: Run) -> list[Figure]:
    """Make every figure that the run has the data for."""
    figures: list[Figure] = []
    if correlations := read_correlations(run):
        figures += [layer_curves(correlations), heat_map(correlations)]
    if norms := read_norms(run):
        figures.append(norm_scatter(norms))
    if run.counts is not None and (run.counts.counts > 0).any():
        figures.append(frequency_curve(run.counts))
    return figures
