"""Predicted tokens: the numbers of plain transformers, planted truths found, absent ones not."""

import numpy as np
import pytest
import torch
from outdim import ablate, predictions
from outdim.analysis.results.predictions import LABELS
from outdim.corpus import GivenTexts
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError
from outdim.stats.jackknife import block_of
from outdim.tokens.pieces import document_key
from tiny import tiny_model, tiny_tokenizer


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
        counts = count_tokens(GivenTexts(few), tokenizer)
        found = predictions(
            llama, tokenizer, few, ablations=[5, [3, 4]], controls=2, frequencies=counts
        )
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
        for one in (found, own):  # and what no other document has
            assert one.measure("unseen_share").value.value[0] > 0
        assert found.measure("types").value.value[1] == own.measure("types").value.value[1]
        assert "The counts are this text's own" in " ".join(own.cautions())
        assert "The counts are this text's own" not in " ".join(found.cautions())

    def test_by_its_own_counts_a_place_is_judged_by_other_documents(self, llama, tokenizer, few):
        found = predictions(llama, tokenizer, few, ablations=[5], controls=1)
        blocks = [block_of(document_key(text)) for text in few]
        assert found.own_counts
        counts = [np.zeros(200) for _ in range(20)]
        for text, block in zip(few, blocks, strict=True):
            counts[block] += np.bincount(plain(llama, tokenizer, [text])[0], minlength=200)
        for series, context in ((0, None), (1, None), (2, [5])):
            logs = []
            for text, block in zip(few, blocks, strict=True):
                true, predicted, _ = plain(llama, tokenizer, [text], context)
                others = np.where(found.corpus > 0, sum(counts) - counts[block], 0)
                logs += np.log1p(others)[predicted if series else true].tolist()
            own = found.measure("mean_log_frequency").value.value[series]
            assert own == pytest.approx(np.mean(logs))
        assert "the mean of log(1 + count in the other documents)" in found.headline()[0]
        assert "slope against the corpus" not in found.headline()[1]


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
        count = found.corpus[frequent]
        assert np.log1p(0.8 * count) < log.value.value[2] < np.log1p(count)  # of other documents
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

        counts = count_tokens(GivenTexts(texts), tokenizer)
        how = {"task": "mlm", "mask_share": 0.4, "seed": 2, "frequencies": counts}
        found = predictions(masked_bert, tokenizer, texts, **how)
        other = evaluate(masked_bert, tokenizer, texts, **how)
        assert found.readings["masked"].rows.sum() == other.tokens.sum()
        shift = found.measure("mean_log_frequency").difference.value[0]
        assert -shift == pytest.approx(other.value("frequency_shift"), rel=1e-6)


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
