"""Scores are what the definitions say, by finite differences of real edits; planted causes lead."""

import gc
import weakref

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import Ablation, Predictor, apply_ablation, architecture, observe
from outdim.models.screening import SCORES, Screener
from tiny import HEADS, LAYERS, SINGLE, tiny_inputs, tiny_model
from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.usefixtures("found_once")
TEXT = [family for family in SINGLE if HEADS[family] in ("CausalLM", "MaskedLM")]


def headed(family, **options):
    return tiny_model(family, head=HEADS[family], **options)


def task(model, seed=1):
    """Ids, mask (which pads) and labels, as a causal model has them."""
    inputs = tiny_inputs(model, seed=seed)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = torch.full_like(ids, -1)
    labels[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], -1)
    return ids, mask, labels


def plain_loss(model, ids, mask, labels):
    logits = model(input_ids=ids, attention_mask=mask).logits.double()
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")


def screened(model, *batch, layers=None):
    screener = Screener(model, layers)
    screener.add_tokens(Predictor(model), *batch)
    return screener.result()


def by_hand(model, ids, mask, labels):
    """Hidden states and gradients of plain autograd, [L, N, D] each, without padding."""
    points = architecture(model).blocks()
    held = {}

    def keep(point, hidden):
        hidden.retain_grad()
        held[point.name] = hidden

    with observe(model, points, keep):
        plain_loss(model, ids, mask, labels).backward()
    chosen = mask.bool()
    h, g = (
        torch.stack([pick(held[point.name])[chosen] for point in points])
        for pick in (lambda t: t.detach(), lambda t: t.grad)
    )
    return h, g


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "gemma2", "electra"])
def test_scores_are_those_of_plain_autograd(family):
    model = headed(family).double()
    batch = task(model)
    h, g = by_hand(model, *batch)
    found = screened(model, *batch)
    product = h * g
    expected = {
        "absolute": product.abs().sum(1),
        "squared": product.square().sum(1),
        "signed": -product.sum(1),
        "magnitude": h.abs().sum(1),
    }
    assert tuple(found.scores) == SCORES
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(found.scores[name]), value)
        torch.testing.assert_close(torch.from_numpy(found.overall(name)), value.sum(0))
    assert found.loss == pytest.approx(float(plain_loss(model, *batch).detach()), rel=1e-6)
    assert (found.targets, found.tokens) == (int((batch[2] >= 0).sum()), int(batch[1].sum()))
    assert found.layers == tuple(range(1, LAYERS + 1))


@pytest.mark.parametrize("family", [one for one in TEXT if one != "gpt_oss"])  # its routes jump
def test_the_signed_score_is_the_slope_of_real_edits(family):
    """Whatever the architecture: of each layer alone, a little less of the dimension."""
    model = headed(family)
    batch = task(model)
    found = screened(model, *batch, layers=[0, 2, LAYERS])
    points = architecture(model)
    step = 1e-2  # far above what float32 rounds, and norms of some models are always in that
    for row, layer in enumerate(found.layers):
        for dim in (0, 17):
            losses = []
            for factor in (1 - step, 1 + step):
                ablation = Ablation([dim], [layer], mode="scale", value=factor)
                with torch.no_grad(), apply_ablation(model, ablation, found=points):
                    losses.append(float(plain_loss(model, *batch)))
            slope = (losses[0] - losses[1]) / (2 * step)
            assert found.scores["signed"][row, dim] == pytest.approx(
                slope, rel=0.1, abs=5e-3
            )  # kinks


def test_the_cause_of_the_loss_leads_and_what_is_not_read_has_none():
    """The output layer reads dimension 9 above all, and not dimension 4."""
    model = headed("llama")
    with torch.no_grad():
        model.lm_head.weight[:, 9] *= 20
        model.lm_head.weight[:, 4] = 0
    found = screened(model, *task(model), layers=[LAYERS])
    for name in ("absolute", "squared"):
        assert found.scores[name][0].argmax() == 9
    # Only the norm still knows of dimension 4.
    assert found.scores["absolute"][0, 4] < 0.05 * found.scores["absolute"][0, 9]


def test_batches_add_up_in_any_order_and_split():
    model = headed("gpt2")
    predictor = Predictor(model)
    batches = [task(model, seed) for seed in (1, 2, 3)]
    whole = Screener(model)
    for batch in batches:
        whole.add_tokens(predictor, *batch)
    parts = []
    for batch in batches:
        parts.append(Screener(model))
        parts[-1].add_tokens(predictor, *batch)
    merged = Screener(model)
    for part in reversed(parts):
        merged.merge(part.state_dict())
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=1e-12, atol=0)
    assert whole.state_dict()["sums"].dtype == torch.float64


def test_padding_is_selected_out_and_not_multiplied():
    """Garbage in the padded ids, and none of it in the scores of a model that masks it."""
    model = headed("bert")
    ids, mask, labels = task(model)
    other = torch.where(mask.bool(), ids, 7)
    first, second = (screened(model, some, mask, labels) for some in (ids, other))
    for name in SCORES:
        torch.testing.assert_close(
            torch.from_numpy(first.scores[name]), torch.from_numpy(second.scores[name])
        )


def test_any_loss_will_do():
    model = tiny_model("bert").double()
    ids, mask, _ = task(model)
    screener = Screener(model, [LAYERS])

    def loss():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[..., 5].sum()

    screener.add(loss, torch.ones_like(mask))
    found = screener.result().scores["absolute"][0]
    assert found[5] > 0
    assert (found[:5] == 0).all()


def test_the_model_stays_as_it_was():
    model = headed("gpt2")
    model.lm_head.weight.requires_grad_(False)
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    with torch.inference_mode():
        screened(model, *task(model))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_graph_is_gone_at_once():
    model = headed("gpt2")
    held = []
    gc.disable()
    try:
        with observe(model, ["block.1"], lambda point, hidden: held.append(weakref.ref(hidden))):
            screened(model, *task(model))
        assert held
        assert all(ref() is None for ref in held)
    finally:
        gc.enable()


def test_a_batch_that_fails_adds_nothing():
    model = headed("gpt2")
    predictor, batch, screener = Predictor(model), task(model), Screener(model)
    screener.add_tokens(predictor, *batch)
    before = screener.state_dict()["sums"].clone()

    def fails():
        plain_loss(model, *batch)
        raise MemoryError

    with pytest.raises(MemoryError):
        screener.add(fails, batch[1])
    with pytest.raises(DataError, match="loss: expected a finite number"):
        screener.add(lambda: plain_loss(model, *batch) * torch.inf, batch[1])
    with pytest.raises(DataError, match="gradients are not finite"):
        screener.add(lambda: (plain_loss(model, *batch) * 0).sqrt(), batch[1])
    with pytest.raises(ArgumentError, match="loss: expected a scalar"):
        screener.add(lambda: plain_loss(model, *batch).detach(), batch[1])
    with pytest.raises(DataError, match="none fired"):
        screener.add(lambda: torch.zeros((), requires_grad=True), batch[1])
    with pytest.raises(DataError, match="attention_mask: expected"):
        screener.add(lambda: plain_loss(model, *batch), batch[1][:, :-1])
    assert torch.equal(screener.state_dict()["sums"], before)
    assert all(p.requires_grad for p in model.parameters())
    screener.add_tokens(predictor, batch[0], batch[1], torch.full_like(batch[0], -1))
    assert torch.equal(screener.state_dict()["sums"], before)


@pytest.mark.parametrize(
    ("layers", "said"),
    [([], "at least one"), ([1, 1], "each once"), ([LAYERS + 1], f"to {LAYERS}, got")],
)
def test_layers_that_are_not_there(layers, said):
    with pytest.raises(ArgumentError, match=said):
        Screener(headed("gpt2"), layers)


def test_training_mode_and_nothing_added():
    model = headed("gpt2")
    with pytest.raises(DataError, match="no batch"):
        Screener(model).result()
    with pytest.raises(ArgumentError, match="eval"):
        Screener(model.train())
