"""What the tests of figures share."""

import pytest
from outdim.report.page import sections
from outdim.report.study import read_study
from report.synthetic import make_run


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """What was planted, and every figure of the study by its id."""
    path = tmp_path_factory.mktemp("run")
    truth = make_run(path)
    shown = sections(read_study(path))
    return truth, {figure.id: figure for section in shown for figure in section.figures}
