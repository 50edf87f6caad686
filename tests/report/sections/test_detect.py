"""The table of outliers holds their z, and the figure the parameters with the bounds."""

import numpy as np
import pytest
from outdim.report.figures.scatter import MAX_DOTS
from outdim.report.sections import section_of
from outdim.report.sections.detect import outliers
from outdim.report.study import read_study
from report.synthetic import make_run


def section(path, **planted):
    truth = make_run(path, steps=("detect",), **planted)
    study = read_study(path)
    return truth["detection"], section_of(study, "detect", outliers(study))


def minus(value, digits=1):
    return f"{value:.{digits}f}".replace("-", "−")


def test_outliers_are_in_order_of_their_largest_z(tmp_path):
    detection, _ = section(tmp_path)
    largest = [
        max(np.abs(z[:, d]).max() for z in (detection.gamma_z, detection.beta_z)) for d in (7, 41)
    ]
    expected = [7, 41] if largest[0] > largest[1] else [41, 7]
    assert outliers(read_study(tmp_path)) == expected


def test_table_holds_z_and_counts_what_is_beyond_the_bound(tmp_path):
    detection, found = section(tmp_path)
    (table,) = found.tables
    assert found.title == "Outlier dimensions"
    assert table.columns == ["dimension", "both", "", "layers", "1", "2", "3", "4"]
    rows = table.cells()
    assert [rows[0][0].text, rows[2][0].text] == list(map(str, outliers(read_study(tmp_path))))
    for place in (0, 2):
        dim = int(rows[place][0].text)
        beyond = []
        for row, z in zip(
            (rows[place][2:], rows[place + 1]), (detection.gamma_z, detection.beta_z), strict=True
        ):
            over = np.abs(z[:, dim]) > 3
            beyond.append(over)
            assert row[1].text == str(over.sum())
            assert [cell.text for cell in row[2:]] == [minus(value) for value in z[:, dim]]
            assert [cell.marked for cell in row[2:]] == over.tolist()
        assert rows[place][1].text == str(np.logical_and(*beyond).sum())
        assert rows[place][0].rows == 2


def test_where_no_dimension_is_an_outlier_the_nearest_are_shown(tmp_path):
    detection, found = section(tmp_path, layers=12, dims=384, outliers=())
    assert found.title == "Nearest to outlier dimensions"
    (table,) = found.tables
    assert table.caption.startswith("No dimension meets the rule.")
    beyond = (np.abs(detection.gamma_z) > 3).sum(0) + (np.abs(detection.beta_z) > 3).sum(0)
    dims = [int(row[0].text) for row in table.cells() if row[0].rows == 2]
    assert len(dims) == 5
    assert beyond[dims].min() >= 1


def test_bounds_are_k_unbiased_deviations(tmp_path):
    detection, found = section(tmp_path)
    (figure,) = found.figures
    gamma = detection.gamma[2]
    (lines,) = [
        trace
        for trace in figure.interactive.data
        if trace.name == "mean ± 3 σ" and trace.meta["layer"] == "block.2.norm"
    ]
    spread = 3 * gamma.std(ddof=1)
    assert [lines.x[6], lines.x[9]] == pytest.approx([gamma.mean() - spread, gamma.mean() + spread])
    np.testing.assert_array_equal(figure.table["gamma"].to_numpy(), detection.gamma.ravel())
    np.testing.assert_array_equal(figure.table["beta"].to_numpy(), detection.beta.ravel())


def test_norms_without_beta_are_drawn_by_dimension(tmp_path):
    detection, found = section(tmp_path, beta=False)
    (figure,) = found.figures
    assert "beta" not in figure.table.column_names
    assert figure.interactive.layout.xaxis.title.text == "dimension"
    assert b"<svg" in figure.svg()
    assert "z of γ by layer" in found.tables[0].caption
    np.testing.assert_array_equal(figure.table["gamma"].to_numpy(), detection.gamma.ravel())


def test_wide_models_are_thinned_out_and_that_is_said(tmp_path):
    _, found = section(tmp_path, layers=24, dims=5_000, outliers=(17, 4_321))
    (figure,) = found.figures
    drawn = set(figure.table["dim"].to_pylist())
    assert len(drawn) <= MAX_DOTS // 24
    assert {17, 4_321} <= drawn
    assert f"{len(drawn):,} are drawn" in figure.caption
