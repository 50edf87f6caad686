"""Predicted tokens: the numbers of plain transformers, planted truths found, absent ones not."""

import random
from types import MappingProxyType

import numpy as np
import pytest
import torch
from outdim import Ablation, ablate, predictions
from outdim.analysis.parts_of_speech import Word
from outdim.analysis.results.predictions import LABELS
from outdim.corpus import GivenTexts
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError
from report.sections.test_predictions import planted
from tiny import tiny_model, tiny_texts, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return tiny_texts(60, 60)


@pytest.fixture(scope="module")
def few(texts) -> list[str]:
    """For what is computed one document at a time."""
    return texts[:15]


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", head="CausalLM")


@pytest.fixture(scope="module")
def masked_bert():
    return tiny_model("bert", head="MaskedLM", outliers=(3,))


class OddAndEven:
    """w1, w3, ... are nouns, w0, w2, ... verbs, all else is other."""

    about = MappingProxyType({"name": "odd and even", "version": "1"})

    def __call__(self, texts):
        for text in texts:
            found, at = [], 0
            for word in text.split():
                at = text.index(word, at)
                number = word[1:]
                tag = "X"
                if word[0] == "w" and number.isdigit():
                    tag = ("VERB", "NOUN")[int(number) % 2]
                found.append(Word(at, at + len(word), tag))
                at += len(word)
            yield found


def plain(model, tokenizer, texts, context=None) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """True and predicted ids of every token but those of the template, and states before that."""
    true, predicted, states = [], [], []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            if context is None:
                state = model.model(ids).last_hidden_state[0]
            else:
                with ablate(model, context):
                    state = model.model(ids).last_hidden_state[0]
            logits = model.lm_head(state)
        true += ids[0, 1:-1].tolist()
        predicted += logits[:-2].argmax(-1).tolist()
        states.append(state[:-2].double())
    return np.array(true), np.array(predicted), torch.cat(states)


class TestCausal:
    def test_counts_are_those_of_transformers(self, llama, tokenizer, few):
        found = predictions(llama, tokenizer, few, ablations=[5, [3, 4]], controls=2)
        counts = count_tokens(GivenTexts(few), tokenizer)
        corpus = np.where(counts.special, 0, counts.counts)
        for series, context in ((1, None), (2, [5]), (3, [3, 4])):
            true, predicted, _ = plain(llama, tokenizer, few, context)
            for i, ids in ((0, true), (series, predicted)):
                own, times = found.predicted("next", i)
                expected = np.bincount(ids, minlength=200)
                np.testing.assert_array_equal(times, expected[own])
                assert times.sum() == len(ids)
            log = np.log1p(corpus)[predicted].mean()
            assert found.measure("mean_log_frequency").value.value[series] == pytest.approx(log)
            types = len(set(predicted.tolist()))
            assert found.measure("types").value.value[series] == types

    def test_contributions_add_up_to_the_logits(self, llama, tokenizer, few):
        found = predictions(llama, tokenizer, few, ablations=[5], controls=0)
        corpus = count_tokens(GivenTexts(few), tokenizer)
        counted = np.flatnonzero((corpus.counts > 0) & ~corpus.special)
        weight = llama.lm_head.weight.detach().double()
        adds = found.contributions["next"]
        for variant, context in enumerate([None, [5]]):
            *_, states = plain(llama, tokenizer, few, context)
            np.testing.assert_allclose(adds.mean[variant], states.mean(0), rtol=1e-4, atol=1e-5)
            size = states.abs().mean(0)
            np.testing.assert_allclose(adds.size[variant], size, rtol=1e-4, atol=1e-5)
            unseen = np.setdiff1d(np.arange(200), [*counted, *np.flatnonzero(corpus.special)])
            logits = (states @ weight.T)[:, unseen].mean()
            assert adds.unseen[variant].sum() == pytest.approx(logits.item(), rel=1e-4)
        gap = adds.frequent.sum(-1) - adds.rare.sum(-1)
        np.testing.assert_allclose(found.measure("logit_gap").value.value[1:], gap, rtol=1e-9)
        assert "mean logit (without a bias, and before a scale or cap" in found.headline()[-1]

    def test_the_batch_size_changes_nothing_but_rounding(self, llama, tokenizer, texts):
        one, other = (
            predictions(llama, tokenizer, texts, ablations=[5], controls=1, token_budget=budget)
            for budget in (64, 4096)
        )
        for name in LABELS.keys() & one.comparisons["next"].keys():
            for part in ("value", "low", "high"):
                np.testing.assert_allclose(
                    getattr(one.measure(name).value, part),
                    getattr(other.measure(name).value, part),
                    rtol=1e-3, atol=1e-3, err_msg=name,
                )  # fmt: skip

    def test_out_of_memory_a_batch_is_halved(self, llama, tokenizer, texts, monkeypatch):
        whole = predictions(llama, tokenizer, texts, token_budget=256)
        forward, sizes = type(llama).forward, []

        def small(self, *args, **kwargs):
            sizes.append(kwargs["input_ids"].numel())
            if sizes[-1] > 128 and len(kwargs["input_ids"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(llama), "forward", small)
        found = predictions(llama, tokenizer, texts, token_budget=256)
        assert any(size > 128 for size in sizes)
        np.testing.assert_array_equal(found.readings["next"].rows, whole.readings["next"].rows)
        np.testing.assert_array_equal(found.predicted("next", 1)[1], whole.predicted("next", 1)[1])

    def test_published_counts_are_those_that_are_related_to(self, llama, tokenizer, texts):
        other = count_tokens(GivenTexts(texts[:5]), tokenizer)
        found = predictions(llama, tokenizer, texts, frequencies=other)
        own = predictions(llama, tokenizer, texts)
        assert found.corpus.sum() < own.corpus.sum()
        unseen = found.measure("unseen_share").value.value
        assert unseen[0] > own.measure("unseen_share").value.value[0] == 0
        assert found.measure("types").value.value[1] == own.measure("types").value.value[1]


@pytest.fixture(scope="module")
def inhibited(texts, tokenizer):
    """Dimension 7 keeps the most frequent word down, which dimension 8 would have everywhere."""
    model = tiny_model("llama", head="CausalLM", tie_word_embeddings=False)
    counts = count_tokens(GivenTexts(texts), tokenizer)
    frequent = int(np.argmax(np.where(counts.special, 0, counts.counts)))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 7] = 0.5
        model.model.embed_tokens.weight[:, 8] = 0.5
        model.lm_head.weight[:, 7:9] = 0.0
        model.lm_head.weight[frequent] = 0.0
        model.lm_head.weight[frequent, 7] = -30.0
        model.lm_head.weight[frequent, 8] = 20.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[7:9] = 0.0
            layer.mlp.down_proj.weight[7:9] = 0.0
    return model, frequent


class TestPlanted:
    def test_without_the_dimension_the_frequent_word_is_everywhere(
        self, inhibited, tokenizer, texts
    ):
        model, frequent = inhibited
        found = predictions(model, tokenizer, texts, ablations=[7, 11])
        assert found.predicted("next", 2)[0].tolist() == [frequent]
        log = found.measure("mean_log_frequency")
        assert log.difference.low[2] > 0
        assert log.beyond.low[2] > 0
        assert log.difference.low[2] > log.control.high[2]
        assert log.value.value[2] == pytest.approx(np.log1p(found.corpus[frequent]))
        assert found.measure("types").difference.high[2] < 0
        said = next(s for s in found.headline() if s.startswith("7 off (state): "))
        assert ", more frequent tokens than the intact model's (10 other dimensions" in said
        assert "; 1 different token after " in said

    def test_a_random_dimension_does_not_do_that(self, inhibited, tokenizer, texts):
        model, frequent = inhibited
        found = predictions(model, tokenizer, texts, ablations=[7, 11])
        log = found.measure("mean_log_frequency")
        assert log.difference.low[3] < 0 < log.difference.high[3]
        assert log.control.low[3] <= log.difference.value[3] <= log.control.high[3]
        assert frequent not in found.predicted("next", 1)[0]
        assert frequent not in found.predicted("next", 3)[0]

    def test_the_dimensions_that_do_it_are_found_without_ablation(
        self, inhibited, tokenizer, texts
    ):
        model, _ = inhibited
        found = predictions(model, tokenizer, texts)
        difference = found.contributions["next"].difference
        low, high = difference.interval()
        order = np.argsort(-np.abs(difference.value[0]))
        assert set(order[:2]) == {7, 8}
        assert high[0, 7] < 0 < low[0, 8]
        assert "of that, dimension 7 adds \u2212" in found.headline()[-1]

    def test_the_truth_is_what_the_text_has(self, inhibited, tokenizer, texts):
        found = predictions(inhibited[0], tokenizer, texts)
        assert found.measure("types").value.value[0] == (found.corpus > 0).sum()
        assert found.measure("slope").value.value[0] == pytest.approx(1, abs=0.01)
        assert found.measure("spearman").value.value[0] > 0.99
        assert found.measure("unseen_share").value.value[0] == 0


class TestIntervals:
    @pytest.mark.slow
    def test_they_cover_what_more_text_says(self, llama, tokenizer):
        """Of the mean log frequency: 40 samples of 40 documents, the truth from all of them."""
        rng = random.Random(1)
        words = [f"w{min(int(rng.paretovariate(0.9)), 90)}" for _ in range(4000)]
        every = [" ".join(rng.sample(words, rng.randint(5, 40))) for _ in range(1200)]
        counts = count_tokens(GivenTexts(every), tokenizer)
        whole = predictions(llama, tokenizer, every, frequencies=counts)
        true = whole.measure("mean_log_frequency").difference.value[0]
        covered = 0
        for start in range(0, 1200, 40):
            part = predictions(
                llama, tokenizer, every[start : start + 40], frequencies=counts, seed=start
            )
            found = part.measure("mean_log_frequency").difference
            covered += found.low[0] <= true <= found.high[0]
        assert 25 <= covered <= 30

    def test_one_document_has_none(self, llama, tokenizer, texts):
        found = predictions(llama, tokenizer, texts[:1])
        assert np.isnan(found.measure("types").value.low).all()
        assert "Documents fill 1 block only" in found.cautions()[0]
        assert "predictions only" in found.cautions()[1]
        assert "The counts know every true token" in found.cautions()[2]  # they are its own


class TestMasked:
    def test_masked_and_unmasked_tokens_are_read_apart(self, masked_bert, tokenizer, texts):
        found = predictions(masked_bert, tokenizer, texts, task="mlm", ablations=[3], controls=1)
        assert list(found.readings) == ["masked", "unmasked"]
        true = np.concatenate([tokenizer(t, add_special_tokens=False).input_ids for t in texts])
        assert found.readings["unmasked"].rows.sum() == len(true)
        assert 0.1 < found.readings["masked"].rows.sum() / len(true) < 0.2
        predicted = []
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            with torch.inference_mode():
                predicted += masked_bert(ids).logits[0, 1:-1].argmax(-1).tolist()
        for series, expected in ((0, true), (1, predicted)):
            ids, times = found.predicted("unmasked", series)
            np.testing.assert_array_equal(times, np.bincount(expected, minlength=200)[ids])
            assert times.sum() == len(expected)
        assert "are not those of the hidden states" in " ".join(found.cautions())

    def test_masks_are_those_of_the_evaluation(self, masked_bert, tokenizer, texts):
        from outdim import evaluate

        found = predictions(masked_bert, tokenizer, texts, task="mlm", mask_share=0.4, seed=2)
        other = evaluate(masked_bert, tokenizer, texts, task="mlm", mask_share=0.4, seed=2)
        assert found.readings["masked"].rows.sum() == other.tokens.sum()
        shift = found.measure("mean_log_frequency").difference.value[0]
        assert -shift == pytest.approx(other.value("frequency_shift"), rel=1e-6)


class TestPartsOfSpeech:
    def test_the_confusion_is_that_of_the_words(self, llama, tokenizer, few):
        found = predictions(llama, tokenizer, few, ablations=[5], controls=1, tagger=OddAndEven())
        names = tokenizer.convert_ids_to_tokens(range(200))

        def tag(i: int) -> str:
            if i in tokenizer.all_special_ids and i != tokenizer.unk_token_id:
                return "special"
            if names[i][0] != "w" or not names[i][1:].isdigit():
                return "X"  # or a part of a word, which belongs to the word before it
            return ("VERB", "NOUN")[int(names[i][1:]) % 2]

        table = found.tables()["predictions_lm_pos"].to_pandas()
        for variant, context in (("intact", None), ("5 off (state)", [5])):
            true, predicted, _ = plain(llama, tokenizer, few, context)
            sure = [not names[i].startswith("##") for i in predicted]
            of_variant = table[table.variant == variant]
            assert of_variant["count"].sum() == len(true)
            for one in ("VERB", "NOUN"):
                for other in ("VERB", "NOUN", "special"):
                    expected = sum(
                        tag(t) == one and tag(p) == other
                        for t, p, s in zip(true, predicted, sure, strict=True)
                        if s
                    )
                    own = of_variant[(of_variant.true == one) & (of_variant.predicted == other)]
                    got = int(own["count"].sum())
                    glued = sum(not s for s in sure)
                    assert expected <= got <= expected + glued
        rows = table[table.variant == "intact"].groupby("true").share.sum()
        np.testing.assert_allclose(rows, 1)
        agreement = found.measure("pos_agreement").value.value
        diagonal = table[(table.variant == "intact") & (table.true == table.predicted)]
        assert agreement[1] == pytest.approx(diagonal["count"].sum() / len(true))
        assert "has the part of speech of the true word" in found.headline()[-1]

    def test_a_class_in_few_blocks_has_no_interval_and_a_reason(self, llama, tokenizer, few):
        class Ah(OddAndEven):
            """As its base, and w1 is an interjection where a text begins with it."""

            def __call__(self, texts):
                texts = list(texts)
                for text, words in zip(texts, super().__call__(texts), strict=True):
                    if text.startswith("w1 "):
                        words[0] = words[0]._replace(tag="INTJ")
                    yield words

        texts = [text for text in few if not text.startswith("w1 ")]
        texts = [f"w1 {text}" if i < 2 else text for i, text in enumerate(texts)]
        found = predictions(llama, tokenizer, texts, ablations=[5], controls=0, tagger=Ah())
        table = found.tables()["predictions_lm_pos"].to_pandas()
        rare = table[table.true == "INTJ"]
        assert len(rare)
        assert rare.blocks.between(1, 2).all()
        assert rare[["share_low", "share_high", "difference_low"]].isna().all(axis=None)
        assert rare.reason.str.endswith("of documents, an interval needs 5").all()
        other = table[table.true == "NOUN"]
        assert (other.blocks >= 5).all()
        assert other.share_low.notna().all()
        assert (other.reason == "").all()

    def test_predictions_without_a_part_of_speech_are_told(
        self, llama, tokenizer, few, monkeypatch
    ):
        lengths = sorted(len(text) for text in few)
        assert lengths[-2] < lengths[-1]
        monkeypatch.setattr("outdim.analysis.parts_of_speech.LONGEST", lengths[-2])
        longest = max(few, key=len)
        number = len(tokenizer(longest, add_special_tokens=False).input_ids)
        found = predictions(llama, tokenizer, few, controls=0, tagger=OddAndEven())
        rows = found.tables()["predictions_lm"].to_pandas()
        agreement = rows[rows.measure == "pos_agreement"]
        assert agreement.reason.tolist() == [f"{number} tokens in documents that are not tagged"]
        assert (rows[rows.measure != "pos_agreement"].reason == "").all()
        whole = int(found.readings["next"].rows.sum())
        (said,) = [said for said in found.cautions() if "part of speech" in said]
        assert said.startswith(f"{number} predictions of {whole} (the next token) have no part of")

    def test_a_variant_without_logits_in_most_blocks_has_no_interval(self):
        found = planted()
        reading = found.readings["next"]
        reading.counts[4:, 2] = reading.classes[4:, 1] = 0
        reading.amiss[4:, 1] = reading.untagged[4:, 1] = reading.rows[4:]
        table = found.tables()["predictions_lm"].to_pandas().set_index("variant")
        own, intact = table.loc["507 off (state)"], table.loc["intact"]
        assert set(own.measure) == set(LABELS)
        assert own[["value_low", "difference_low", "beyond_low"]].isna().all(axis=None)
        assert (own.blocks == 4).all()
        assert own.reason.str.contains("not finite; in 4 blocks of documents").all()
        assert intact.value_low.notna().all()
        assert (intact.blocks == 20).all()


class TestTables:
    def test_rows_are_of_every_measure_reading_and_variant(self, llama, tokenizer, texts):
        found = predictions(llama, tokenizer, texts, ablations=[5, [3, 4]], controls=3)
        tables = found.tables()
        assert list(tables) == [f"predictions_lm{end}" for end in ("", "_tokens", "_dims")]
        rows = tables["predictions_lm"].to_pandas()
        assert len(rows) == 7 * (1 + 1 + 2 + 6) + 9  # the gap of logits has no truth
        types = rows[rows.measure == "types"].set_index("variant")
        own = types.loc["5 off (state)"]
        controls = types[(types.role == "control") & (types.group == own.group)]
        assert len(controls) == 3
        assert own.difference == own.value - types.loc["intact"].value
        assert own.control == pytest.approx(controls.difference.mean())
        assert own.control_low == controls.difference.min()
        assert own.control_high == controls.difference.max()
        assert own.beyond == pytest.approx(own.difference - own.control)
        assert own.value_low < own.value < own.value_high
        assert types.loc[["truth", "intact"]].beyond.isna().all()
        tokens = tables["predictions_lm_tokens"].to_pandas()
        for name, of_variant in tokens.groupby("variant"):
            assert len(of_variant) == types.loc[name].value
            assert of_variant["count"].is_monotonic_decreasing
            assert of_variant["count"].sum() == types.loc[name].tokens
        dims = tables["predictions_lm_dims"].to_pandas()
        assert len(dims) == 32 * 9
        assert dims.groupby("variant").share.sum().round(9).eq(1).all()

    def test_logits_that_are_not_finite_count_for_nothing_and_are_said(self, tokenizer, texts):
        model = tiny_model("llama", head="CausalLM")
        factor = Ablation([5], mode="scale", value=1e38)
        found = predictions(model, tokenizer, texts, ablations=[factor], controls=0)
        rows = found.tables()["predictions_lm"].to_pylist()
        own = next(row for row in rows if row["role"] == "ablated")
        assert own["value"] is None or np.isnan(own["value"])
        assert "tokens with logits that are not finite" in own["reason"]
        assert any("are not finite, and count for nothing" in said for said in found.cautions())
        intact = next(row for row in rows if row["role"] == "intact")
        assert np.isfinite(intact["value"])
        assert intact["reason"] == ""

    def test_where_logits_are_not_linear_nothing_is_said_of_dimensions(self, tokenizer, texts):
        model = tiny_model("gpt2", head="CausalLM")

        class Doubled(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner, self.weight = inner, inner.weight

            def forward(self, states):
                return self.inner(states).relu()

        model.lm_head = Doubled(model.lm_head)
        found = predictions(model, tokenizer, texts)
        assert found.contributions == {}
        assert "predictions_lm_dims" not in found.tables()
        assert any("logits are not linear" in said for said in found.cautions())
        assert found.measure("types").value.value[1] > 0


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"ablations": [32]}, ArgumentError, "dims: expected .*31"),
        ({"task": "mlm"}, ArgumentError, "head: expected 'lm' for LlamaForCausalLM, got 'mlm'"),
        ({"task": "x"}, ArgumentError, "task: expected 'lm' or 'mlm', got 'x'"),
        ({"mask_share": 0.2}, ArgumentError, "mask_share, masking: they go with task='mlm' alone"),
        ({"texts": []}, DataError, "texts: expected at least one document"),
        ({"texts": [__file__]}, ArgumentError, "texts: expected documents, got names of files"),
        ({"seed": -1}, ArgumentError, "seed: expected 0 or more, got -1"),
        ({"controls": -1}, ArgumentError, "controls: expected 0 or more"),
    ],
)
def test_bad_arguments_are_named(llama, tokenizer, texts, arguments, error, said):
    with pytest.raises(error, match=said):
        predictions(llama, tokenizer, **{"texts": texts, **arguments})


def test_a_share_is_asked_for(masked_bert, tokenizer, texts):
    with pytest.raises(ArgumentError, match="mask-share: expected more than 0 and at most 1"):
        predictions(masked_bert, tokenizer, texts, task="mlm", mask_share=0)


def test_nothing_to_predict_is_an_error(tokenizer):
    model = tiny_model("llama", head="CausalLM")
    other = tiny_tokenizer()
    other.backend_tokenizer.post_processor = None
    with pytest.raises(DataError, match="no token to predict"):
        predictions(model, other, ["w1", "w2"])
