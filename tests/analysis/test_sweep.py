"""Sweeps: planted dimensions found, the numbers of the same ablations alone, bad words refused."""

import json

import numpy as np
import pytest
import torch
from outdim import Ablation
from outdim.analysis.evaluate import evaluate
from outdim.analysis.inputs import Inputs
from outdim.analysis.results.evaluation import SUMS
from outdim.analysis.results.swept import Sweep
from outdim.analysis.sweep import sweep
from outdim.analysis.sweeps.grid import Grid, grid
from outdim.analysis.sweeps.options import GridOptions
from outdim.errors import ArgumentError, DataError
from outdim.models.prefix import PrefixForward
from tiny import LAYERS, tiny_model, tiny_texts

PLANTED = 7


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return tiny_texts(30, 40)


@pytest.fixture(scope="module")
def llama():
    """Predicts by one dimension: its logits say little else."""
    model = tiny_model("llama", head="CausalLM", hidden_size=16, num_attention_heads=2)
    for layer in model.model.layers:  # what it adds is next to nothing
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.data *= 0.01
    model.model.embed_tokens.weight.data[:, PLANTED] = 4.0  # of all tokens: it carries the bias
    common = torch.tensor([[float(1 + (10 <= token < 30)) for token in range(200)]])
    model.lm_head.weight.data *= 0.1
    model.lm_head.weight.data[:, PLANTED] = common
    return model


class TestNumbers:
    def test_a_planted_dimension_is_the_worst_everywhere(self, llama, tokenizer, texts):
        found = sweep(llama, tokenizer, texts, layers=["all", "each"])
        assert found.harm().shape == (1 + LAYERS, 16)
        assert (np.abs(found.harm()).argmax(1) == PLANTED).all()
        assert {found.grid.sets[i - 1] for _, i in found.sure(1) + found.sure(-1)} >= {(PLANTED,)}

    @pytest.mark.parametrize(
        "at",
        ["state", *(pytest.param(at, marks=pytest.mark.slow) for at in ("readers", "denominator"))],
    )
    def test_a_variant_is_the_same_ablation_alone(self, llama, tokenizer, texts, at):
        found = sweep(
            llama, tokenizer, texts, dims=["2-4", "6,7"], layers=["all", "each", "2-3"], at=at,
            controls=0, max_length=24, token_budget=256,
        )  # fmt: skip
        places = [None, [1], [2], [3], [4], [2, 3]]
        asked = [Ablation(d, p, at) for p in places for d in ([2], [3], [4], [6, 7])]
        alone = evaluate(
            llama, tokenizer, texts, ablations=asked, controls=0, max_length=24, token_budget=256
        )
        whole = np.concatenate([one.sums[:, 1:] for one in found.places], 1)
        for name, exact in (("loss", False), ("kl", False), ("correct", True), ("agreement", True)):
            column = SUMS.index(name)
            own, expected = whole[..., column], alone.sums[:, 1:, column]
            if exact:  # but where two logits are the same
                assert np.abs(own - expected).sum() <= 2
            else:  # float32 term by term
                bound = 2e-6 * found.places[0].tokens[:, None]
                assert (np.abs(own - expected) < bound).all()
        # To the bit: a sweep of one; in closed form but for the last digit of float64.
        for place, dims in ((0, "3"), (4, "6,7"), (5, "2")):
            words = ["all", "1", "2", "3", "4", "2-3"][place]
            one = sweep(
                llama, tokenizer, texts, dims=[dims], layers=[words], at=at, controls=0,
                max_length=24, token_budget=256,
            )  # fmt: skip
            number = 1 + ["2", "3", "4", "6,7"].index(dims)
            np.testing.assert_allclose(
                one.places[0].sums[:, 1],
                found.places[place].sums[:, number],
                rtol=1e-13 if place == 4 else 0,
            )

    @pytest.mark.slow
    def test_variants_side_by_side_are_the_same_up_to_rounding(self, llama, tokenizer, texts):
        one, other = (
            sweep(llama, tokenizer, texts, layers="each", variants_at_once=size) for size in (1, 5)
        )
        for left, right in zip(one.places, other.places, strict=True):
            np.testing.assert_allclose(right.sums, left.sums, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("budget", "given", "expected"),
        [(200, None, 4), (64, None, 1), (4096, None, 10), (200, 2, 2)],
    )
    def test_variants_share_a_forward_as_a_batch_is_filled(
        self, llama, tokenizer, texts, monkeypatch, budget, given, expected
    ):
        """Of one text of 50 tokens: up to the token budget, and 512 tokens on a CPU."""
        shared, variants = [], PrefixForward.variants

        def noting(self, ablations, at_once):
            shared.append(at_once)
            return variants(self, ablations, at_once)

        monkeypatch.setattr(PrefixForward, "variants", noting)
        text = " ".join(" ".join(texts).split()[:50])
        sweep(
            llama, tokenizer, [text], dims=["0-3"], controls=0, draws=50, max_length=50,
            token_budget=budget, variants_at_once=given,
        )  # fmt: skip
        assert shared[0] == expected

    @pytest.mark.slow
    def test_blocks_of_variants_change_nothing(self, llama, tokenizer, texts):
        whole = sweep(llama, tokenizer, texts, layers=["all", "2"]).tables()["sweep_lm"]
        with pytest.MonkeyPatch.context() as patch:
            blocks = Grid.blocks
            patch.setattr(Grid, "blocks", lambda self, layers, at_once: blocks(self, layers, 3))
            parts = sweep(llama, tokenizer, texts, layers=["all", "2"]).tables()["sweep_lm"]
        assert whole.equals(parts)

    def test_the_last_layer_is_run_where_there_is_no_closed_form(
        self, llama, tokenizer, texts, monkeypatch
    ):
        """The same up to 2e-5 nats a token, with nothing of the layer run."""
        given = {"dims": ["0-7", "3,9"], "layers": [str(LAYERS)], "controls": 0, "draws": 50}
        closed = sweep(llama, tokenizer, texts, **given)
        monkeypatch.setattr("outdim.models.last_layer.LastLayer.takes", lambda *of: False)
        run = sweep(llama, tokenizer, texts, **given)
        assert (closed.harm() != run.harm()).any()
        for metric, tolerance in (("loss", 2e-5), ("kl", 2e-5), ("accuracy", 0), ("agreement", 0)):
            np.testing.assert_allclose(
                closed.value(metric), run.value(metric), rtol=0, atol=tolerance
            )

    def test_masked_models_are_swept(self, tokenizer, texts):
        bert = tiny_model("bert", head="MaskedLM", outliers=(3,))
        found = sweep(
            bert, tokenizer, texts, task="mlm", dims=["1-4"], layers=["all", str(LAYERS)],
            at="parameters", controls=2, mask_share=0.3,
        )  # fmt: skip
        alone = evaluate(
            bert, tokenizer, texts, task="mlm", controls=0, mask_share=0.3,
            ablations=[Ablation(d, p, "parameters") for p in (None, [LAYERS]) for d in range(1, 5)],
        )  # fmt: skip
        both = np.concatenate([one.sums[:, 1:5, 0] for one in found.places], 1)
        np.testing.assert_allclose(both, alone.sums[:, 1:, 0], rtol=1e-6)

    def test_means_of_the_text_do_less_than_zeros(self, llama, tokenizer, texts):
        zero, mean = (
            sweep(llama, tokenizer, texts, dims=[PLANTED], mode=mode, controls=0).harm("kl")
            for mode in ("zero", "mean")
        )
        assert 0 <= mean < zero

    def test_words_and_table(self, llama, tokenizer, texts):
        found = sweep(llama, tokenizer, texts, layers="each")
        assert str(PLANTED) in " ".join(found.headline())
        table = found.tables()["sweep_lm"].to_pandas()
        loss = table[table.metric == "loss"]
        assert (loss.role == "intact").sum() == 1
        assert (loss.role == "ablated").sum() == LAYERS * 16
        assert (loss.role == "control").sum() == LAYERS * 10
        worst = loss.loc[loss.difference.abs().idxmax()]
        assert list(worst.dims) == [PLANTED]
        assert worst.low <= worst.value <= worst.high
        q = loss.q.dropna()
        assert len(q) == LAYERS * 16
        assert (q >= loss.p.dropna()).all()


class TestControls:
    def test_no_control_shares_a_dimension_with_what_it_stands_beside(
        self, llama, tokenizer, texts
    ):
        inputs = Inputs.of(model=llama, tokenizer=tokenizer)
        whole = grid(inputs, controls=10)
        drawn = {dim for one in whole.controls for dim in one}
        found = sweep(llama, tokenizer, texts[:4], draws=50)
        (one,) = found.places
        for number, dims in enumerate(found.grid.sets, 1):
            others = [i for i, c in enumerate(found.grid.controls, 17) if c != dims]
            harm = one.comparison("loss").difference.value
            assert one.comparison("loss").control[number] == pytest.approx(harm[others].mean())
        assert drawn <= set(range(16))

    def test_of_few_dimensions_they_are_others(self, llama, tokenizer):
        inputs = Inputs.of(model=llama, tokenizer=tokenizer)
        found = grid(inputs, dims=["0-3", "5,6"], controls=4)
        assert not {d for one in found.controls for d in one} & {0, 1, 2, 3, 5, 6}
        assert [len(one) for one in found.controls] == [1] * 4 + [2] * 4


class TestGrid:
    def test_plain_data_and_back(self):
        found = Grid(((1,), (2, 3)), (None, (1,), (4,)), ((5,),), "readers")
        assert Grid.from_dict(found.as_dict()) == found

    def test_what_goes_together_is_one_set_in_any_order(self, llama, tokenizer):
        inputs = Inputs.of(model=llama, tokenizer=tokenizer)
        words = {"dims": ["5,2", "2,5", "5", "2", "3,3"], "layers": ["4,2", "2,4"]}
        found = grid(inputs, **words, controls=0)
        assert found.sets == ((2, 5), (5,), (2,), (3,))
        assert found.places == ((2, 4),)
        paired = grid(inputs, dims=["5", "2", "9", "2,5"], pairs=True, controls=0)
        assert paired.sets == ((5,), (2,), (9,), (2, 5), (5, 9), (2, 9))

    def test_shards_cost_about_the_same(self):
        found = Grid(tuple((d,) for d in range(40)), (None, (1,), (3,), (4,)), ())
        blocks = list(found.blocks(4, 10))
        assert [(p, b - a) for p, a, b in blocks] == (
            [(0, 10)] * 4 + [(1, 10)] * 4 + [(2, 20)] * 2 + [(3, 40)]
        )

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"dims": ["16"]}, "dims: expected 0 to 15, got 16"),
            ({"dims": ["3-x"]}, "dims: expected words such as"),
            (
                {"dims": ["5-4"]},
                "dims: expected the smaller number of a range first, 4-5; got '5-4'",
            ),
            ({"layers": ["3-1"]}, "layers: expected the smaller number .* 1-3; got '3-1'"),
            ({"layers": ["each"], "draws": 70}, "draws: expected at least 80 for 4 places"),
            ({"layers": ["5"]}, "layers: expected 0"),
            ({"layers": ["window:5"]}, "window:1 to window:4"),
            ({"layers": ["some"]}, "layers: expected words such as"),
            ({"at": "parameters"}, "pre-LN"),
            ({"mode": "mean", "at": "denominator"}, "denominator"),
            ({"controls": -1}, "controls: expected 0 or more"),
            ({"seed": -1}, "seed: expected 0 or more"),
            ({"variants_at_once": 0}, "variants-at-once: expected at least 1"),
            ({"task": "sts"}, "task: expected"),
        ],
    )
    def test_bad_words_are_refused(self, llama, tokenizer, given, message):
        with pytest.raises(ArgumentError, match=message):
            sweep(llama, tokenizer, ["w1 w2 w3"], **given)

    @pytest.mark.parametrize(
        ("dims", "most"), [(["99"], 383), (["1,2"], 382 * 381 // 2), (["all"], 383)]
    )
    def test_more_controls_than_there_are_sets_are_refused_without_a_model(self, dims, most):
        GridOptions(dims=dims, controls=most).check_size(384, 6)
        with pytest.raises(ArgumentError, match=f"controls: expected at most {most}, "):
            GridOptions(dims=dims, controls=most + 1).check_size(384, 6)

    @pytest.mark.parametrize("size", [(576, 30), (None, None)])
    def test_pairs_of_one_dimension_are_refused_without_a_model(self, size):
        with pytest.raises(ArgumentError, match=r"pairs: expected 2 to 64 .* got 1"):
            GridOptions(dims=["507"], pairs=True).check_size(*size)
        GridOptions(dims=["507", "17"], pairs=True).check_size(*size)
        GridOptions(dims=["507"]).check_size(*size)

    @pytest.mark.parametrize(
        ("task", "given"),
        [
            ("lm", {"mask_share": 0.2}),
            ("cosine", {"masking": "within_word_l2r"}),
            ("cosine", {"verify": 3}),
            ("cosine", {"score": "magnitude"}),
            ("glue:sst2", {"autocast": "bfloat16"}),
            ("glue:sst2", {"token_budget": 64}),
        ],
    )
    def test_what_goes_with_other_tasks_is_refused(self, llama, tokenizer, task, given):
        with pytest.raises(ArgumentError, match=f"{next(iter(given))}: not for task='{task}'"):
            sweep(llama, tokenizer, ["w1 w2 w3"], task=task, **given)

    def test_nothing_to_predict(self, tokenizer):
        bert = tiny_model("bert", head="MaskedLM")
        with pytest.raises(DataError, match="no token to predict"):
            sweep(bert, tokenizer, ["w1"], task="mlm", dims="1", controls=0, mask_share=1e-9)


class TestVerified:
    @pytest.mark.parametrize(
        ("layers", "population"), [("all", 16), pytest.param("each", 64, marks=pytest.mark.slow)]
    )
    def test_the_planted_dimension_comes_first_and_nothing_was_missed(
        self, llama, tokenizer, texts, layers, population
    ):
        found = sweep(llama, tokenizer, texts, layers=layers, verify=4, verify_random=8)
        verification = found.verification
        assert (verification.population, verification.worst, verification.random) == (
            population, 4, 8
        )  # fmt: skip
        assert (PLANTED,) in found.grid.sets
        assert set(found.grid.sets).isdisjoint(found.grid.controls) or layers == "each"
        # The measured ones are those of the whole sweep.
        whole = sweep(llama, tokenizer, texts, layers=layers, controls=0)
        harm = found.places[0].comparison("loss").difference.value[1:]
        for number, dims in enumerate((*found.grid.sets, *found.grid.controls)):
            layer = found.grid.layers_of(0, number)
            expected = whole.harm()[0 if layer is None else layer[0] - 1, dims[0]]
            assert harm[number] == pytest.approx(expected, rel=1e-12)

    def test_words_tables_and_bounds(self, llama, tokenizer, texts):
        found = sweep(llama, tokenizer, texts, layers="each", verify=4, verify_random=20)
        said = " ".join(found.headline())
        assert found.verification.words()[0] in said
        tables = found.tables()
        table = tables["sweep_lm"].to_pandas()
        loss = table[table.metric == "loss"]
        assert loss.role.tolist() == ["intact"] + ["ablated"] * 4 + ["control"] * 20
        assert loss.score.iloc[5:].max() <= loss.score.iloc[1:5].min()
        assert tables["sweep_lm_verification"]["words"] == found.verification.words()

    def test_a_ranking_that_misses_the_worst_is_not_believed(
        self, llama, tokenizer, texts, monkeypatch
    ):
        from outdim.analysis.results.screened import Screened

        ranked = Screened.ranked
        monkeypatch.setattr(
            Screened, "ranked", lambda self, *of, **given: ranked(self, *of, **given)[::-1]
        )
        monkeypatch.setattr(
            "outdim.analysis.results.swept.Sweep._scores",
            lambda self: np.arange(float(self.grid.size))[::-1],
        )
        found = sweep(llama, tokenizer, texts, verify=3, verify_random=13)
        assert found.verification.verdict == "failed"
        assert found.verification.words()[-1] in found.headline()

    def test_by_another_score(self, llama, tokenizer, texts):
        found = sweep(llama, tokenizer, texts, verify=2, verify_random=3, score="magnitude")
        assert (PLANTED,) in found.grid.sets
        sums = found.screened.screening.scores["magnitude"].sum(0)
        assert {dim for (dim,) in found.grid.sets} == set(np.argsort(-sums)[:2].tolist())

    def test_what_is_not_finite_does_the_most_harm(self, llama, tokenizer, texts):
        found = sweep(llama, tokenizer, texts, verify=2, verify_random=3)
        found.places[0].sums[:, -1, 0] = np.nan  # a random other
        again = Sweep(found.step, found.places, found.grid, found.screened)
        again.places[0]._comparisons.clear()
        assert again.verification.verdict == "failed"
        json.dumps(again.tables()["sweep_lm_verification"], allow_nan=False)

    def test_masked_models_too(self, tokenizer, texts):
        bert = tiny_model("bert", head="MaskedLM", outliers=(3,))
        found = sweep(bert, tokenizer, texts, task="mlm", verify=2, verify_random=3)
        assert len(found.grid.sets) == 2

    @pytest.mark.parametrize(
        "given",
        [
            {"verify": 0},
            {"verify": 10},
            {"verify": 2, "dims": ["1"]},
            {"verify": 2, "layers": "3"},
            {"verify": 2, "at": "readers"},
            {"verify": 2, "controls": 3},
        ],
    )
    def test_what_cannot_be_verified(self, llama, tokenizer, given):
        with pytest.raises(ArgumentError, match="verify"):
            sweep(llama, tokenizer, ["w1 w2 w3"], verify_random=8, **given)
