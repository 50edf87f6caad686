"""What the page says is what the run holds, and what is wrong with it is said."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim.errors import DataError
from outdim.report import summary
from outdim.report.cautions import cautions
from outdim.report.findings import findings, layer_table, outlier_table
from outdim.report.run_files import read_counts, read_run
from report.synthetic import make_run, write_blocks


def test_findings_name_the_planted_dimensions(tmp_path):
    truth = make_run(tmp_path)
    said = " ".join(findings(read_run(tmp_path)))
    assert "2 of the 64 dimensions are outliers" in said
    assert "in at least 2 of the 4 layers" in said
    r = truth["r"]["pearson_abs", "count", "text"]
    assert "follows token frequency most closely is 7, at the embeddings: r = 0.85" in said
    assert f"The median dimension there has |r| = {np.median(np.abs(r[0])):.2f}" in said
    assert "600,000 text tokens of 6,789 documents" in said
    assert "is no outlier" not in said
    assert (
        "Outlier dimension 7 follows it most at the embeddings: r = 0.85, the largest |r| of "
        in said
    )
    peak = int(np.argmax(np.abs(r[:, 41])))
    assert (
        f"41 follows it most at layer {peak}: r = {r[peak, 41]:.2f}, the largest |r| of its 5 "
        f"points (at the embeddings {r[0, 41]:.2f}), and larger than in "
    ) in said


def test_a_dimension_that_follows_frequency_may_be_no_outlier(tmp_path):
    make_run(tmp_path)
    path = tmp_path / "detection.json"
    found = json.loads(path.read_text())
    found["dims"] = [row for row in found["dims"] if row["dim"] == 41]
    path.write_text(json.dumps(found))
    said = findings(read_run(tmp_path))[1]
    assert "most closely is 7, " in said
    assert said.endswith(
        "Dimension 7 is no outlier: the rule looks for extreme LayerNorm parameters, not for "
        "frequency, and the two need not agree."
    )


def test_layers_are_explained_once(tmp_path):
    make_run(tmp_path / "all")
    make_run(tmp_path / "count", parts=("counts",))
    said = (
        "Layer i is the output of block i − 1 (block.0 is the first), Hugging Face's hidden_state"
    )
    assert summary(tmp_path / "all").count(said) == 1
    assert said not in summary(tmp_path / "count")


@pytest.mark.parametrize(
    ("apart", "kept", "said"),
    [
        (0.0, 0.04, "1,000 permutations of their positions: none (each"),
        (0.0, 0.04, "each layer apart; 0.04 if those of β"),
        (0.12, 0.0, "1,000 permutations of their positions: 0.12 (each"),
        (0.12, 0.0, "each layer apart; none if"),
        (0.12, None, "0.12 (each layer apart)."),
    ],
)
def test_chance_is_told_within_what_permutations_can_say(tmp_path, apart, kept, said):
    make_run(tmp_path, parts=("detection",))
    path = tmp_path / "detection.json"
    found = json.loads(path.read_text())
    found["false_positives"] |= {"expected_dims": apart, "expected_dims_layers_kept": kept}
    path.write_text(json.dumps(found))
    assert said in findings(read_run(tmp_path))[0]


def test_layer_table_orders_by_size_of_r(tmp_path):
    truth = make_run(tmp_path)
    table = layer_table(read_run(tmp_path))
    for row, r in zip(table.rows, truth["r"]["pearson_abs", "count", "text"], strict=True):
        order = np.argsort(-np.abs(r))[:3]
        assert row.top == [(d, r[d]) for d in order]
        assert row.median == np.median(np.abs(r))
        assert row.high == np.percentile(np.abs(r), 95)
        assert dict(zip(table.outliers, row.outliers, strict=True)) == {d: r[d] for d in (7, 41)}


def test_outlier_table_holds_z_and_counts_what_is_beyond_the_bound(tmp_path):
    truth = make_run(tmp_path, outliers=(7, 41))
    table = outlier_table(read_run(tmp_path))
    assert not table.nearest
    for row in table.rows:
        for letter, name in (("γ", "gamma_z"), ("β", "beta_z")):
            np.testing.assert_allclose(row.z[letter], truth[name][:, row.dim], rtol=1e-12)
            assert row.layers[letter] == (np.abs(truth[name][:, row.dim]) > 3).sum()
        beyond = [np.abs(truth[name][:, row.dim]) > 3 for name in ("gamma_z", "beta_z")]
        assert row.both == np.logical_and(*beyond).sum()


def test_no_outlier_is_said_and_the_nearest_shown(tmp_path):
    truth = make_run(tmp_path, layers=12, dims=384, outliers=(), parts=("stats", "detection"))
    run = read_run(tmp_path)
    assert findings(run)[0].startswith("No dimension of the 384 is an outlier by the rule")
    table = outlier_table(run)
    beyond = (np.abs(truth["gamma_z"]) > 3).sum(0) + (np.abs(truth["beta_z"]) > 3).sum(0)
    assert table.nearest
    assert beyond[[row.dim for row in table.rows]].min() >= 1
    (tmp_path / "detection.json").unlink()
    assert outlier_table(read_run(tmp_path)) is None  # nobody has looked for any


def test_a_sound_run_has_no_cautions(tmp_path):
    make_run(tmp_path)
    assert cautions(read_run(tmp_path)) == []


@pytest.mark.parametrize("parts", [("manifest", "stats", "counts"), ("manifest", "counts")])
def test_rows_left_out_are_told(tmp_path, parts):
    make_run(tmp_path, parts=parts)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tokens"]["excluded"] = {"blank": 9, "short": 6_949, "null": 8}
    manifest["options"]["min_chars"] = 500
    path.write_text(json.dumps(manifest))
    said = "of 6,789 documents (6,949 more, shorter than 500 characters, were left out)"
    assert " ".join(findings(read_run(tmp_path))).count(said) == 1
    assert said in summary(tmp_path)
    assert cautions(read_run(tmp_path)) == []
    manifest["tokens"]["excluded"] |= {"truncated file": 1, "invalid JSON": 1_203}
    manifest["counting"]["accounting"] = {"places": ["a.jsonl: line 3: invalid JSON", "b"]}
    path.write_text(json.dumps(manifest))
    (said,) = cautions(read_run(tmp_path))
    assert "could not be read: 1,203 × invalid JSON and 1 × truncated file. " in said
    assert said.endswith("The first: a.jsonl: line 3: invalid JSON.")
    said = " ".join(findings(read_run(tmp_path)))
    assert "text tokens of 6,789 documents" in said


def test_cautions_name_places_and_reasons(tmp_path):
    rng = np.random.default_rng(1)
    r = rng.uniform(-0.5, 0.5, (2, 8))
    r[0, 3] = r[1, 5] = np.nan
    bad = np.zeros((2, 8))
    bad[1, 5] = 12.0
    blocks, reasons = [], {}
    for p, (point, dim, why) in enumerate(
        (("embeddings", 3, "constant dimension"), ("block.0", 5, "nonfinite values"))
    ):
        blocks.append((point, p, "text", "nonfinite", "", bad[p], 50))
        reasons[8 * len(blocks) + dim] = why
        blocks.append((point, p, "text", "pearson_abs", "count", r[p], 50))
        reasons |= dict.fromkeys(range(8 * len(blocks), 8 * len(blocks) + 8), "constant covariate")
        blocks.append((point, p, "text", "pearson_abs", "position", np.full(8, np.nan), 50))
    blocks.append(("block.0.attention", 1, "text", "pearson_abs", "count", r[0], 50))
    write_blocks(tmp_path / "stats.parquet", blocks, reasons)
    (tmp_path / "manifest.json").write_text('{"finished": null}')
    said = "\n".join(cautions(read_run(tmp_path)))
    assert "does not say that this run finished" in said
    assert "12 values were NaN or infinite, in 1 dimension;" in said
    assert "block.0 dimension 5 (12)" in said
    assert "in 2 of 16 places: 1 where the dimension is constant, 1 where values are NaN" in said
    assert "in 16 of 16 places: 16 as this measure is the same for every token (position" in said
    assert "Only 50 text tokens" in said
    assert "in no figure: block.0.attention" in said
    assert layer_table(read_run(tmp_path)).rows[0].top[0][0] == int(np.nanargmax(np.abs(r[0])))


def test_summary_for_the_terminal(tmp_path):
    make_run(tmp_path)
    text = summary(tmp_path)
    assert "2 of the 64 dimensions are outliers" in text
    assert "7 (0.85)" in text
    assert "8,686 tokens/s" in text
    assert "not written yet" in text


@pytest.mark.parametrize("part", ["manifest", "counts", "stats", "detection"])
def test_any_single_part_is_enough(tmp_path, part):
    make_run(tmp_path, parts=(part,))
    run = read_run(tmp_path)
    assert isinstance(findings(run), list)
    assert isinstance(cautions(run), list)
    assert "report" in summary(tmp_path)


def test_not_a_run_directory(tmp_path):
    with pytest.raises(DataError, match=r"holds none of manifest\.json"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="got nothing"):
        read_run(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="got a file"):
        read_run(tmp_path / "file")


def test_broken_parts_are_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read as JSON"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="expected a JSON object, got list"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "stats.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"stats\.parquet: cannot be read as parquet"):
        read_run(tmp_path)


def test_missing_column_lists_those_there_are(tmp_path):
    make_run(tmp_path, parts=("counts",))
    table = pq.read_table(tmp_path / "counts.parquet").drop_columns(["count"])
    pq.write_table(table, tmp_path / "counts.parquet")
    with pytest.raises(DataError, match="column count is missing; it has id, token, bytes"):
        read_counts(tmp_path / "counts.parquet")
