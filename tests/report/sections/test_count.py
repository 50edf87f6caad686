"""The section of token counts."""

from outdim.report.sections import section_of
from outdim.report.study import read_study
from report.synthetic import make_run


def test_counts_are_drawn_by_rank(tmp_path):
    make_run(tmp_path, steps=("count",))
    found = section_of(read_study(tmp_path), "count", [])
    assert [figure.id for figure in found.figures] == ["token_frequency"]


def test_without_counts_there_is_no_figure(tmp_path):
    make_run(tmp_path, steps=("detect",))
    assert section_of(read_study(tmp_path), "count", []).figures == []
