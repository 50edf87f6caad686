"""Variants beside their controls: what is said where some have none."""

import pytest
from outdim.analysis.sweep import sweep
from tiny import tiny_model, tiny_texts, tiny_tokenizer


@pytest.fixture(scope="module")
def halves():
    """Two sets that are all of the model: the random ones of the first are in the second."""
    model = tiny_model(
        "llama", head="CausalLM", hidden_size=8, num_attention_heads=2, num_hidden_layers=1
    )
    return sweep(
        model, tiny_tokenizer(), tiny_texts(6, 12), dims=["0,1,2,3", "4,5,6,7"], controls=1,
        draws=50,
    )  # fmt: skip


def test_a_variant_that_shares_a_dimension_with_every_control_says_so(halves):
    said = halves.cautions()
    assert any(one.startswith("1 variant of 2 has no control, since each") for one in said)
    assert not any("There are no controls" in one for one in said)
    table = halves.tables()["sweep_lm"].to_pandas()
    rows = table[(table.metric == "loss") & (table.role == "ablated")]
    assert rows.control.isna().tolist() == [False, True]
    assert rows.reason.tolist() == ["", "every control shares a dimension with it"]
    assert (table[table.role != "ablated"].reason == "").all()


def test_where_all_have_controls_nothing_is_said():
    model = tiny_model("llama", head="CausalLM", num_hidden_layers=1)
    found = sweep(model, tiny_tokenizer(), tiny_texts(6, 12), dims=[1, 2], draws=50)
    assert not any("control" in one for one in found.cautions())
    assert set(found.tables()["sweep_lm"]["reason"].to_pylist()) == {""}
