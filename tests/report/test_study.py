"""Reading a run directory: every value, every checksum, and what is no study."""

import json

import numpy as np
import pytest
from outdim.analysis.table import TidyRows
from outdim.errors import DataError
from outdim.report.statistics import Key
from outdim.report.study import read_study
from outdim.run.results import write_parquet
from report.synthetic import TOKENS, Planted, change_manifest, corrupt, make_run, write_study


def test_every_value_is_read(tmp_path):
    truth = make_run(tmp_path)
    study = read_study(tmp_path)
    found = study.statistics["correlate"]
    assert found.points == ["embeddings", "block.0", "block.1", "block.2", "block.3"]
    assert found.tokens == TOKENS
    for key, r in truth["r"].items():
        estimate = found.values[Key(*key)]
        np.testing.assert_array_equal(estimate.value, r)
        assert estimate.low is None
    norms = study.statistics["detect"]
    np.testing.assert_array_equal(norms.values[Key("beta", "", "")].value, truth["beta"])
    assert norms.points == [f"block.{i}.norm" for i in range(4)]
    np.testing.assert_array_equal(study.frequencies.counts, truth["frequencies"].counts)
    assert study.options == {step: {"seed": 1} for step in ("detect", "correlate", "count")}


def test_intervals_null_and_heads_are_read_where_they_are(tmp_path):
    rows = TidyRows()
    at = {"selection": "text", "covariate": "count", "n": 9}
    low = [0.1, np.nan]
    rows.add("pearson", [0.2, 0.3], point="block.0", layer=1, low=low, high=[0.3, 1], p=0.5, **at)
    rows.add("pearson", [0.4, 0.5], point="block.1", layer=2, null=0.6, **at)
    for head in range(3):
        rows.add("mean", 0.1 * head, point="block.1", layer=2, head=head, n=9, selection="text")
    write_study(tmp_path, {"correlate": Planted({"stats": rows.table()})})
    found = read_study(tmp_path).statistics["correlate"]
    r = found.values[Key("pearson", "count", "text")]
    nan = np.nan
    np.testing.assert_array_equal(r.low, [[0.1, nan, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(r.p, [[0.5, 0.5, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(r.null, [[nan, nan, nan], [0.6, 0.6, nan]])
    assert found.heads == {"mean"}
    np.testing.assert_allclose(found.values[Key("mean", "", "text")].value[1], [0, 0.1, 0.2])


def test_what_leads_in_the_vocabulary_comes_first(tmp_path):
    make_run(tmp_path, layers=1, dims=8, outliers=(7,))
    ordered = read_study(tmp_path).statistics["correlate"].ordered()
    assert ordered[0] == ("pearson_abs", "log1p_count", "text")
    assert ordered[3] == ("pearson_abs", "count", "text")
    assert {key.selection for key in ordered} == set(TOKENS)


def test_a_selection_that_adds_no_token_is_not_shown(tmp_path):
    rows = TidyRows()
    for selection, n in (("text", 5), ("text+first", 5), ("all", 7)):
        rows.add("mean", [1.0], point="block.0", layer=1, selection=selection, n=n)
    write_study(tmp_path, {"correlate": Planted({"stats": rows.table()})})
    ordered = read_study(tmp_path).statistics["correlate"].ordered()
    assert [key.selection for key in ordered] == ["text", "all"]


def test_the_step_that_others_need_comes_last(tmp_path):
    make_run(tmp_path, steps=("count", "detect", "correlate"))
    assert read_study(tmp_path).steps == ["detect", "correlate", "count"]


@pytest.mark.parametrize("name", ["stats.parquet", "counts.parquet", "detection.json"])
def test_altered_results_are_refused(tmp_path, name):
    make_run(tmp_path)
    corrupt(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: it was altered since outdim wrote it"):
        read_study(tmp_path).document("detection.json")


def test_an_altered_manifest_is_refused(tmp_path):
    make_run(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("tiny-bert", "tiny-bart"))
    with pytest.raises(DataError, match="it was altered"):
        read_study(tmp_path)


def test_no_run_directory(tmp_path):
    with pytest.raises(DataError, match="holds no manifest"):
        read_study(tmp_path)
    with pytest.raises(DataError, match="got nothing"):
        read_study(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="got a file"):
        read_study(tmp_path / "file")


def test_a_directory_in_which_nothing_was_found_is_no_study(tmp_path):
    write_study(tmp_path, {"detect": Planted({})})
    for path in (tmp_path / "plan").iterdir():
        path.unlink()
    change_manifest(tmp_path, headlines={})
    with pytest.raises(DataError, match="holds nothing that an analysis found"):
        read_study(tmp_path)


def test_a_table_without_a_column_names_those_there_are(tmp_path):
    rows = TidyRows()
    rows.add("mean", [1.0], point="block.0", layer=1)
    write_study(tmp_path, {"correlate": Planted({"stats": rows.table()})})
    sha256 = write_parquet(tmp_path / "stats.parquet", rows.table())
    change_manifest(tmp_path, results={"stats.parquet": sha256})
    with pytest.raises(DataError, match="column step is missing; it has point, layer, dim"):
        read_study(tmp_path)


def test_files_of_results_are_listed_with_their_columns(tmp_path):
    make_run(tmp_path)
    files = {file.name: file for file in read_study(tmp_path).files()}
    assert set(files) == {"stats.parquet", "counts.parquet", "detection.json"}
    assert files["counts.parquet"].rows == 500
    assert files["counts.parquet"].columns[:2] == ("id", "token")
    assert files["detection.json"].size_bytes == (tmp_path / "detection.json").stat().st_size
    assert json.loads((tmp_path / "detection.json").read_text())["k"] == 3
