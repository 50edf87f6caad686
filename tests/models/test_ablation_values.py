"""Means and samples of a text, given or taken, in the place of dimensions."""

import pytest
import torch
from outdim import Ablation, Covariates, ablate, observe
from outdim.errors import ArgumentError, DataError
from outdim.models import (
    GroupValues,
    apply_ablation,
    with_estimated_means,
    with_means,
    with_samples,
)
from outdim.models.sequence_tokens import SequenceTokens
from outdim.stats import Moments
from tiny import HEADS, HIDDEN, LAYERS, tiny_inputs, tiny_model

DIMS = [3, 17]
SPECIAL = tuple(range(5, 50))


def states(model, inputs, ablation=None):
    with torch.inference_mode(), apply_ablation(model, ablation), observe(model) as seen:
        model(**inputs)
    return dict(seen)


def batches(model, count=3):
    return [tiny_inputs(model, seed=seed) for seed in range(count)]


def groups_by_hand(inputs):
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    group = torch.ones_like(ids)
    group[:, 0] = 3
    group[torch.isin(ids, torch.tensor(SPECIAL))] = 2
    return group * mask


@pytest.mark.parametrize("family", ["bert", "gpt2", "albert", "xlnet"])
def test_estimated_means_are_those_of_moments(family):
    model = tiny_model(family)
    given = batches(model)
    moments = {f"block.{i}": Moments(Covariates()) for i in range(LAYERS)}
    for inputs in given:
        for name, hidden in states(model, inputs).items():
            if name in moments:
                moments[name].update(hidden, mask=inputs["attention_mask"])
    results = {name: one.compute() for name, one in moments.items()}
    expected = with_means(Ablation(DIMS), results)
    found = with_estimated_means(Ablation(DIMS), model, given)
    assert expected.layers == found.layers == (1, 2, 3, 4)
    assert torch.tensor(found.value).sub(torch.tensor(expected.value)).abs().max() < 1e-6
    assert expected == with_means(Ablation(DIMS), {n: r.mean.tolist() for n, r in results.items()})
    seen = states(model, given[0], expected)
    for i in range(LAYERS):
        mean = results[f"block.{i}"].mean[DIMS].float()
        assert torch.equal(seen[f"block.{i}"][..., DIMS], mean.expand(3, 7, 2))
    (some,) = with_means(Ablation(DIMS, [3]), results).value
    assert some == expected.value[2]


def test_means_by_group_of_tokens():
    model = tiny_model("gpt2")
    given = batches(model)
    one = with_estimated_means(Ablation(DIMS, [0, 2]), model, given, special_ids=SPECIAL)
    before = [states(model, inputs) for inputs in given]
    groups = [groups_by_hand(inputs) for inputs in given]
    assert isinstance(one.value, GroupValues)
    for number, name in enumerate(("text", "special", "first"), 1):
        for place, point in enumerate(("embeddings", "block.1")):
            mean = torch.cat(
                [h[point][g == number] for h, g in zip(before, groups, strict=True)]
            )[:, DIMS].double().mean(0)  # fmt: skip
            assert torch.tensor(one.value.by_group[name][place]).sub(mean).abs().max() < 1e-6
    seen = states(model, given[1], one)["block.1"][..., DIMS]
    for number, name in enumerate(("text", "special", "first"), 1):
        expected = torch.tensor(one.value.by_group[name][1])
        assert (seen[groups[1] == number] == expected).all(), name
    some = Ablation(DIMS, [0], mode="mean", value=GroupValues(text=0.5, special_ids=SPECIAL))
    after, before = (states(model, given[1], a)["embeddings"] for a in (some, None))
    assert torch.equal(after[groups[1] != 1], before[groups[1] != 1])
    assert (after[groups[1] == 1][:, DIMS] == 0.5).all()


def test_means_by_group_are_given_by_name():
    means = {name: {"block.0": torch.full((HIDDEN,), value)} for name, value in
             (("text", 1.0), ("first", 9.0))}  # fmt: skip
    one = with_means(Ablation(DIMS), means, special_ids=SPECIAL)
    assert one.value == GroupValues(((1.0, 1.0),), ((9.0, 9.0),), None, SPECIAL)
    assert one.layers == (1,)
    means["special"] = means["first"]
    with pytest.raises(ArgumentError, match="special_ids: expected the ids of the special tokens"):
        with_means(Ablation(DIMS), means)


def test_means_of_points_within_a_layer_are_left_out():
    points = ("embeddings", "block.1", "block.0.attention", "block.0", "block.0.norm")
    means = {point: torch.full((HIDDEN,), float(number)) for number, point in enumerate(points)}
    one = with_means(Ablation(DIMS), means)
    assert one.layers == (1, 2)
    assert one.value == ((3.0, 3.0), (1.0, 1.0))


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "opt", "xlnet", "vit"])
def test_samples_are_values_of_other_tokens(family):
    model = tiny_model(family)
    if family == "vit":
        with pytest.raises(DataError, match=r"input_ids: expected ids \[B, S\] in the call of ViT"):
            with_samples(Ablation(DIMS), model, [tiny_inputs(model)])
        return
    given = batches(model)
    one = with_samples(Ablation(DIMS, [1, 3]), model, given, n=16, seed=3)
    pool = {
        point: torch.cat([states(model, x)[point][x["attention_mask"] == 1] for x in given])[
            :, DIMS
        ]
        for point in ("block.0", "block.2")
    }
    rows = []
    for point, samples in zip(pool, torch.tensor(one.value), strict=True):
        near = (pool[point][:, None] - samples).abs().amax(-1)
        assert float(near.min(0).values.max()) < 1e-6
        rows.append(near.argmin(0).tolist())
    assert rows[0] == rows[1]  # the same tokens in every layer
    assert len(set(rows[0])) >= 14  # some tokens of causal models have the same past
    seen = states(model, given[0], one)
    for point, samples in zip(pool, torch.tensor(one.value), strict=True):
        found = (seen[point][..., None, DIMS] - samples).abs().amax(-1)
        assert float(found.min(-1).values.max()) < 1e-6
    again = with_samples(Ablation(DIMS, [1, 3]), model, given, n=16, seed=3)
    assert again == one
    assert with_samples(Ablation(DIMS, [1, 3]), model, given, n=16, seed=4) != one


def test_what_a_token_draws_depends_on_it_alone():
    model = tiny_model("gpt2", head=HEADS["gpt2"])
    one = with_samples(Ablation(DIMS, [2]), model, batches(model), n=16)
    inputs = tiny_inputs(model, batch=4)
    seen = states(model, inputs, one)["block.1"]
    last = {k: v[1:2] for k, v in inputs.items()}
    assert torch.equal(states(model, last, one)["block.1"][..., DIMS], seen[1:2][..., DIMS])
    assert len({tuple(row) for row in seen[..., DIMS].flatten(0, 1).tolist()}) > 8
    # Padding at the left, and a cache, leave the position what it is.
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 2, dtype=torch.int64), last["input_ids"]], 1),
        "attention_mask": torch.cat(
            [torch.zeros(1, 2, dtype=torch.int64), last["attention_mask"]], 1
        ),
    }
    assert torch.equal(
        states(model, padded, one)["block.1"][:, 2:][..., DIMS], seen[1:2][..., DIMS]
    )
    how = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with apply_ablation(model, one):
        cached, plain = (
            model.generate(
                inputs["input_ids"], attention_mask=torch.ones(4, 7), use_cache=cache, **how
            )
            for cache in (True, False)
        )
    assert torch.equal(cached, plain)


def test_drawing_is_even():
    ids = torch.arange(20_000).reshape(20, 1000)
    tokens = SequenceTokens(ids, torch.arange(1000).expand(20, 1000), torch.ones(20, 1000) > 0)
    counts = torch.bincount(tokens.draw(10).flatten())
    assert int((counts - 2000).abs().max()) < 200  # s.d. 42
    assert tokens.draw(7)[0, :5].tolist() == DRAWN  # on every machine


DRAWN = [0, 2, 6, 1, 6]


def test_groups_after_a_cache():
    model = tiny_model("llama", head="CausalLM")
    by_group = GroupValues(text=1.0, first=2.0, special=3.0, special_ids=SPECIAL)
    heard = []
    with (
        ablate(model, 3, [1], mode="mean", value=by_group),
        observe(model, ["block.0"], lambda point, h: heard.append(h[0, :, 3].tolist())),
    ):
        model.generate(torch.tensor([[90, 5, 100]]), max_new_tokens=2, min_new_tokens=2,
                       do_sample=False, suppress_tokens=SPECIAL, pad_token_id=0)  # fmt: skip
    assert heard == [[2.0, 3.0, 1.0], [1.0]]


def test_errors():
    model = tiny_model("bert")
    with pytest.raises(ArgumentError, match=r"means: expected those of layer 3, got block.0"):
        with_means(Ablation(DIMS, [3]), {"block.0": [0.0] * HIDDEN})
    with pytest.raises(ArgumentError, match="expected at='state', whose values these are, got 'p"):
        with_means(Ablation(DIMS, at="parameters"), {})
    with pytest.raises(ArgumentError, match="dims: expected the same in every layer"):
        with_means(Ablation([[1]], [1]), {"block.0": [0.0] * HIDDEN})
    with pytest.raises(DataError, match="batches: expected at least one token, got none"):
        with_estimated_means(Ablation(DIMS), model, [])
    with pytest.raises(ArgumentError, match="n: expected at least 1, got 0"):
        with_samples(Ablation(DIMS), model, [], n=0)
    one = with_samples(Ablation(DIMS), model, [tiny_inputs(model)])
    with (
        pytest.raises(
            DataError, match=r"input_ids: expected ids \[B, S\] in the call of BertModel"
        ),
        apply_ablation(model, one),
    ):
        model(inputs_embeds=torch.zeros(1, 2, HIDDEN))
