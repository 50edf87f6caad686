"""Counting corpora: both ways agree, memory is bounded, the method is chosen with a reason."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from outdim.corpus import Texts, open_corpus
from outdim.counting import CountingMethod, TokenCounter, choose_method, count_tokens
from outdim.errors import ArgumentError, DataError
from outdim.tokens.boundaries import chunk_rule
from outdim.tokens.normalizers import RefusedError
from tokenizer_zoo import BUILD, TEXTS, build
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.normalizers import Replace
from transformers import PreTrainedTokenizerFast

KINDS = ["bert uncased", "roberta", "llama3", "unigram", "bpe metaspace", "llama legacy"]


@pytest.fixture
def corpus_path(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    texts = [*TEXTS, *TEXTS[::-1], " begins with a space", "x" * 3000, "a b " * 500]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def expected_counts(path: Path, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    encoded = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    rows = [np.array(row, np.int64) for row in encoded]
    size = max(tokenizer.get_vocab().values()) + 1
    counts = np.bincount(np.concatenate(rows), minlength=size)
    return counts, np.bincount(np.concatenate([np.unique(row) for row in rows]), minlength=size)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["chunks", "encode"])
@pytest.mark.parametrize("documents", [False, True])
def test_counts_are_those_of_the_tokenizer(
    corpus_path: Path, name: str, method: str, documents: bool
) -> None:
    counts, in_documents = expected_counts(corpus_path, build(name))
    freq = count_tokens(
        corpus_path, build(name), method=method, documents=documents, unit_bytes=1000
    )
    np.testing.assert_array_equal(freq.counts, counts)
    assert freq.info["method"] == method
    assert freq.info["accounting"]["tokens"] == counts.sum()
    if documents:
        np.testing.assert_array_equal(freq.documents, in_documents)


@pytest.mark.parametrize(
    "name",
    [
        "llama3",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert uncased", "llama legacy")),
    ],
)
@pytest.mark.parametrize("documents", [False, True])
def test_a_full_table_is_folded_and_counting_goes_on(
    tmp_path: Path, name: str, documents: bool
) -> None:
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, 20))) for _ in range(24_000)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(" ".join(words[i : i + 8_000]) for i in range(0, 24_000, 8_000)))
    corpus = open_corpus(path)
    method = CountingMethod("chunks", "")
    small = TokenCounter(build(name), method, documents=documents, memory_bytes=1 << 20)
    found = small.count(corpus, corpus.units)
    plain = TokenCounter(build(name), CountingMethod("encode", ""), documents=documents)
    expected = plain.count(corpus, corpus.units)
    np.testing.assert_array_equal(found.counts, expected.counts)
    if documents:
        np.testing.assert_array_equal(found.documents, expected.documents)
    assert found.accounting == expected.accounting


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_units_add_up_in_any_order(corpus_path: Path, workers: int) -> None:
    tokenizer = build("bert uncased")
    corpus = open_corpus(corpus_path, unit_bytes=500)
    counter = TokenCounter(tokenizer, CountingMethod("chunks", ""), documents=True, workers=workers)
    parts = [counter.count(corpus, [unit]) for unit in reversed(corpus.units)]
    again = [counter.count(corpus, [unit]) for unit in reversed(corpus.units)]
    for part, same in zip(parts, again, strict=True):
        np.testing.assert_array_equal(part.counts, same.counts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    counts, documents = expected_counts(corpus_path, tokenizer)
    np.testing.assert_array_equal(total.counts, counts)
    np.testing.assert_array_equal(total.documents, documents)


class TestUnencodable:
    """A tokenizer whose unknown token is not in its vocabulary."""

    @pytest.fixture
    def tokenizer(self) -> Any:
        inner = Tokenizer(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return PreTrainedTokenizerFast(tokenizer_object=inner)

    @pytest.mark.parametrize("method", ["auto", "chunks", "encode"])
    def test_text_without_unknown_characters_is_counted(
        self, tmp_path: Path, tokenizer: Any, method: str
    ) -> None:
        (tmp_path / "a.txt").write_text("a b\n" * 5)
        freq = count_tokens(tmp_path / "a.txt", tokenizer, method=method)
        assert freq.counts.tolist() == [5, 5]

    @pytest.mark.parametrize(
        ("method", "documents"),
        [
            ("auto", True),
            pytest.param("auto", False, marks=pytest.mark.slow),
            pytest.param("encode", True, marks=pytest.mark.slow),
            ("encode", False),
        ],
    )
    def test_the_document_is_named_or_accounted_for(
        self, tmp_path: Path, tokenizer: Any, method: str, documents: bool
    ) -> None:
        path = tmp_path / "a.txt"
        # Behind what is sampled, so that counting by chunks begins.
        path.write_text("a b\n" * 30_000 + "a é b\n" + "b\n" * 3)
        with pytest.raises(DataError, match=r"a\.txt: document 30001, 'a é b': .*Missing \[UNK\]"):
            count_tokens(path, tokenizer, method=method)
        freq = count_tokens(path, tokenizer, method=method, documents=documents, on_error="skip")
        assert freq.info["method"] == ("encode" if method == "encode" else "chunks")
        assert freq.counts.tolist() == [30_000, 30_003]
        if documents:
            assert freq.documents is not None
            assert freq.documents.tolist() == [30_000, 30_003]
        account = freq.info["accounting"]
        assert (account["documents"], account["characters"]) == (30_003, 90_003)
        assert (account["bytes"], account["tokens"]) == (90_003, 60_003)
        assert account["skipped"] == {"not encodable": 1}
        (place,) = account["places"]
        assert place.startswith(f"{path}: document 30001, 'a é b': ")

    def test_in_the_sample(self, tmp_path: Path, tokenizer: Any) -> None:
        (tmp_path / "a.txt").write_text("é\na\n")
        freq = count_tokens(tmp_path / "a.txt", tokenizer, on_error="skip")
        assert freq.counts.tolist() == [1, 0]
        assert "a sampled document cannot be encoded" in freq.info["why"]


class TestChoosing:
    def test_every_kind_is_counted_by_chunks(self, corpus_path: Path) -> None:
        corpus = open_corpus(corpus_path)
        for name in BUILD:
            method = choose_method(corpus, build(name), "chunks")
            assert method.name == "chunks"
            assert "sampled documents agree" in method.why

    @pytest.mark.parametrize(
        ("name", "chunks"),
        [
            ("bert uncased", ["The", "dog", "'", "s", "1", ",", "234", "dog", "."]),
            ("gpt2", ["The", " dog's", " 1", ",", "234", " dog", "."]),
            ("llama3", ["The", " dog's", " 1", ",", "234", " dog", "."]),
            ("gpt2 prefix", ["The", " dog's", " 1,234", " dog."]),
            ("unigram", ["The", " dog's", " 1,234", " dog."]),
        ],
    )
    def test_how_fine_chunks_are(self, name: str, chunks: list[str]) -> None:
        counter = TokenCounter(build(name), CountingMethod("chunks", ""))
        assert counter.count_texts(Texts.of(["The dog's 1,234 dog."]))[1] == len(chunks)

    def test_unknown_pre_tokenizers_are_encoded(self, corpus_path: Path) -> None:
        tokenizer = _changed("gpt2", pre_tokenizer=pre_tokenizers.UnicodeScripts())
        method = choose_method(open_corpus(corpus_path), tokenizer)
        assert method == CountingMethod(
            "encode", "chunks cannot be used: pre-tokenizer UnicodeScripts with BPE"
        )
        with pytest.raises(ArgumentError, match="method: 'chunks' cannot be used here"):
            count_tokens(corpus_path, tokenizer, method="chunks")
        counts, _ = expected_counts(corpus_path, tokenizer)
        np.testing.assert_array_equal(count_tokens(corpus_path, tokenizer).counts, counts)

    def test_a_sample_that_disagrees(
        self, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = chunk_rule(build("gpt2"))
        monkeypatch.setattr("outdim.counting.method.chunk_rule", lambda tokenizer: wrong)
        method = choose_method(open_corpus(corpus_path), build("gpt2 prefix"))
        assert method.name == "encode"
        assert "ids differ in count" in method.why

    def test_text_without_spaces_does_not_repeat(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("人人生而自由，在尊严和权利上一律平等。\n" * 50)
        method = choose_method(open_corpus(tmp_path / "a.txt"), build("gpt2"))
        assert (method.name, "few repeat" in method.why) == ("encode", True)
        assert (
            choose_method(open_corpus(tmp_path / "a.txt"), build("bert uncased")).name == "chunks"
        )

    @pytest.mark.parametrize(
        ("name", "change", "reason"),
        [
            ("bert uncased", {"normalizer": Replace("a b", "c")}, "normalizer Replace"),
            ("gpt2", {"normalizer": Replace("e", " ")}, "normalizer Replace"),
            ("bert uncased", {"added": ("two words", {})}, "'two words' reaches over a blank"),
            ("gpt2", {"added": ("x", {"rstrip": True})}, "'x' takes the blanks after it"),
            ("llama", {"vocab": "a\u2581b"}, "tokens that reach over a space"),
        ],
    )
    def test_what_could_reach_over_a_cut_is_refused(
        self, name: str, change: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(RefusedError, match=reason):
            chunk_rule(_changed(name, **change))

    @pytest.mark.parametrize("method", ["chunks", "encode"])
    def test_special_tokens_may_be_split_as_text(self, corpus_path: Path, method: str) -> None:
        inner = build("roberta").backend_tokenizer
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, split_special_tokens=True)
        counts, _ = expected_counts(corpus_path, tokenizer)
        assert not np.array_equal(counts, expected_counts(corpus_path, build("roberta"))[0])
        freq = count_tokens(corpus_path, tokenizer, method=method)
        np.testing.assert_array_equal(freq.counts, counts)

    def test_arguments(self, corpus_path: Path) -> None:
        with pytest.raises(ArgumentError, match="method: expected"):
            count_tokens(corpus_path, build("gpt2"), method="fast")
        with pytest.raises(ArgumentError, match="memory_bytes: expected at least 1 MiB"):
            count_tokens(corpus_path, build("gpt2"), memory_bytes=1000)

    def test_what_is_no_source_or_no_tokenizer(self, corpus_path: Path) -> None:
        with pytest.raises(ArgumentError, match="source: expected"):
            count_tokens(None, build("gpt2"))  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="tokenizer: expected a fast tokenizer"):
            count_tokens(corpus_path, None)

    def test_no_documents(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(" \n\n")
        with pytest.raises(DataError, match=r"no documents \(left out: {'blank': 2}\)"):
            count_tokens(tmp_path / "a.txt", build("gpt2"))


def _changed(name: str, **change: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer

    state = json.loads(build(name).backend_tokenizer.to_str())
    if word := change.pop("vocab", None):
        state["model"]["vocab"][word] = len(state["model"]["vocab"])
    inner = Tokenizer.from_str(json.dumps(state))
    content, flags = change.pop("added", (None, {}))
    if content:
        inner.add_tokens([AddedToken(content, **flags)])
    for part, value in change.items():
        setattr(inner, part, value)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


class TestRealText:
    def test_wikitext_by_both_methods(self, shared_data: Path, minilm: Any) -> None:
        source = str(shared_data / "wikitext-2" / "*.txt")
        by_chunks = count_tokens(source, minilm, documents=True)
        assert by_chunks.info["method"] == "chunks"
        plain = count_tokens(source, minilm, method="encode", documents=True)
        np.testing.assert_array_equal(by_chunks.counts, plain.counts)
        np.testing.assert_array_equal(by_chunks.documents, plain.documents)
        assert by_chunks.info["accounting"] == plain.info["accounting"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [None, *KINDS, "bert cased", "gpt4o", "albert"])
    def test_the_declaration_in_three_hundred_languages(
        self, shared_data: Path, tmp_path: Path, minilm: Any, name: str | None
    ) -> None:
        with ZipFile(shared_data / "udhr" / "udhr2.zip") as archive:
            for entry in archive.namelist():
                if entry.endswith(".txt"):
                    (tmp_path / Path(entry).name).write_bytes(archive.read(entry))
        corpus = open_corpus(tmp_path, on_error="skip")
        tokenizer = build(name) if name else minilm
        counted = [
            TokenCounter(tokenizer, CountingMethod(method, "")).count(corpus, corpus.units)
            for method in ("chunks", "encode")
        ]
        np.testing.assert_array_equal(counted[0].counts, counted[1].counts)
        assert counted[0].accounting == counted[1].accounting
        assert counted[0].accounting.documents > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert uncased", "gpt2", "unigram"])
def test_a_word_of_a_megabyte_and_a_line_of_a_hundred(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 1_000_000 + "\n" + "some words again and again, " * 3_700_000 + "\n")
    long = open_corpus(path, max_document_bytes=1 << 27)
    freq = count_tokens(long, build(name), method="chunks", memory_bytes=1 << 22)
    short = tmp_path / "b.txt"
    short.write_text("x" * 1_000_000 + "\n" + "some words again and again, " * 37 + "\n")
    plain = count_tokens(short, build(name), method="encode")
    again = count_tokens(short, build(name), method="chunks")
    np.testing.assert_array_equal(plain.counts, again.counts)
    assert freq.total_tokens > 1_000_000
