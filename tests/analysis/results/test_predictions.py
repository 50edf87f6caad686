"""Predicted tokens in tables: rows, intervals, parts of speech, and what is not known."""

import random
from types import MappingProxyType

import numpy as np
import pytest
import torch
from analysis.test_predictions import plain
from outdim import Ablation, predictions
from outdim.analysis.parts_of_speech import Word
from outdim.analysis.results.predictions import LABELS
from outdim.corpus import GivenTexts
from outdim.counting import count_tokens
from report.sections.test_predictions import planted
from tiny import tiny_model


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
        assert "The counts are this text's own" in found.cautions()[2]
        assert found.headline()[0].endswith("; how frequent they are is not known.")
        rows = found.tables()["predictions_lm"].to_pandas()
        of_places = rows[rows.measure.isin(["mean_log_frequency", "unseen_share"])]
        assert of_places.value.isna().all()
        assert of_places.reason.str.endswith("no other documents to count tokens in").all()


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
