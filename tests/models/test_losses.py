"""Losses from parts of the logits against the plain computation in float64."""

import math

import pytest
import torch
from outdim.errors import ArgumentError
from outdim.models import Predictor, ablate, load_model
from outdim.models.losses import TOP, likeliest, scores
from tiny import HEADS, VOCAB, tiny_inputs, tiny_model

LANGUAGE = [name for name, head in HEADS.items() if head in ("MaskedLM", "CausalLM")]


def plain(logits: list[torch.Tensor], targets: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Every score from whole logits [R, V], in float64."""
    logs = [one.double().log_softmax(1) for one in logits]
    intact, best = logs[0], logs[0].topk(TOP).indices
    return [
        {
            "loss": -log.gather(1, targets[:, None])[:, 0],
            "entropy": -(log.exp() * log).sum(1),
            "kl": (intact.exp() * (intact - log)).sum(1),
            "top": torch.tensor(
                [
                    len(set(a) & set(b)) / TOP
                    for a, b in zip(log.topk(TOP).indices.tolist(), best.tolist(), strict=True)
                ],
                dtype=torch.float64,
            ),
            "predicted": log.argmax(1),
        }
        for log in logs
    ]


def some_logits(
    variants=3, rows=37, size=101, scale=4.0
) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = [scale * torch.randn(rows, size, generator=generator) for _ in range(variants)]
    return logits, torch.randint(size, (rows,), generator=generator)


def parts(states, columns):
    return states[:, columns]


@pytest.mark.parametrize("columns", [1, 7, 10, 64, 100, 101, 4096])
@pytest.mark.parametrize("rows", [1, 16, 37, 64])
def test_scores_are_those_of_plain_arithmetic_whatever_the_parts(rows, columns):
    logits, targets = some_logits()
    found = scores(parts, logits, targets, 101, rows=rows, columns=columns)
    for one, expected in zip(found, plain(logits, targets), strict=True):
        for name in ("loss", "entropy", "kl", "top"):
            value = getattr(one, name)
            assert value.dtype == torch.float64
            torch.testing.assert_close(value, expected[name], atol=1e-12, rtol=1e-12)
        assert torch.equal(one.predicted, expected["predicted"])


@pytest.mark.parametrize("columns", [1, 10, 101])
def test_brief_scores_are_the_same_up_to_float32(columns):
    logits, targets = some_logits()
    found = scores(parts, logits, targets, 101, columns=columns, brief=True)
    for one, expected in zip(found, plain(logits, targets), strict=True):
        torch.testing.assert_close(one.loss, expected["loss"], atol=1e-6, rtol=0)
        torch.testing.assert_close(one.kl, expected["kl"], atol=2e-6, rtol=0)
        assert torch.equal(one.predicted, expected["predicted"])
        assert one.brief
        assert one.entropy.isnan().all()
        assert one.top.isnan().all()
    assert (found[0].kl == 0).all()
    assert not scores(parts, logits, targets, 101)[0].brief


def test_extreme_logits_neither_overflow_nor_cancel():
    logits, targets = some_logits(scale=1.0)
    shifted = [one * 300 + 5000 for one in logits]  # exp(5000) is not finite
    for one, expected in zip(
        scores(parts, shifted, targets, 101, columns=9), plain(shifted, targets), strict=True
    ):
        torch.testing.assert_close(one.loss, expected["loss"], atol=1e-9, rtol=1e-12)
        torch.testing.assert_close(one.kl, expected["kl"], atol=1e-9, rtol=1e-12)


def test_the_intact_model_is_no_distance_from_itself():
    logits, targets = some_logits(1)
    (intact,) = scores(parts, logits, targets, 101, columns=10)
    assert (intact.kl == 0).all()
    assert (intact.top == 1).all()
    _, same = scores(parts, [logits[0], logits[0].clone()], targets, 101, columns=10)
    assert (same.kl.abs() < 1e-14).all()


def test_a_logit_that_is_not_finite_gives_no_loss_and_spoils_no_other_token():
    logits, targets = some_logits(2)
    logits[1][3, 50] = math.inf
    logits[1][5, 20] = math.nan
    _, one = scores(parts, logits, targets, 101, columns=16)
    broken = torch.zeros(37, dtype=torch.bool)
    broken[[3, 5]] = True
    assert torch.equal(~one.loss.isfinite(), broken)


def test_no_rows_give_no_scores():
    (one,) = scores(parts, [torch.empty(0, 101)], torch.empty(0, dtype=torch.int64), 101)
    assert one.loss.shape == one.predicted.shape == (0,)


@pytest.mark.parametrize("family", LANGUAGE)
def test_parts_of_the_logits_are_those_of_the_model(family):
    model, inputs = tiny_model(family, head=HEADS[family]), tiny_inputs(tiny_model(family))
    predictor = Predictor(model)
    assert (predictor.note, predictor.vocab_size) == ("", VOCAB)
    with torch.no_grad():
        whole = model(**inputs).logits
        states = predictor.states(inputs["input_ids"], inputs["attention_mask"])
        again = model(**inputs).logits
    assert states.shape[-1] < VOCAB
    assert torch.equal(again, whole)  # nothing is left on the model
    for part in (slice(0, VOCAB), slice(0, 50), slice(50, 51), slice(150, VOCAB)):
        found = predictor.logits(states[:2].flatten(0, 1), part)
        torch.testing.assert_close(
            found, whole[:2].flatten(0, 1)[:, part], atol=1e-5, rtol=1e-5
        )  # fmt: skip


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_capped_logits_are_capped_in_parts(cap):
    model = tiny_model("gemma2", head="CausalLM", final_logit_softcapping=cap)
    predictor, inputs = Predictor(model), tiny_inputs(model)
    with torch.no_grad():
        states = predictor.states(inputs["input_ids"], inputs["attention_mask"])
        whole = model(**inputs).logits
    assert predictor.note == ""
    assert whole.abs().max() <= cap
    torch.testing.assert_close(predictor.logits(states[0], slice(3, 9)), whole[0][:, 3:9])


def test_logits_that_are_something_else_are_taken_whole_and_it_is_said():
    model = tiny_model("gpt2", head="CausalLM")
    plain_forward = model.forward

    def forward(*args, **kwargs):
        output = plain_forward(*args, **kwargs)
        output.logits = output.logits.roll(1, -1)
        return output

    model.forward = forward
    predictor, inputs = Predictor(model), tiny_inputs(model)
    assert "GPT2LMHeadModel are not those of its output layer alone" in predictor.note
    with torch.no_grad():
        states = predictor.states(inputs["input_ids"], inputs["attention_mask"])
        whole = model(**inputs).logits
    assert torch.equal(predictor.logits(states[0], slice(3, 9)), whole[0][:, 3:9])


def test_half_precision_gives_the_logits_of_the_model():
    model = tiny_model("llama", head="CausalLM").to(torch.bfloat16)
    predictor, inputs = Predictor(model), tiny_inputs(model)
    with torch.no_grad():
        states = predictor.states(inputs["input_ids"], inputs["attention_mask"])
        whole = model(**inputs).logits.float()
    found = predictor.logits(states.flatten(0, 1), slice(0, VOCAB))
    assert found.dtype == torch.float32
    # Both products are rounded to bfloat16 (8 bits).
    torch.testing.assert_close(found, whole.flatten(0, 1), atol=0.02, rtol=0.01)


def test_edits_of_the_model_reach_the_states():
    model = tiny_model("gpt2", head="CausalLM")
    predictor, inputs = Predictor(model), tiny_inputs(model)
    with torch.no_grad(), ablate(model, [5]):
        states = predictor.states(inputs["input_ids"], inputs["attention_mask"])
        whole = model(**inputs).logits
    torch.testing.assert_close(
        predictor.logits(states[0], slice(0, VOCAB)), whole[0], atol=1e-5, rtol=1e-5
    )


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ArgumentError, match="logits over the vocabulary, got GPT2Model; load it"):
        Predictor(tiny_model("gpt2"))


@pytest.mark.slow
def test_the_logits_are_never_in_memory_as_a_whole():
    """Of 512 tokens over 30,522 entries logits take 60 MB in float32, a softmax in float64 120."""
    from torch.profiler import profile

    model = tiny_model("bert", head="MaskedLM", vocab_size=30522, hidden_size=8)
    predictor, ids = Predictor(model), torch.randint(10, 30000, (8, 64))
    with torch.no_grad(), profile(profile_memory=True) as seen:
        states = predictor.states(ids, torch.ones_like(ids)).flatten(0, 1)
        scores(predictor.logits, [states, states.clone()], ids.flatten(), 30522)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert 1 << 18 < largest < 16 << 20


def test_a_loaded_model_has_the_loss_that_transformers_gives(tmp_path):
    tiny_model("llama", head="CausalLM").save_pretrained(tmp_path)
    model = load_model(str(tmp_path), head="lm")
    ids = tiny_inputs(model)["input_ids"]
    predictor = Predictor(model)
    with torch.no_grad():
        states = predictor.states(ids, torch.ones_like(ids))[:, :-1].flatten(0, 1)
        expected = model(ids, labels=ids).loss
    (found,) = scores(predictor.logits, [states], ids[:, 1:].flatten(), VOCAB)
    assert found.loss.mean().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("columns", [1, 7, 100, 101, 4096])
@pytest.mark.parametrize("rows", [1, 16, 64])
def test_the_likeliest_token_is_that_of_plain_arithmetic(rows, columns):
    logits, _ = some_logits()
    found = likeliest(parts, logits, 101, rows=rows, columns=columns)
    for own, one in zip(found, logits, strict=True):
        assert torch.equal(own, one.argmax(1))


@pytest.mark.parametrize("columns", [1, 3, 10])
def test_of_equally_likely_tokens_the_first_is_taken(columns):
    logits = torch.tensor([[0.0, 5, 5, 1, 5, 0, 0, 5, 0, 0]])
    assert likeliest(parts, [logits], 10, columns=columns)[0].tolist() == [1]


@pytest.mark.parametrize("columns", [8, 4096])
@pytest.mark.parametrize("brief", [False, True])
def test_whatever_is_scored_of_equally_likely_tokens_the_first_is_predicted(columns, brief):
    """In bfloat16 one token in thirty has two that are likeliest; `topk` gives them as it likes."""
    logits = torch.randn(64, 600, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    logits = logits.clamp(max=2)
    targets = torch.zeros(64, dtype=torch.int64)
    (found,) = scores(parts, [logits], targets, 600, columns=columns, brief=brief)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert found.predicted.tolist() == first
    assert (found.predicted != logits.topk(TOP).indices[:, 0]).any()


@pytest.mark.parametrize("columns", [1, 3, 10])
def test_logits_that_are_not_finite_have_no_likeliest_token(columns):
    logits = torch.zeros(6, 10)
    logits[:, 4] = 1
    logits[1, 2] = torch.nan
    logits[2, 9] = torch.nan
    logits[3, 8] = torch.inf
    logits[4] = -torch.inf
    logits[5, :9] = -torch.inf  # what is forbidden is no fault
    assert likeliest(parts, [logits], 10, columns=columns)[0].tolist() == [4, -1, -1, -1, -1, 9]


def test_nothing_to_predict_has_no_likeliest_token():
    (found,) = likeliest(parts, [torch.zeros(0, 10)], 10)
    assert found.shape == (0,)
    assert found.dtype == torch.int64
