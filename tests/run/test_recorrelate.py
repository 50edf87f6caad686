"""Runs related to other token frequencies afterwards, without the model."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from outdim import manifest
from outdim.errors import DataError, ResumeError
from outdim.tokens import TokenFrequencies, load_tokenizer
from run_helpers import Options, give, replaced


def test_sums_kept_per_token_give_the_same_r_and_that_of_any_other_frequencies(
    corpus, options, tmp_path
):
    run = give("correlate", corpus, replaced(options, per_token=[3, 5]))
    again = give("recorrelate", [], Options(output=tmp_path / "same", run=run))
    found = pd.read_parquet(again / "correlations.parquet")
    table = pq.read_table(run / "stats.parquet").to_pandas()
    one_pass = table[table.selection == "text"].merge(
        found, on=["point", "dim", "statistic", "covariate"], suffixes=("", "_again")
    )
    assert len(one_pass) == 3 * 2 * 2 * 3
    np.testing.assert_allclose(one_pass.value_again, one_pass.value, atol=1e-11)
    assert (one_pass.n_again == one_pass.n).all()

    tokenizer = load_tokenizer(options.model)
    other = TokenFrequencies.for_tokenizer(
        tokenizer, np.random.default_rng(0).integers(0, 1000, 200)
    )
    other.to_parquet(tmp_path / "other.parquet")
    with_other = give(
        "recorrelate",
        [],
        Options(output=tmp_path / "other", run=run, counts=tmp_path / "other.parquet"),
    )
    full = give(
        "correlate",
        corpus,
        replaced(options, output=tmp_path / "full", counts=tmp_path / "other.parquet"),
    )
    default = give("recorrelate", [], Options(output=tmp_path / "default", run=full))
    used = TokenFrequencies.from_parquet(default / "counts.parquet")
    np.testing.assert_array_equal(used.counts, other.counts)
    table = pq.read_table(full / "stats.parquet").to_pandas()
    both = table[table.selection == "text"].merge(
        pd.read_parquet(with_other / "correlations.parquet"),
        on=["point", "dim", "statistic", "covariate"],
    )
    np.testing.assert_allclose(
        both.value_x, both.value_y, atol=1e-6
    )  # hooks there, the fused op here
    bins = pd.read_parquet(with_other / "bins.parquet")
    here = TokenFrequencies.from_parquet(run / "counts.parquet")
    expected = Counter()
    for i in np.flatnonzero(~here.special & (here.counts > 0)).tolist():
        expected[int(other.counts[i]).bit_length()] += int(here.counts[i])
    one = bins[(bins.point == "block.0") & (bins.dim == 5)]
    assert dict(zip(one.bin, one.n, strict=True)) == expected
    assert (one.count_to.apply(int.bit_length) == one.bin).all()
    totals = bins.groupby(["point", "dim"]).n.sum()
    whole = table[(table.selection == "text") & (table.statistic == "mean_abs")]
    means = (bins.mean_abs * bins.n).groupby([bins.point, bins.dim]).sum() / totals
    expected = whole.set_index(["point", "dim"]).value.reindex(means.index)
    np.testing.assert_allclose(means, expected, rtol=1e-6)
    give("recorrelate", [], Options(output=tmp_path / "same", run=run))
    with pytest.raises(ResumeError, match=r"inputs\.counts"):
        give(
            "recorrelate",
            [],
            Options(output=tmp_path / "same", run=run, counts=tmp_path / "other.parquet"),
        )
    drivers = pd.read_parquet(again / "drivers.parquet")
    assert (drivers.groupby(["point", "dim"]).share.sum() <= 1 + 1e-9).all()


@pytest.mark.parametrize("per_token", [None, [3]])
def test_types_alone_give_r_and_interval_with_other_frequencies(
    corpus, options, tmp_path, per_token
):
    run = give("correlate", corpus, replaced(options, per_token=per_token))
    again = give("recorrelate", [], Options(output=tmp_path / "again", run=run))
    found = pq.read_table(again / "stats.parquet").to_pandas()
    assert set(found.step) == {"recorrelate"}
    table = pq.read_table(run / "stats.parquet").to_pandas()
    keys = ["point", "dim", "statistic", "covariate"]
    both = table[table.selection == "text"].merge(found, on=keys, suffixes=("", "_again"))
    both = both[both.statistic.isin(["pearson", "pearson_abs"])]
    assert len(both) >= 3 * 16 * 2 * 2
    # Every type of this vocabulary has a bucket of its own.
    np.testing.assert_allclose(both.value_again, both.value, atol=1e-9)
    assert ((both.low_again <= both.value_again) & (both.value_again <= both.high_again)).all()
    assert all(manifest.result_path(again, name) for name in manifest.read(again)["results"])
    assert (again / "correlations.parquet").exists() == (per_token is not None)


def test_a_run_that_kept_no_types_says_how_to_keep_them(corpus, options, tmp_path):
    run = give("correlate", corpus, replaced(options, types=0))
    with pytest.raises(DataError, match="--types"):
        give("recorrelate", [], Options(output=tmp_path / "x", run=run))
    assert not (tmp_path / "x").exists()
