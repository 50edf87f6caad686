"""Evaluation: the numbers of plain transformers, planted truths found, absent ones not."""

import math

import numpy as np
import pytest
import torch
from outdim import Ablation, ablate, open_corpus
from outdim.analysis.evaluate import evaluate
from outdim.analysis.results.evaluation import METRICS, SUMS
from outdim.corpus import GivenTexts
from outdim.counting import count_tokens
from outdim.errors import ArgumentError, DataError
from tiny import tiny_model, tiny_texts, tiny_tokenizer

TEMPLATE = 2  # [CLS] and [SEP]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return tiny_texts(24, 40)


def windows(tokenizer, text: str, length: int) -> list[list[int]]:
    """Template, part of the text, template."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    room = length - TEMPLATE
    return [[2, *ids[i : i + room], 3] for i in range(0, len(ids), room)]


def causal(model, tokenizer, texts, length: int) -> dict[str, np.ndarray]:
    """Sums of the loss, right tokens, and their number, for each document, one window at a time."""
    found = []
    for text in texts:
        loss = right = n = 0.0
        for ids in windows(tokenizer, text, length):
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0].double()
            logs = logits.log_softmax(-1)
            for t in range(1, len(ids) - 1):  # not the [SEP] of the template
                loss -= logs[t - 1, ids[t]].item()
                right += int(logits[t - 1].argmax()) == ids[t]
                n += 1
        found.append((loss, right, n))
    return dict(zip(("loss", "correct", "tokens"), np.array(found).T, strict=True))


def sums(evaluation, name: str, variant: int = 0) -> np.ndarray:
    return evaluation.sums[:, variant, SUMS.index(name)]


class TestCausal:
    def test_the_numbers_are_those_of_transformers(self, llama, tokenizer, texts):
        found = evaluate(
            llama, tokenizer, texts, ablations=[5, Ablation([3, 4], [1])], controls=2, max_length=24
        )
        for variant, context in enumerate([None, [5], [3, 4]]):
            if context is None:
                expected = causal(llama, tokenizer, texts, 24)
            else:
                layers = found.variants[variant].ablation.layers
                with ablate(llama, context, layers):
                    expected = causal(llama, tokenizer, texts, 24)
            np.testing.assert_array_equal(found.tokens, expected["tokens"])
            np.testing.assert_allclose(sums(found, "loss", variant), expected["loss"], rtol=1e-6)
            np.testing.assert_array_equal(sums(found, "correct", variant), expected["correct"])
            mean = expected["loss"].sum() / expected["tokens"].sum()
            assert found.value("loss", variant) == pytest.approx(mean, rel=1e-6)
            assert found.value("perplexity", variant) == pytest.approx(math.exp(mean), rel=1e-5)
        assert (found.loss, found.perplexity) == (found.value("loss"), found.value("perplexity"))
        assert found.accuracy == found.value("accuracy")

    def test_bits_per_byte_are_of_the_bytes_of_the_text(self, llama, tokenizer, texts):
        found = evaluate(llama, tokenizer, texts)  # every document is one window
        expected = causal(llama, tokenizer, texts, 512)
        size = sum(len(text.encode()) for text in texts)  # [CLS] is there to predict the first from
        bits = expected["loss"].sum() / math.log(2) / size
        assert found.value("bits_per_byte") == pytest.approx(bits, rel=1e-6)
        assert found.value("byte_perplexity") == pytest.approx(2**bits, rel=1e-6)

    def test_what_stands_beside_the_loss(self, llama, tokenizer, texts):
        found = evaluate(llama, tokenizer, texts[:8], ablations=[5], controls=0)
        counts = np.log1p(count_tokens(GivenTexts(texts[:8]), tokenizer).counts)
        kl = entropy = agreement = shift = n = 0
        for text in texts[:8]:
            ids = torch.tensor(windows(tokenizer, text, 512))
            with torch.inference_mode():
                intact = llama(ids).logits[0].double().log_softmax(-1)[:-2]
                with ablate(llama, [5]):
                    own = llama(ids).logits[0].double().log_softmax(-1)[:-2]
            kl += (intact.exp() * (intact - own)).sum().item()
            entropy -= (own.exp() * own).sum().item()
            agreement += (intact.argmax(-1) == own.argmax(-1)).sum().item()
            shift += (counts[own.argmax(-1)] - counts[ids[0, 1:-1]]).sum()
            n += len(own)
        for name, total in (("kl", kl), ("entropy", entropy), ("agreement", agreement)):
            assert found.value(name, 1) == pytest.approx(total / n, rel=1e-4), name
        assert found.value("frequency_shift", 1) == pytest.approx(shift / n, rel=1e-6)
        assert found.value("kl") == 0
        assert found.value("top_agreement") == found.value("agreement") == 1

    def test_within_an_ablation_it_is_that_of_the_ablated_model(self, llama, tokenizer, texts):
        variant = evaluate(llama, tokenizer, texts, ablations=[5], controls=0).value("loss", 1)
        intact = evaluate(llama, tokenizer, texts).loss
        with ablate(llama, 5):
            inside = evaluate(llama, tokenizer, texts).loss
        assert inside == pytest.approx(variant, rel=1e-12)
        assert inside != intact
        assert evaluate(llama, tokenizer, texts).loss == intact

    def test_the_batch_size_changes_no_more_than_rounding(self, llama, tokenizer, texts):
        one, other = (
            evaluate(llama, tokenizer, texts, ablations=[5], controls=1, token_budget=budget)
            for budget in (64, 4096)
        )
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-5, atol=1e-5)

    def test_few_states_at_a_time_are_the_same(self, llama, tokenizer, texts, monkeypatch):
        whole = evaluate(llama, tokenizer, texts, ablations=[5, 6], controls=2)
        monkeypatch.setattr("outdim.analysis.variants.runner._STATE_BYTES", 1)
        np.testing.assert_array_equal(
            evaluate(llama, tokenizer, texts, ablations=[5, 6], controls=2).sums, whole.sums
        )

    def test_out_of_memory_a_batch_is_halved(self, llama, tokenizer, texts, monkeypatch):
        whole = evaluate(llama, tokenizer, texts, token_budget=256)
        forward, sizes = type(llama).forward, []

        def small(self, *args, **kwargs):
            sizes.append(kwargs["input_ids"].numel())
            if sizes[-1] > 128 and len(kwargs["input_ids"]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(type(llama), "forward", small)
        found = evaluate(llama, tokenizer, texts, token_budget=256)
        assert any(size > 128 for size in sizes)
        np.testing.assert_array_equal(found.tokens, whole.tokens)
        np.testing.assert_allclose(found.sums, whole.sums, rtol=1e-5, atol=1e-5)


class TestMasked:
    def test_masks_do_not_depend_on_batches_variants_or_order(self, masked_bert, tokenizer, texts):
        common = {"task": "mlm", "seed": 3}
        one = evaluate(masked_bert, tokenizer, texts, token_budget=64, **common)
        other = evaluate(masked_bert, tokenizer, texts, ablations=[5], controls=1, **common)
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.sums[:, 0], other.sums[:, 0], rtol=1e-5, atol=1e-5)
        turned = evaluate(masked_bert, tokenizer, texts[::-1], **common)
        np.testing.assert_array_equal(turned.tokens, one.tokens[::-1])
        np.testing.assert_allclose(turned.sums[::-1], one.sums, rtol=1e-5, atol=1e-5)
        again = evaluate(masked_bert, tokenizer, texts, task="mlm", seed=4)
        assert again.loss != pytest.approx(one.loss, rel=1e-3)

    def test_a_share_is_masked(self, masked_bert, tokenizer, texts):
        tokens = sum(len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts)
        for share in (0.15, 0.5, 1.0):
            found = evaluate(masked_bert, tokenizer, texts, task="mlm", mask_share=share)
            error = math.sqrt(share * (1 - share) / tokens)
            assert abs(found.tokens.sum() / tokens - share) <= 4 * error

    def test_pseudo_likelihood_masks_the_rest_of_the_word(self, masked_bert, tokenizer):
        text = "w1 abc w7 zz9 w2"  # abc is a ##b ##c
        found = evaluate(masked_bert, tokenizer, [text], task="mlm", masking="within_word_l2r")
        (ids,) = windows(tokenizer, text, 512)
        names = tokenizer.convert_ids_to_tokens(ids)
        assert names[1:5] == ["w1", "a", "##b", "##c"]
        loss = 0.0
        for t in range(1, len(ids) - 1):
            masked, end = list(ids), t
            while end + 1 < len(ids) and names[end + 1].startswith("##"):
                end += 1
            masked[t : end + 1] = [tokenizer.mask_token_id] * (end + 1 - t)
            with torch.inference_mode():
                logs = masked_bert(torch.tensor([masked])).logits[0, t].double().log_softmax(-1)
            loss -= logs[ids[t]].item()
        assert found.tokens.tolist() == [len(ids) - TEMPLATE]
        assert sums(found, "loss")[0] == pytest.approx(loss, rel=1e-6)

    def test_pseudo_likelihood_of_long_documents_is_that_of_their_windows(
        self, masked_bert, tokenizer, texts
    ):
        found = evaluate(
            masked_bert, tokenizer, texts[:3], task="mlm", masking="within_word_l2r", max_length=12
        )
        count = [len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts[:3]]
        assert found.tokens.tolist() == count

    def test_an_outlier_that_matters_is_told_from_random_dimensions(self, masked_bert, tokenizer):
        found = evaluate(
            masked_bert,
            tokenizer,
            tiny_texts(40, 60),
            task="mlm",
            ablations=[Ablation([3], at="parameters"), Ablation([9], at="parameters")],
        )
        loss = found.comparison("loss")
        assert loss.gate[1] == "passed"
        assert loss.beyond.low[1] > 0
        assert loss.gate[2] != "passed"
        assert loss.q[1] < 0.01 < loss.q[2]
        assert found.ranking == [1, 2]
        assert found.headline()[0].startswith("3 off (parameters): raises the loss by")
        assert "surely more than five times the size" in found.headline()[0]


@pytest.fixture(scope="module")
def rescaled():
    """A large constant dimension that no norm passes on: it acts through the denominator alone."""
    model = tiny_model("llama", head="CausalLM")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 7] = 30.0
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight[7] = 0.0
    return model


class TestPlanted:
    def test_each_sense_of_disabling_does_what_it_was_built_to_do(self, rescaled, tokenizer, texts):
        senses = [Ablation([7], at=at) for at in ("readers", "state", "denominator")]
        found = evaluate(rescaled, tokenizer, texts, ablations=senses)
        harm = found.comparison("loss").difference
        kl = [found.value("kl", i) for i in range(4)]
        assert harm.value[1] == pytest.approx(0, abs=1e-9)
        assert kl[1] == pytest.approx(0, abs=1e-9)
        # The final norm takes the state as well, so that both undo the same denominators.
        assert min(kl[2:]) > 0.05
        assert found.comparison("kl").beyond.low[2] > 0

    def test_a_dose_curve_rises_with_the_dose(self, rescaled, tokenizer, texts):
        doses = [Ablation([7], mode="scale", value=dose) for dose in (0.9, 0.6, 0.3, 0.0)]
        found = evaluate(rescaled, tokenizer, texts, ablations=doses, controls=0)
        kl = [found.value("kl", i) for i in range(5)]
        assert kl == sorted(kl)
        off = evaluate(rescaled, tokenizer, texts, ablations=[7], controls=0)
        assert off.value("kl", 1) == pytest.approx(kl[-1], rel=1e-9)
        table = found.tables()["evaluate_lm"]
        assert table["dose"].to_pylist()[:5] == [None, 0.9, 0.6, 0.3, 0.0]


class TestTable:
    def test_rows_are_of_every_metric_and_variant(self, llama, tokenizer, texts):
        found = evaluate(llama, tokenizer, texts, ablations=[5, [3, 4]], controls=3)
        table = found.tables()["evaluate_lm"].to_pandas()
        assert len(table) == len(METRICS) * (1 + 2 + 2 * 3)
        loss = table[table.metric == "loss"].set_index("variant")
        own = loss.loc["5 off (state)"]
        controls = loss[(loss.role == "control") & (loss.group == own.group)]
        assert len(controls) == 3
        assert all(len(dims) == 1 and dims[0] not in (3, 4, 5) for dims in controls.dims)
        assert own.difference == pytest.approx(own.value - loss.loc["intact"].value)
        assert own.control == pytest.approx(controls.difference.mean())
        assert own.beyond == pytest.approx(own.difference - own.control)
        assert own.low < own.value < own.high
        assert own.difference_low <= own.difference <= own.difference_high
        assert own.documents == 24
        assert own.tokens == found.tokens.sum()
        assert loss.loc["intact"].isna()[["difference", "beyond", "p"]].all()

    def test_a_random_ablation_of_a_random_model_is_no_finding(self, llama, tokenizer, texts):
        found = evaluate(llama, tokenizer, texts, ablations=[5, 9, 11, 20])
        assert (found.comparison("loss").q[1:5] > 0.001).all()
        assert "passed" not in found.comparison("loss").gate[1:5]

    def test_few_documents_and_no_controls_are_warned_of(self, llama, tokenizer, texts):
        found = evaluate(llama, tokenizer, texts[:1], ablations=[5], controls=0)
        assert found.cautions() == [
            "There is one document only: no interval can be given.",
            "There are no controls: what random dimensions would do is not known.",
        ]
        few = evaluate(llama, tokenizer, texts[:9], ablations=[5], controls=2)
        assert "The intervals rest on 9 documents" in few.cautions()[0]
        assert few.cautions()[1].startswith("2 controls say little")

    @pytest.mark.parametrize(
        ("dims", "how", "said"),
        [
            ([5], {"controls": 1}, "; 1 other dimension changes it by "),
            ([5], {"controls": 2}, "; 2 other dimensions, each alone, change it by "),
            ([5, 6], {"controls": 1}, "; 1 set of 2 other dimensions changes it by "),
            (
                [5],
                {"controls": 2, "control_kind": "random_positions"},
                "; 2 sets of other dimensions, others in each layer, change it by ",
            ),
            (
                [5],
                {"control_kind": "largest_gamma"},
                "; 1 set of other dimensions, others in each layer, changes it by ",
            ),
        ],
    )
    def test_controls_are_said_by_kind_and_number(self, llama, tokenizer, texts, dims, how, said):
        found = evaluate(llama, tokenizer, texts[:3], ablations=[dims], **how)
        assert said in found.headline()[0]
        one = how.get("controls", 1) == 1
        assert found.cautions()[1].startswith("1 control says" if one else "2 controls say")
        assert ("on average" in found.headline()[0]) is not one

    def test_a_logit_of_minus_infinity_is_counted_where_the_loss_is_finite(self, tokenizer):
        model = tiny_model("gpt2", head="CausalLM", tie_word_embeddings=False)
        model.lm_head = torch.nn.Linear(32, model.config.vocab_size)
        with torch.no_grad():
            model.lm_head.bias[tokenizer.convert_tokens_to_ids("w40")] = -torch.inf
        found = evaluate(model, tokenizer, ["w1 w2 w3", "w4 w5"])
        assert math.isfinite(found.loss)
        assert math.isnan(found.value("entropy"))
        rows = found.tables()["evaluate_lm"].to_pylist()
        assert {row["reason"] for row in rows} == {"5 tokens with logits that are not finite"}

    def test_logits_that_are_not_finite_are_counted_and_said(self, tokenizer, texts):
        model = tiny_model("llama", head="CausalLM")
        factor = Ablation([5], mode="scale", value=1e38)
        found = evaluate(model, tokenizer, texts, ablations=[factor], controls=0)
        table = found.tables()["evaluate_lm"].to_pylist()
        assert math.isnan(found.value("loss", 1))
        assert "tokens with logits that are not finite" in table[1]["reason"]
        assert table[1]["p"] is None
        assert "Some logits are not finite" in found.cautions()[-1]
        assert math.isfinite(found.loss)


class TestTexts:
    def test_files_a_corpus_and_documents_are_the_same(self, llama, tokenizer, texts, tmp_path):
        path = tmp_path / "texts.txt"
        path.write_text("\n".join(texts) + "\n")
        given = evaluate(llama, tokenizer, texts)
        for source in (path, str(path), open_corpus(path)):
            np.testing.assert_array_equal(evaluate(llama, tokenizer, source).sums, given.sums)

    def test_a_document_may_be_longer_than_a_name_of_a_file(self, llama, tokenizer):
        given = ["w1 w2 " * 200]
        assert evaluate(llama, tokenizer, given, controls=0).read["documents"] == 1

    def test_documents_without_anything_to_predict_are_counted(self, masked_bert, tokenizer, texts):
        found = evaluate(masked_bert, tokenizer, [*texts, "w1", "  "], task="mlm", mask_share=0.05)
        assert found.read["documents"] == len(texts) + 1
        assert found.read["without"] == found.read["documents"] - len(found.tokens) > 0
        assert found.read["excluded"] == {"blank": 1}

    def test_given_frequencies_are_those_of_the_shift(self, llama, tokenizer, texts):
        own = evaluate(llama, tokenizer, texts[:5])
        frequencies = count_tokens(GivenTexts(texts), tokenizer)
        other = evaluate(llama, tokenizer, texts[:5], frequencies=frequencies)
        assert other.value("frequency_shift") != own.value("frequency_shift")
        assert other.loss == own.loss


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"ablations": [32]}, ArgumentError, "dims: expected .*31"),
        ({"ablations": [Ablation([3], [9])]}, ArgumentError, "layers: expected"),
        ({"ablations": [3], "controls": -1}, ArgumentError, "controls: expected 0 or more"),
        ({"task": "mlm"}, ArgumentError, "head: expected 'lm' for LlamaForCausalLM, got 'mlm'"),
        ({"task": "x"}, ArgumentError, "task: expected 'lm' or 'mlm', got 'x'"),
        ({"texts": []}, DataError, "texts: expected at least one document"),
        ({"texts": ["", " "]}, DataError, "no documents"),
        ({"texts": [b"w1 w2"]}, ArgumentError, "texts: expected strings, got bytes"),
        ({"texts": [__file__]}, ArgumentError, "texts: expected documents, got names of files"),
        ({"draws": 1}, ArgumentError, "draws: expected at least 2"),
        ({"seed": -1}, ArgumentError, "seed: expected 0 or more, got -1"),
        (
            {"ablations": [Ablation([3], mode="scale", value=[0.5])]},
            ArgumentError,
            r"controls: none can stand beside 3 times factors \(state\): .*; pass controls=0",
        ),
        (
            {"ablations": [Ablation([[3], [4]], [1, 2])]},
            ArgumentError,
            "controls: none .* others in each layer; pass controls=0",
        ),
        ({"max_length": 2}, ArgumentError, "max_length"),
    ],
)
def test_bad_arguments_are_named(llama, tokenizer, texts, arguments, error, said):
    with pytest.raises(error, match=said):
        evaluate(llama, tokenizer, **{"texts": texts, **arguments})


def test_without_controls_dimensions_may_have_values_of_their_own(llama, tokenizer, texts):
    asked = [Ablation([3], mode="scale", value=[0.5]), Ablation([[3], [4]], [1, 2])]
    found = evaluate(llama, tokenizer, texts[:4], ablations=asked, controls=0)
    assert [variant.ablation for variant in found.variants[1:]] == asked
    assert (found.comparison("kl").value.value[1:] > 0).all()


def test_a_share_of_masks_without_effect_is_refused(masked_bert, tokenizer, texts):
    given = {"task": "mlm", "masking": "within_word_l2r", "mask_share": 0.5}
    with pytest.raises(ArgumentError, match="mask-share: it goes with random masking alone"):
        evaluate(masked_bert, tokenizer, texts, **given)


def test_an_unknown_masking_is_named(masked_bert, tokenizer, texts):
    said = "masking: expected random or within_word_l2r, got 'foo'"
    with pytest.raises(ArgumentError, match=said):
        evaluate(masked_bert, tokenizer, texts, task="mlm", masking="foo")


def test_models_that_cannot_predict_are_refused(tokenizer, texts, masked_bert):
    with pytest.raises(ArgumentError, match="expected a language model"):
        evaluate(tiny_model("llama"), tokenizer, texts)
    with pytest.raises(ArgumentError, match=r"head: expected 'mlm'|expected a language model"):
        evaluate(masked_bert, tokenizer, texts)
    encoder = tiny_model("bert", head="CausalLM")
    with pytest.raises(ArgumentError, match="its tokens see those after them"):
        evaluate(encoder, tokenizer, texts)
    training = tiny_model("llama", head="CausalLM").train()
    with pytest.raises(ArgumentError, match="expected eval mode"):
        evaluate(training, tokenizer, texts)


def test_a_text_of_which_nothing_is_masked_has_nothing_to_predict(masked_bert, tokenizer):
    with pytest.raises(DataError, match="no token to predict"):
        evaluate(masked_bert, tokenizer, ["w1"], task="mlm", mask_share=1e-6)


def test_a_tokenizer_without_a_mask_is_refused(masked_bert, texts):
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(DataError, match="expected one with a mask token"):
        evaluate(masked_bert, tokenizer, texts, task="mlm")
