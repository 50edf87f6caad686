"""Greedy sets: planted ones found round by round, and what is said of them on other documents."""

import copy

import numpy as np
import pytest
import torch
import xxhash
from outdim.analysis.evaluate import evaluate
from outdim.analysis.greedy import greedy
from outdim.analysis.greedy_text import GreedyLm
from outdim.analysis.sweep import sweep
from outdim.analysis.sweeps.greedy_options import GreedyOptions
from outdim.analysis.variants.variant import controls_of
from outdim.errors import ArgumentError, DataError
from planted_frequency import quiet_llama
from tiny import tiny_texts

DIMS, LONE, TWINS = 16, 7, (4, 11)


@pytest.fixture(scope="module")
def texts():
    return tiny_texts(40, 30)


@pytest.fixture(scope="module")
def model(tokenizer, texts):
    """Predicts how frequent tokens are, off two twins of which one is enough, and one of its own.

    Without the norm's help, 7 holds three fifths of what is known; 4 and 11 share the rest.
    """
    model, frequent = quiet_llama(tokenizer, texts, DIMS)
    words, head = model.model.embed_tokens.weight.data, model.lm_head.weight.data
    words[:, [LONE, *TWINS]] = torch.tensor([6.0, 2.5, 2.4])
    scale = (36 + 2.5**2 + 2.4**2) ** 0.5 / DIMS**0.5
    head[:, LONE] = frequent * scale / 6 * 0.6
    head[:, TWINS] = frequent[:, None] * scale / 4.9 * 0.4
    return model


@pytest.fixture(scope="module")
def found(model, tokenizer, texts):
    return greedy(model, tokenizer, texts, rounds=3, controls=4, draws=300)


def test_the_planted_set_is_found_and_breaks_documents_that_had_no_part_in_the_choice(found):
    assert found.dims[0] == LONE
    assert set(found.dims) == {LONE, *TWINS}
    harm = found.harm()
    assert (np.diff(harm) > 0).all()
    last = found.measured.comparison("loss")
    assert last.beyond.low[3] > 0
    assert (last.control[1:4] < 0.2 * harm).all()
    assert [choice.tried for choice in found.choices] == [16, 15, 14]
    said = " ".join(found.headline())
    assert (
        "each time the one of 16 that then does most harm to one half of the documents, and the "
        f"loss it adds up to on the other half: {LONE} (" in said
    )
    assert "of as many other dimensions change" in said
    assert "no estimate" in found.cautions()[0]


def test_each_choice_is_the_worst_of_its_half_and_the_halves_share_no_document(
    found, model, tokenizer, texts
):
    halves = [[t for t in texts if xxhash.xxh64_intdigest(t.encode(), 0) % 2 == h] for h in (0, 1)]
    assert len(halves[0]) == found.choices[0].documents
    assert len(halves[1]) == found.measured.about["documents"]
    one = sweep(model, tokenizer, halves[0], controls=0).harm()[0]
    assert found.choices[0].harm == pytest.approx(one.max(), abs=1e-5)
    assert found.choices[0].dim == one.argmax()
    assert found.choices[0].runner_up_harm == pytest.approx(np.sort(one)[-2], abs=1e-5)
    second = [[LONE, dim] for dim in range(DIMS) if dim != LONE]
    asked = evaluate(model, tokenizer, halves[0], ablations=second, controls=0)
    worst = max(asked.value("loss", i) for i in range(1, DIMS)) - asked.loss
    assert found.choices[1].harm == pytest.approx(worst, abs=1e-5)
    sets = [found.dims[:size] for size in (1, 2, 3)]
    other = evaluate(model, tokenizer, halves[1], ablations=sets, controls=0)
    expected = [other.value("loss", i) - other.loss for i in (1, 2, 3)]
    np.testing.assert_allclose(found.harm(), expected, atol=1e-5)


def test_to_spare_it_takes_what_does_least(model, tokenizer, texts):
    found = greedy(
        model, tokenizer, texts, rounds=4, goal="spare", dims=[LONE, *TWINS, 1, 2, 3, 5],
        controls=0, draws=100,
    )  # fmt: skip
    assert not set(found.dims) & {LONE}
    assert set(found.dims) <= {1, 2, 3, 5, *TWINS}
    assert len(set(found.dims) & set(TWINS)) <= 1
    assert abs(found.harm()[-1]) < 0.05
    assert "does least harm" in found.headline()[0]


def test_random_sets_stand_beside_every_size_and_have_no_chosen_dimension(model, tokenizer, texts):
    """They are drawn from all dimensions where all are tried."""
    rounds, count = DIMS // 2, 3
    found = greedy(model, tokenizer, texts[:12], rounds=rounds, controls=count, draws=50)
    variants = found.measured.variants
    controls = controls_of(variants)
    assert [len(controls[size]) for size in range(1, 1 + rounds)] == [count] * rounds
    for size in range(1, 1 + rounds):
        for number in controls[size]:
            dims = variants[number].ablation.dims
            assert len(set(dims)) == size
            assert not set(dims) & set(found.dims)
        different = {frozenset(variants[number].ablation.dims) for number in controls[size]}
        assert len(different) == (count if size < rounds else 1)  # of 8 that are left
    rows = found.tables()["greedy_lm"].to_pandas()
    sets = rows[(rows.metric == "loss") & (rows.role == "ablated")]
    assert sets.control.notna().all()
    assert sets.gate.notna().all()
    assert "3 random sets of as many other dimensions change" in found.headline()[-2]
    with pytest.raises(ArgumentError, match="rounds: expected at most 8 of 16 dimensions"):
        greedy(model, tokenizer, texts, rounds=rounds + 1, controls=1)


def test_random_sets_of_a_size_are_all_different_up_to_as_many_as_there_are(
    model, tokenizer, texts
):
    found = greedy(model, tokenizer, texts[:8], rounds=1, dims=[LONE], controls=15, draws=20)
    controls = controls_of(found.measured.variants)[1]
    dims = {found.measured.variants[number].ablation.dims for number in controls}
    assert dims == {(dim,) for dim in range(DIMS) if dim != LONE}
    with pytest.raises(ArgumentError, match=r"controls: expected at most 15, .* got 16"):
        greedy(model, tokenizer, texts[:8], rounds=1, dims=[LONE], controls=16)


def rounds_done(monkeypatch) -> list[int]:
    """Fills with the round of every shard that is computed."""
    done, update = [], GreedyLm.update

    def noting(self, unit, progress):
        found = update(self, unit, progress)
        done.append(unit["round"])
        return found

    monkeypatch.setattr(GreedyLm, "update", noting)
    return done


@pytest.mark.parametrize("half", [0, 1])
def test_a_half_without_a_token_is_found_in_the_first_round(
    model, tokenizer, texts, monkeypatch, half
):
    done = rounds_done(monkeypatch)
    own = [text for text in texts if xxhash.xxh64_intdigest(text.encode(), 0) % 2 == half]
    with pytest.raises(DataError, match="a half of the documents, drawn at random, has no token"):
        greedy(model, tokenizer, own, rounds=3, dims=[1, 2, 3], controls=0)
    assert done == [0]


def test_a_candidate_that_breaks_the_model_altogether_does_most_harm(
    model, tokenizer, texts, monkeypatch
):
    measured = GreedyLm.measured

    def broken(self, unit, ablations, progress):
        found, read = measured(self, unit, ablations, progress)
        for number, one in enumerate(ablations, 1):
            if one.dims == (5,):
                found["sums"][:, number] = torch.inf
            if one.dims == (3,):
                found["sums"][:, number] = torch.nan
        return found, read

    monkeypatch.setattr(GreedyLm, "measured", broken)
    (first,) = greedy(model, tokenizer, texts, rounds=1, controls=0, draws=50).choices
    assert (first.dim, first.harm, first.runner_up, first.runner_up_harm) == (3, np.inf, 5, np.inf)
    spared = greedy(model, tokenizer, texts, rounds=1, goal="spare", controls=0, draws=50)
    assert np.isfinite(spared.choices[0].harm)


def test_a_model_without_a_loss_is_refused_after_the_first_round(
    model, tokenizer, texts, monkeypatch
):
    done, broken = rounds_done(monkeypatch), copy.deepcopy(model)
    broken.lm_head.weight.data[:] = torch.nan
    with pytest.raises(DataError, match="model: expected a finite loss on the half"):
        greedy(broken, tokenizer, texts, rounds=2, dims=[1, 2, 3], controls=0)
    assert done == [0]


@pytest.mark.parametrize("size", [(16, 4), (None, None)])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rounds": 0}, "rounds: expected at least 1, got 0"),
        ({"rounds": 9, "dims": ["1", "2", "2"]}, "rounds: expected at most 2"),
        ({"dims": ["3", "1,2"], "rounds": 1}, "dims: expected single dimensions.* got '1,2'"),
        ({"controls": -1}, "controls: expected 0 or more"),
        ({"dims": ["5-3"]}, "dims: expected the smaller number of a range first, 3-5"),
    ],
)
def test_options_are_refused_without_a_model(given, said, size):
    """Of a GGUF file the size is not known then."""
    with pytest.raises(ArgumentError, match=said):
        GreedyOptions(**given).check_size(*size)
    GreedyOptions().check_size(*size)


def test_places_and_rounds_are_counted_where_the_size_is_declared():
    with pytest.raises(ArgumentError, match="got 'window:3', which is 2 places"):
        GreedyOptions(layers="window:3").check_size(16, 4)
    GreedyOptions(layers="window:4").check_size(16, 4)
    with pytest.raises(ArgumentError, match="rounds: expected at most 8 of 16"):
        GreedyOptions(rounds=9).check_size(16, 4)
    GreedyOptions(rounds=9, controls=0).check_size(16, 4)


def test_no_more_controls_than_other_dimensions():
    for dims, others in (("all", 14), ("0-11", 14), ("0-5", 10)):
        asked = {"dims": [dims], "rounds": 2}
        GreedyOptions(**asked, controls=others).check_size(16, 4)
        said = f"expected at most {others}, the sets of 1 of {others} other dimensions; got"
        with pytest.raises(ArgumentError, match=said):
            GreedyOptions(**asked, controls=others + 1).check_size(16, 4)


def test_bad_arguments(model, tokenizer, texts):
    for arguments, said in (
        ({"rounds": 0}, "rounds: expected at least 1"),
        ({"rounds": 3, "dims": [1, 2]}, "rounds: expected at most 2"),
        ({"goal": "mend"}, "goal: expected break or spare"),
        ({"dims": ["1,2", "3"], "rounds": 1}, "dims: .* got '1,2'"),
        ({"layers": "each"}, "at one place.* got 'each', which is"),
        ({"controls": -1}, "controls: expected 0 or more"),
        ({"task": "sts"}, "task: expected 'lm', 'mlm', or 'glue"),
        ({"dims": ["worst:3"]}, "--ranking"),
    ):
        with pytest.raises(ArgumentError, match=said):
            greedy(model, tokenizer, texts, **arguments)
    with pytest.raises(DataError, match="a half of the documents"):
        greedy(model, tokenizer, texts[:1], rounds=1, dims=[1, 2], controls=0)
