"""Observing by hooks: the right tensors, not a bit of the model changed, no silence."""

import importlib
import threading
from itertools import pairwise

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture, observe
from tiny import HEADS, LAYERS, SINGLE, tiny_inputs, tiny_model


def run(model, **kwargs):
    with torch.inference_mode():
        return model(**tiny_inputs(model), **kwargs)


@pytest.mark.parametrize("family", SINGLE)
def test_points_are_the_hidden_states_of_transformers(family):
    model = tiny_model(family)
    found = architecture(model)
    with observe(model, list(found.points)) as seen:
        output = run(model, output_hidden_states=True)
    expected = dict(
        zip(["embeddings", *(p.name for p in found.blocks())], output.hidden_states, strict=True)
    )
    assert {hidden.shape for hidden in seen.values()} == {seen["embeddings"].shape}
    last = f"block.{LAYERS - 1}"
    if "final_norm" in seen or family == "opt-post":
        del expected[last]  # transformers gives it after the final norm or OPT's projection
    for name, hidden in expected.items():
        assert torch.equal(seen[name], hidden), name
    if "final_norm" in seen:
        end = output.last_hidden_state
        assert torch.equal(seen["final_norm"], end)
        assert not torch.equal(seen[last], end)
        norm = model.get_submodule(found.points["final_norm"].module)
        with torch.inference_mode():
            assert torch.equal(norm(seen[last]), end)
    for i in range(LAYERS):
        if (name := f"block.{i}.norm") in seen:
            point = found.points[f"block.{i}"]
            norm, hidden = model.get_submodule(point.norm), seen[f"block.{i}"]
            with torch.inference_mode():
                assert torch.equal(
                    seen[name], hidden if found.placement == "post" else norm(hidden)
                )


@pytest.mark.parametrize("family", SINGLE)
def test_no_bit_of_the_logits_changes(family):
    model = tiny_model(family, head=HEADS[family])
    plain = run(model).logits
    with observe(model) as seen:
        observed = run(model).logits
    assert torch.equal(observed, plain)
    assert torch.equal(run(model).logits, plain)
    assert list(seen) == ["embeddings", *(f"block.{i}" for i in range(LAYERS))]
    assert all(hidden.shape[0] == 3 for hidden in seen.values())


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_encoder_is_observed_in_a_run_of_the_whole_model(family):
    model = tiny_model(family)
    inputs = tiny_inputs(model)
    with (
        torch.inference_mode(),
        observe(model.get_encoder()) as encoder,
        observe(model.get_decoder()) as decoder,
    ):
        output = model(
            **inputs, decoder_input_ids=inputs["input_ids"][:, :4], output_hidden_states=True
        )
    assert torch.equal(encoder["block.1"], output.encoder_hidden_states[2])
    assert torch.equal(decoder["block.1"], output.decoder_hidden_states[2])
    assert decoder["block.1"].shape[:2] == (3, 4)


def test_the_sink_gets_each_point_once_a_forward_in_order():
    model = tiny_model("albert")
    found = architecture(model)
    heard = []
    with observe(
        model, found.blocks(), lambda point, hidden: heard.append((point.layer, hidden.shape[1]))
    ) as seen:
        for length in (3, 9):
            with torch.no_grad():
                model(**tiny_inputs(model, length=length))
    assert heard == [(i + 1, length) for length in (3, 9) for i in range(LAYERS)]
    assert len(seen) == 0


def test_shared_layers_give_each_layer_its_own_state():
    model = tiny_model("albert")
    with observe(model) as seen:
        run(model)
    assert all(not torch.equal(a, b) for a, b in pairwise(seen.values()))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradient_modes(mode):
    model = tiny_model("bert")
    with mode(), observe(model) as seen:
        output = model(**tiny_inputs(model)).last_hidden_state
    assert torch.equal(seen["block.3"], output)
    assert not seen["block.3"].requires_grad


def test_a_sink_may_take_gradients():
    model = tiny_model("gpt2")
    kept = {}
    with observe(model, ["block.1"], lambda point, hidden: kept.update({point.name: hidden})):
        output = model(**tiny_inputs(model)).last_hidden_state
    (gradient,) = torch.autograd.grad(output.sum(), kept["block.1"])
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradient_checkpointing_fires_once(family):
    model = tiny_model(family, attention_dropout=0.0).train()
    model.activation_checkpointing_enable()
    heard = []
    with observe(
        model, ["block.0", "block.0.norm"], lambda point, hidden: heard.append(point.name)
    ):
        model(**tiny_inputs(model)).last_hidden_state.sum().backward()  # runs every block again
    assert sorted(heard) == ["block.0", "block.0.norm"]


def test_generation_is_one_forward_a_token():
    model = tiny_model("llama", head="CausalLM")
    lengths = []
    with observe(model, ["block.2"], lambda point, hidden: lengths.append(hidden.shape[1])):
        model.generate(
            torch.tensor([[7, 8, 9]]), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
    assert lengths == [3, 1, 1]


def test_contexts_nest():
    model = tiny_model("gpt2")
    with observe(model, ["block.0"]) as outer:
        with observe(model, ["block.0", "block.1"]) as inner:
            run(model)
        first = outer["block.0"]
        assert torch.equal(first, inner["block.0"])
        with torch.inference_mode():
            model(**tiny_inputs(model, seed=2))
    assert not torch.equal(outer["block.0"], first)


def hooks_of(model):
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
        for m in model.modules()
    ]


def test_an_exception_leaves_nothing_behind():
    model = tiny_model("bert")
    before = hooks_of(model)

    def fail(point, hidden):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), observe(model, ["block.1"], fail):
        run(model)
    assert hooks_of(model) == before
    with pytest.raises(IndexError), observe(model):
        model(torch.full((1, 3), 10**6))
    assert hooks_of(model) == before


def test_a_forward_that_failed_may_be_tried_again():
    model = tiny_model("bert")
    failures = iter([True, False])

    def sink(point, hidden):
        if point.name == "block.2" and next(failures):
            raise torch.OutOfMemoryError("full")
        heard.append(point.name)

    heard = []
    with observe(model, ["block.1", "block.2"], sink):
        with pytest.raises(torch.OutOfMemoryError):
            run(model)
        run(model)
    assert heard == ["block.1", "block.1", "block.2"]


def _replace_block(model, i):
    """Put another module with the same forward in the place of a block, hooks and all."""
    original = model.encoder.layer[i]
    model.encoder.layer[i] = torch.nn.Module()
    model.encoder.layer[i].forward = original.forward
    return model


def test_a_point_that_does_not_fire_is_an_error():
    model = tiny_model("bert")
    points = architecture(model).points
    with (
        pytest.raises(
            DataError, match=r"exactly once in a forward of BertModel, but block.3 \(0 times\)"
        ),
        observe(model, [points["block.2"], points["block.3"]]),
    ):
        run(_replace_block(model, 3))


def test_a_point_that_fires_twice_is_an_error():
    model = tiny_model("bert")
    points = architecture(model).points
    model.encoder.layer[1] = model.encoder.layer[0]
    with (
        pytest.raises(
            DataError,
            match=r"block.0 \(2 times\), block.1 \(2 times\); the points belong to another model",
        ),
        observe(model, [points["block.0"], points["block.1"]]),
    ):
        run(model)


def test_running_a_part_is_an_error():
    model = tiny_model("bert")
    with (
        pytest.raises(DataError, match="no forward of the observed model was complete"),
        observe(model, sink=lambda point, hidden: None),
    ):
        model.encoder.layer[0](torch.randn(1, 3, 32))


def test_parts_that_hold_all_points_count_as_the_model():
    model = tiny_model("gpt2", head="CausalLM")
    with torch.inference_mode(), observe(model, ["block.1"]) as seen:
        model(**tiny_inputs(model))
        first = seen["block.1"]
        model.transformer(**tiny_inputs(model))
    assert torch.equal(first, seen["block.1"])


def test_no_forward_is_an_error_for_those_who_want_the_states():
    model = tiny_model("bert")
    with pytest.raises(DataError, match="none fired"), observe(model):
        pass
    with observe(model, sink=lambda point, hidden: None):
        pass  # a sink knows that it got nothing: a shard without documents


def test_bad_points():
    model = tiny_model("bert")
    for points, message in (
        (["block.9"], "'block.9'; it has embeddings, block.0"),
        ([], "at least one point"),
        ("block.0", r"pass \['block.0'\]"),
        (["block.0", "block.0"], "block.0 more than once"),
    ):
        with pytest.raises(ArgumentError, match=message), observe(model, points):
            pass


def test_points_of_the_architecture_need_no_probe(monkeypatch):
    model = tiny_model("gpt2")
    blocks = architecture(model).blocks()
    monkeypatch.setattr(importlib.import_module("outdim.models.observe"), "architecture", None)
    with observe(model, blocks) as seen:
        run(model)
    assert len(seen) == LAYERS


def test_points_of_another_model():
    points = architecture(tiny_model("gpt2")).points
    with (
        pytest.raises(ArgumentError, match=r"BertModel has no module h.1; the points are those of"),
        observe(tiny_model("bert"), [points["block.1"]]),
    ):
        pass


def test_attention_is_what_is_added():
    model = tiny_model("gpt2")
    with observe(model, ["block.0", "block.1", "block.1.attention"]) as seen:
        run(model)
    block = model.h[1]
    with torch.inference_mode():
        middle = seen["block.1.attention"] + seen["block.0"]
        assert torch.equal(middle + block.mlp(block.ln_2(middle)), seen["block.1"])


def test_time_first_states_are_handed_out_batch_first():
    model = tiny_model("xlnet")
    assert not architecture(model).points["block.0"].batch_first
    with observe(model) as seen:
        output = run(model)
    assert seen["block.0"].shape == (3, 7, 32)
    assert torch.equal(seen["block.3"], output.last_hidden_state)


def test_looking_for_points_while_observed_is_silent():
    model = tiny_model("bert")
    heard = []
    with observe(model, ["block.0"], lambda point, hidden: heard.append(hidden.shape)):
        architecture(model)
    assert heard == []


def test_an_interrupt_inside_a_forward_loses_no_later_one():
    """torch calls no hook after a BaseException, not even those for failed forwards."""
    model = tiny_model("bert", head=HEADS["bert"])
    seen, strike = [], [True]

    def sink(point, hidden):
        if strike:
            strike.pop()
            raise KeyboardInterrupt
        seen.append(point.name)

    with observe(model, ["block.0", "block.1"], sink):
        with pytest.raises(KeyboardInterrupt):
            run(model)
        for n in range(1, 6):
            run(model)
            assert seen == n * ["block.0", "block.1"]
        seen.clear()
        strike.append(True)
        with pytest.raises(KeyboardInterrupt):
            run(model)
        with torch.inference_mode():  # by way of the base: a frame inside the interrupted one
            model.base_model(**tiny_inputs(model))
        assert seen == ["block.0", "block.1"]
        model.base_model.encoder.layer[0](torch.zeros(1, 2, 32))  # outside of any forward
        assert seen == ["block.0", "block.1"]


def test_forwards_of_eight_threads_lose_nothing():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    seen = []

    def work():
        with torch.inference_mode():
            for _ in range(25):
                model(**inputs)

    with observe(model, ["block.0", "block.1"], lambda point, hidden: seen.append(point.name)):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == 200 * ["block.0", "block.1"]
