"""Correlations by layer: the table, the outliers in words, and log counts first."""

import numpy as np
import pytest
from outdim.analysis.table import TidyRows
from outdim.report.sections import section_of
from outdim.report.study import read_study
from report.synthetic import Planted, make_run, write_study

LEADING = ("pearson_abs", "log1p_count", "text")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    truth = make_run(path)
    return truth["r"], section_of(read_study(path), "correlate", [7, 41])


def shown(r, dim):
    return f"{dim} ({r[dim]:.2f})".replace("-", "−")


def test_table_orders_by_size_of_r_and_has_raw_counts_beside(planted):
    truth, found = planted
    (table,) = found.tables
    assert table.columns[-3:] == ["first by token count", "7", "41"]
    raw = truth["pearson_abs", "count", "text"]
    for row, r, beside in zip(table.rows, truth[LEADING], raw, strict=True):
        order = np.argsort(-np.abs(r))[:3]
        assert [cell.text for cell in row[1:4]] == [shown(r, dim) for dim in order]
        assert row[4] == f"{np.median(np.abs(r)):.3f}"
        assert row[5] == f"{np.percentile(np.abs(r), 95):.3f}"
        assert row[6].text == shown(beside, int(np.argmax(np.abs(beside))))
        assert row[7:] == [f"{r[dim]:.3f}".replace("-", "−") for dim in (7, 41)]


def test_log_counts_are_in_the_first_figure(planted):
    _, found = planted
    first = found.figures[0]
    assert first.id == "correlate_pearsons_r"
    visible = [trace.meta for trace in first.interactive.data if trace.visible]
    assert {(meta["statistic"], meta["covariate"], meta["selection"]) for meta in visible} == {
        LEADING
    }
    assert "r of |h| with log(1 + token count)" in first.alt


def test_figures_of_ranks_say_of_which_dimensions_they_are(tmp_path):
    """Of three that were drawn, and not of those with the largest values of the model."""
    rows, values = TidyRows(), np.random.default_rng(0).uniform(-1, 1, 30)
    at = {"point": "block.0", "layer": 1, "selection": "text", "n": 90}
    ranked = np.full(30, np.nan)
    ranked[[4, 9, 21]] = 0.1
    rows.add("pearson_abs", values, covariate="log1p_count", **at)
    rows.add("spearman", ranked, covariate="log1p_count", **at)
    run = write_study(tmp_path / "run", {"correlate": Planted({"stats": rows.table()})})
    r, _, rho = section_of(read_study(run), "correlate", []).figures
    assert "at any layer, of the 3 of 30 that were measured" in rho.caption
    assert "drawn at random" in rho.caption
    assert "measured" not in r.caption
    assert "drawn at random" not in r.caption


def test_outliers_are_told_where_they_follow_frequency_most(planted):
    truth, found = planted
    r = truth[LEADING]
    peak = int(np.argmax(np.abs(r[:, 41])))
    assert found.sentences[0].startswith(
        "Outlier dimension 7 follows it most at the embeddings: r = 0.85, the largest |r| of its 5 "
        "points, and larger than in all of the other dimensions there."
    )
    assert found.sentences[1].startswith(
        f"Outlier dimension 41 follows it most at layer {peak}: r = {r[peak, 41]:.2f}, the largest "
        f"|r| of its 5 points (at the embeddings {r[0, 41]:.2f}), and larger than in "
    )


def test_a_dimension_that_follows_frequency_may_be_no_outlier(tmp_path):
    make_run(tmp_path, layers=2)
    study = read_study(tmp_path)
    said = section_of(study, "correlate", [41]).sentences[0]
    assert said == (
        "Dimension 7, which follows token frequency most closely, is no outlier: the rule looks "
        "for extreme parameters of norms, not for frequency, and the two need not agree."
    )
    assert section_of(study, "correlate", []).sentences == []


def test_intervals_and_chance_are_told(tmp_path):
    rows = TidyRows()
    for layer in range(3):
        r = np.full(30, 0.1)
        r[5] = 0.9 - 0.2 * layer
        rows.add(
            "pearson_abs",
            r,
            point=f"block.{layer}",
            layer=layer + 1,
            covariate="log1p_count",
            selection="text",
            n=100,
            low=r - 0.05,
            high=r + 0.05,
            p=np.where(r > 0.5, 0.0001, 0.4),
        )
    write_study(tmp_path, {"correlate": Planted({"stats": rows.table()})})
    found = section_of(read_study(tmp_path), "correlate", [5, 6])
    assert (
        "layer 1: r = 0.90 [0.85, 0.95], more than chance gives (p < 0.001)," in found.sentences[0]
    )
    assert "r = 0.10 [0.05, 0.15], no more than chance gives (p = 0.400)," in found.sentences[1]
    first = found.tables[0].rows[0]
    assert [(cell.text, cell.marked) for cell in first[1:3]] == [
        ("5 (0.90)", True),
        ("0 (0.10)", False),
    ]
    assert found.tables[0].marks == "more than chance"


def test_without_any_r_there_is_the_default(tmp_path):
    rows = TidyRows()
    rows.add("mean", np.arange(3.0), point="block.0", layer=1, selection="text", n=3)
    write_study(tmp_path, {"correlate": Planted({"stats": rows.table()})})
    found = section_of(read_study(tmp_path), "correlate", [])
    assert [figure.id for figure in found.figures] == ["correlate_size_and_shape_of_the_values"]
