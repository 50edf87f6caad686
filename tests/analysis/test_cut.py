"""What is found of a text is the same however it is cut into shards, intervals and samples too."""

import numpy as np
import pyarrow as pa
import pytest
from outdim.analysis.analyze import analyze
from outdim.corpus import open_corpus
from tiny import tiny_model, tiny_texts, tiny_tokenizer

STEPS = ("geometry", "lifecycle", "attention")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of steps with documents in blocks: of a text in one unit, and in many."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(tiny_texts(40, 24)))
    model = tiny_model("bert", attn_implementation="eager", outliers=(5,))
    cuts = [open_corpus(path, unit_bytes=size) for size in (1 << 20, 700)]
    assert len(cuts[0].units) == 1 < len(cuts[1].units)
    return [analyze(model, tiny_tokenizer(), cut, STEPS) for cut in cuts]


@pytest.mark.parametrize("step", STEPS)
def test_intervals_are_those_of_any_cut(found, step):
    tables = zip(*(one[step].tables().items() for one in found), strict=True)
    intervals = 0
    for (name, one), (_, other) in tables:
        if not isinstance(one, pa.Table) or name == "lifecycle_tokens":  # it names the shard
            continue
        one, other = one.to_pandas(), other.to_pandas()
        assert len(one) == len(other)
        for column in one.select_dtypes("number"):
            mine, its = one[column].to_numpy(float), other[column].to_numpy(float)
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-6)
            intervals += column == "low" and np.isfinite(mine).sum()
    assert intervals > 20


def test_samples_are_those_of_any_cut(found):
    one, other = (geometry["geometry"].spaces["block.3", "text"].sampled for geometry in found)
    np.testing.assert_array_equal(one.blocks, other.blocks)
    np.testing.assert_allclose(one.rows, other.rows, atol=1e-5)
