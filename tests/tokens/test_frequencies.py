"""Token frequencies: arithmetic, storage, published counts, comparison."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError
from outdim.tokens import TokenFrequencies, check_frequencies, compare, special_ids
from scipy.stats import rankdata
from tokenizer_zoo import TEXTS, build


def frequencies(counts: list[int], **fields: Any) -> TokenFrequencies:
    special = np.arange(len(counts)) == 0
    tokens = tuple(f"t{i}" for i in range(len(counts)))
    return TokenFrequencies(np.array(counts, np.int64), special, tokens, **fields)


class TestArithmetic:
    def test_totals_and_lookups(self) -> None:
        freq = frequencies([9, 1, 0, 5])
        assert (freq.total_tokens, freq.special_tokens, len(freq)) == (15, 9, 4)
        assert freq.of([[3, 0], [2, 2]]).tolist() == [[5, 9], [0, 0]]
        assert freq.top(2) == [(3, "t3", 5), (1, "t1", 1)]
        assert freq.top(9, special=True)[0] == (0, "t0", 9)
        np.testing.assert_allclose(freq.log1p(), np.log([10, 2, 1, 6]))

    def test_mid_rank_is_the_rank_among_occurrences(self) -> None:
        counts = [3, 0, 1, 3, 7, 1]
        occurrences = np.repeat(np.arange(6), counts)
        ranks = rankdata(np.array(counts)[occurrences])
        mid_rank = frequencies(counts).mid_rank()
        np.testing.assert_array_equal(mid_rank[occurrences], ranks)
        assert mid_rank[1] < mid_rank[2]

    def test_adding(self) -> None:
        a = frequencies([1, 2], documents=np.array([1, 1]))
        b = frequencies([10, 20], documents=np.array([2, 3]))
        assert (a + b).counts.tolist() == [11, 22]
        both = (a + b).documents
        assert both is not None
        assert both.tolist() == [3, 4]
        assert (a + frequencies([1, 1])).documents is None
        with pytest.raises(ArgumentError, match="different vocabularies"):
            a + frequencies([1, 2, 3])

    def test_bad_ids_and_shapes(self) -> None:
        with pytest.raises(ArgumentError, match="ids: expected 0 to 1, got 2"):
            frequencies([1, 2]).of([0, 2])
        with pytest.raises(ArgumentError, match="documents: expected one for each of the 2 ids"):
            frequencies([1, 2], documents=np.array([1]))


class TestStorage:
    @pytest.mark.parametrize("name", ["bert uncased", "roberta", "llama"])
    @pytest.mark.parametrize("documents", [False, True])
    def test_parquet_round_trip(self, tmp_path: Path, name: str, documents: bool) -> None:
        (tmp_path / "a.txt").write_text("\n".join(TEXTS[:7]))
        path = tmp_path / "counts.parquet"
        freq = count_tokens(tmp_path / "a.txt", build(name), documents=documents)
        freq.to_parquet(path)
        assert pq.read_table(path).column_names == [
            "id",
            "token",
            "bytes",
            "special",
            "count",
            "documents",
        ]
        again = TokenFrequencies.from_parquet(path)
        np.testing.assert_array_equal(again.counts, freq.counts)
        np.testing.assert_array_equal(again.special, freq.special)
        assert (again.documents is None) == (not documents)
        assert (again.tokens, again.raw, again.info) == (freq.tokens, freq.raw, freq.info)
        assert again.coverage(build(name)).fits

    def test_bytes_of_byte_level_tokens(self) -> None:
        freq = TokenFrequencies.for_tokenizer(build("roberta"), np.zeros(900, np.int64)[:0])
        tokenizer = build("roberta")
        size = len(tokenizer)
        freq = TokenFrequencies.for_tokenizer(tokenizer, np.zeros(size, np.int64))
        text = "größer 中 <mask> x"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert freq.raw is not None
        assert b"".join(freq.raw[i] or b"?" for i in ids) == "größer 中<mask> x".encode()

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not a readable parquet file"):
            TokenFrequencies.from_parquet(tmp_path / "none.parquet")
        import pyarrow as pa

        pq.write_table(pa.table({"id": [0]}), tmp_path / "other.parquet")
        with pytest.raises(DataError, match="no token counts: the column token is there 0 times"):
            TokenFrequencies.from_parquet(tmp_path / "other.parquet")

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            ("count", [1.5, 2.0, 3.0], "count: expected int64 without nulls, got double with 0"),
            ("count", [1, None, 3], "count: expected int64 without nulls, got int64 with 1 nulls"),
            ("count", [1, -2, 3], "count: expected 0 or more, got -2"),
            ("count", ["1", "2", "3"], "count: expected int64 without nulls, got string"),
            ("id", [0, 2, 1], "id: expected 0, 1, 2, ... in this order"),
            ("special", [True, None, False], "special: expected bool without nulls"),
            ("token", ["a", None, "b"], "token: expected string without nulls"),
            ("documents", [1, None, 3], "documents: expected int64 without nulls"),
            ("documents", [1, -1, 3], "documents: expected 0 or more, got -1"),
        ],
    )
    def test_columns_that_are_not_as_they_were_written(
        self, tmp_path: Path, name: str, values: list[Any], message: str
    ) -> None:
        table = frequencies([1, 2, 3]).table()
        at = table.column_names.index(name)
        pq.write_table(table.set_column(at, name, [values]), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=re.escape(message)):
            TokenFrequencies.from_parquet(tmp_path / "a.parquet")

    def test_a_column_that_is_there_twice_and_broken_notes(self, tmp_path: Path) -> None:
        table = frequencies([1, 2, 3]).table()
        twice = table.append_column("count", table["count"])
        pq.write_table(twice, tmp_path / "a.parquet")
        with pytest.raises(DataError, match="the column count is there 2 times"):
            TokenFrequencies.from_parquet(tmp_path / "a.parquet")
        for notes in ("{", "[3]", '{"unjoined": 7}'):
            broken = table.replace_schema_metadata({"outdim": notes})
            pq.write_table(broken, tmp_path / "a.parquet")
            with pytest.raises(DataError, match="its notes cannot be read"):
                TokenFrequencies.from_parquet(tmp_path / "a.parquet")

    def test_one_reader_for_all(self, tmp_path: Path) -> None:
        tokenizer = build("gpt2")
        (the,) = tokenizer(" the", add_special_tokens=False)["input_ids"]
        published = tmp_path / "wiki.json"
        published.write_text('\ufeff [[" the", 7]]', encoding="utf-8")
        freq = TokenFrequencies.load(published, tokenizer)
        assert freq.of(the) == freq.total_tokens == 7
        freq.to_parquet(tmp_path / "counts.parquet")
        again = TokenFrequencies.load(tmp_path / "counts.parquet")
        assert again.counts.tolist() == freq.counts.tolist()
        with pytest.raises(DataError, match="it is not a run of outdim"):
            TokenFrequencies.load(tmp_path)
        with pytest.raises(ArgumentError, match=r"tokenizer: expected one, as .*wiki\.json counts"):
            TokenFrequencies.load(published)
        with pytest.raises(DataError, match=r"counts: there is no .*none\.parquet; write one"):
            TokenFrequencies.load(tmp_path / "none.parquet")


class TestCoverage:
    def test_of_another_vocabulary(self) -> None:
        bert, gpt2 = build("bert uncased"), build("gpt2")
        freq = TokenFrequencies.for_tokenizer(bert, np.arange(len(bert)))
        assert freq.coverage(bert).fits
        assert freq.coverage(bert).seen == len(bert) - 1
        assert not freq.coverage(gpt2).fits


class TestPublishedCounts:
    """Totals of the published lists: papers.md B4."""

    def test_of_bert_join_wholly(self, shared_data: Path, minilm: Any) -> None:
        folder = shared_data / "token_counts"
        wiki = TokenFrequencies.from_counts_json(
            folder / "bert-base-uncased_wiki_word_counts.json", minilm
        )
        books = TokenFrequencies.from_counts_json(
            folder / "bert-base-uncased_book_corpus_word_counts.json", minilm
        )
        assert wiki.unjoined == books.unjoined == ()
        assert (wiki.total_tokens, np.count_nonzero(wiki.counts)) == (2_995_979_011, 29_158)
        assert (books.total_tokens, np.count_nonzero(books.counts)) == (1_240_329_242, 28_035)
        assert wiki.top(3) == [
            (1996, "the", 149_611_994),
            (1010, ",", 122_639_227),
            (1012, ".", 119_905_042),
        ]
        cls, sep = minilm.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        assert wiki.of([cls, sep]).tolist() == [99_366_913, 99_366_914]
        both = wiki + books
        assert np.count_nonzero(both.counts) == 29_160
        pieces = np.array([token.startswith("##") for token in both.tokens])
        assert (both.counts[pieces] > 0).sum() > 5_000
        assert both.of(minilm.convert_tokens_to_ids("#")) == 298_820

    def test_what_several_ids_decode_to_is_listed_not_guessed(self, tmp_path: Path) -> None:
        path = tmp_path / "counts.json"
        path.write_text('[[" the", 7], ["\\ufffd", 5], ["no such token", 3]]', encoding="utf-8")
        tokenizer = build("gpt2")
        (the,) = tokenizer(" the", add_special_tokens=False)["input_ids"]
        freq = TokenFrequencies.from_counts_json(path, tokenizer)
        assert freq.of(the) == freq.total_tokens == 7
        assert freq.unjoined == (("\ufffd", 5), ("no such token", 3))

    def test_other_json_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"the": 3}')
        with pytest.raises(DataError, match="expected a JSON list of"):
            TokenFrequencies.from_counts_json(tmp_path / "a.json", build("gpt2"))
        for pair in ('["a", -1]', '["a", 1.5]', "[3, 1]", '["a", true]', '["a", 1e30]'):
            (tmp_path / "a.json").write_text(f'[["b", 2], {pair}]')
            with pytest.raises(DataError, match=r"expected \[string, count\] with a count of 0"):
                TokenFrequencies.from_counts_json(tmp_path / "a.json", build("gpt2"))


def published(path: Path, counts: dict[str, int], tokenizer: Any) -> TokenFrequencies:
    path.write_text(json.dumps(list(counts.items())), encoding="utf-8")
    return TokenFrequencies.from_counts_json(path, tokenizer)


class TestBelonging:
    """Published counts name no ids: how much of them joins says whose they are."""

    def test_counts_of_another_vocabulary_are_refused(self, shared_data: Path, minilm: Any) -> None:
        of_roberta = TokenFrequencies.from_counts_json(
            shared_data / "token_counts" / "roberta-base_wiki_word_counts.json", minilm
        )
        with pytest.raises(DataError, match=r"another vocabulary.*83%.*91% .*' the' \(126,981,940"):
            check_frequencies(of_roberta, minilm)

    def test_few_strings_of_much_mass_and_many_of_little_are_refused(self, tmp_path: Path) -> None:
        bert = build("bert uncased")
        words = [word for word in bert.get_vocab() if word.isalpha()][:20]
        known = dict.fromkeys(words, 100)
        for strange in ({" the": 300}, {f" a{i}": 1 for i in range(5)}):
            with pytest.raises(DataError, match=r"belong to no single token id, above all ' "):
                check_frequencies(published(tmp_path / "a.json", known | strange, bert), bert)

    def test_what_does_not_join_is_told(self, tmp_path: Path) -> None:
        bert = build("bert uncased")
        words = [word for word in bert.get_vocab() if word.isalpha()][:20]
        known = dict.fromkeys(words, 49)
        given = published(tmp_path / "a.json", known | {"voivodeship": 20, "never seen": 0}, bert)
        (said,) = check_frequencies(given, bert)
        assert said.startswith("2% of what the published counts count, 1 string, belong to no")
        assert "'voivodeship' (20)" in said
        assert "never seen" not in said
        assert check_frequencies(published(tmp_path / "a.json", known, bert), bert) == []
        given.to_parquet(tmp_path / "kept.parquet")  # as a study keeps it
        assert check_frequencies(TokenFrequencies.from_parquet(tmp_path / "kept.parquet"), bert)


class TestComparing:
    def test_wikipedia_and_books(self, shared_data: Path, minilm: Any) -> None:
        folder = shared_data / "token_counts"
        wiki, books = (
            TokenFrequencies.from_counts_json(
                folder / f"bert-base-uncased_{name}_word_counts.json", minilm
            )
            for name in ("wiki", "book_corpus")
        )
        both = compare(wiki, books)
        text = ~wiki.special
        assert both.correlation == pytest.approx(
            np.corrcoef(wiki.log1p()[text], books.log1p()[text])[0, 1]
        )
        differing = [token for _, token, *_ in both.largest(12)]
        assert {"i", "you", '"'} & set(differing)
        assert both.ranks()[0].tolist() == [149_611_994, 70_741_867]
        ids = [i for i, *_ in both.largest(5)]
        assert not special_ids(minilm) & set(ids)

    def test_a_text_and_eight_copies_of_it_do_not_differ(self) -> None:
        counts = np.random.default_rng(0).poisson(3e4 / np.arange(1, 5_001)).tolist()
        once, copies = frequencies(counts), frequencies([8 * count for count in counts])
        assert not compare(once, copies).log_ratio.any()
        assert compare(copies, once).largest() == []

    def test_a_doubled_token_is_the_largest_difference(self) -> None:
        counts = np.random.default_rng(0).poisson(3e4 / np.arange(1, 5_001))
        other = 8 * counts
        other[50] *= 2
        found = compare(frequencies(other.tolist()), frequencies(counts.tolist()))
        (i, _, first, second, ratio), (*_, next_ratio) = found.largest(2)
        assert (i, first, second) == (50, 16 * counts[50], counts[50])
        assert ratio == pytest.approx(1, abs=0.01)
        assert abs(next_ratio) < 0.01

    def test_an_absent_token_counts_as_once_in_the_smaller_text(self) -> None:
        ratio = compare(frequencies([0, 3, 96, 1]), frequencies([0, 0, 192, 8])).log_ratio
        assert ratio[1] == pytest.approx(np.log2((3 + 1) / (0 + 1)))
        assert ratio[0] == 0

    def test_the_same_twice_and_constants(self) -> None:
        same = compare(frequencies([5, 1, 2, 3]), frequencies([0, 1, 2, 3]))
        assert same.correlation == pytest.approx(1)
        assert same.largest() == []
        assert np.isnan(compare(frequencies([1, 1, 1]), frequencies([1, 2, 3])).correlation)
        with pytest.raises(ArgumentError, match="cannot be compared"):
            compare(frequencies([1]), frequencies([1, 2]))
