"""What was made of a run without its model has a report as well; the largest r stand one by one."""

import numpy as np
import pyarrow as pa
import pytest
from outdim.analysis.results.worth import LEADERS
from outdim.analysis.table import TidyRows
from outdim.report import summary, write_report
from outdim.report.sections import section_of
from outdim.report.study import read_study
from report.synthetic import Planted, write_study


def leader(point, layer, dim, r, covariate="log1p_count"):
    drivers = [{"id": i, "token": f"<b>{i} w", "r_without": r - 0.01 * i} for i in range(5)]
    numbers = {"r": r, "low": r - 0.125, "high": r + 0.125, "p": 0.046, "p_all": 0.76}
    numbers |= {"bootstrap_low": r - 0.25, "bootstrap_high": r + 0.25, "null": 0.63}
    numbers |= {"p_within": 0.001, "effective_types": 61.8, "r_without_all": r - 0.05}
    where = {"point": point, "layer": layer, "dim": dim, "covariate": covariate}
    return {**where, **numbers, "drivers": drivers}


@pytest.fixture
def tables():
    rows = TidyRows()
    for layer in range(2):
        for covariate in ("log1p_count", "count"):
            r = np.linspace(-0.2, 0.5, 30)
            at = {"point": f"block.{layer}", "layer": layer + 1, "selection": "text", "n": 99}
            rows.add("pearson_abs", r, covariate=covariate, **at)
    leaders = [
        leader("block.0", 1, 29, 0.5),
        leader("block.1", 2, 28, -0.75),
        leader("block.1", 2, 27, 0.9, "count"),
    ]
    return {"stats": rows.table(), "leaders": pa.Table.from_pylist(leaders, schema=LEADERS)}


def test_the_largest_r_are_told_with_all_they_are_worth(tmp_path, tables):
    write_study(tmp_path, {"correlate": Planted(tables)})
    found = section_of(read_study(tmp_path), "correlate", [])
    table = found.tables[1]
    assert [row[1] for row in table.rows] == ["28", "29"]  # of the log count, the largest first
    assert table.rows[1] == [
        "1",
        "29",
        "0.50",
        "[0.38, 0.62]",
        "0.63",
        "0.046",
        "0.760",
        "0.001",
        "“<b>0␣w” 0.50, “<b>1␣w” 0.49, “<b>2␣w” 0.48",
    ]
    assert "62 of them with equal weight" in table.caption


def test_a_directory_without_a_plan_has_a_report(tmp_path, tables):
    write_study(tmp_path, {"recorrelate": Planted(tables, ("It follows them closely.",))})
    for path in (tmp_path / "plan").iterdir():
        path.unlink()
    (tmp_path / "plan").rmdir()
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Correlation with other token frequencies" in page
    assert "&lt;b&gt;0␣w" in page
    assert "It follows them closely." in summary(tmp_path)
    assert read_study(tmp_path).steps == ["recorrelate"]
