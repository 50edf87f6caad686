"""After an ablation, and when something fails within one, the model is what it was."""

import pytest
import torch
from ablated_by_hand import DIMS, headed, kept_base, logits
from outdim import Ablation, ablate, ablate_each
from outdim.errors import ArgumentError, DataError
from outdim.models import apply_ablation, architecture
from tiny import HIDDEN, tiny_inputs, tiny_model

pytestmark = pytest.mark.usefixtures("found_once")


def state_of(model):
    return [
        (name, "forward" in vars(m), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["state", "parameters", "denominator"])
def test_everything_is_put_back_when_a_forward_raises(at, error):
    model = headed("bert")
    plain, before = logits(model), state_of(model)
    weights = {k: (v.data_ptr(), v._version) for k, v in model.state_dict().items()}

    def fail(module, args, output):
        raise error("stop")

    handle = model.bert.encoder.layer[2].output.LayerNorm.register_forward_hook(fail)
    with pytest.raises(error), ablate(model, DIMS, at=at):
        logits(model)
    handle.remove()
    assert state_of(model) == before
    assert {k: (v.data_ptr(), v._version) for k, v in model.state_dict().items()} == weights
    assert torch.equal(logits(model), plain)


def test_a_forward_that_failed_spoils_no_later_one():
    model = headed("bert")
    strike = [True]

    def fail(module, args, output):
        if strike:
            strike.pop()
            raise KeyboardInterrupt

    with ablate(model, DIMS, at="parameters"):
        expected = logits(model)
        handle = model.bert.encoder.layer[2].output.LayerNorm.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            logits(model)
        assert torch.equal(logits(model), expected)
        handle.remove()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about its own
def test_under_torch_compile_the_model_runs_uncompiled():
    model = tiny_model("bert")
    inputs = tiny_inputs(model)
    compiled = torch.compile(model, backend="eager")
    with torch.inference_mode():
        plain = compiled(**inputs).last_hidden_state
        for how in (lambda: compiled, lambda: torch.compile(model, backend="eager")):
            with ablate(model, DIMS):
                assert (how()(**inputs).last_hidden_state[..., DIMS] == 0).all()
            assert torch.equal(compiled(**inputs).last_hidden_state, plain)
        with pytest.raises(RuntimeError, match="fullgraph"), ablate(model, DIMS):
            torch.compile(model, backend="eager", fullgraph=True)(**inputs)
    torch._dynamo.reset()
    with pytest.raises(ArgumentError, match="got OptimizedModule"), ablate(compiled, DIMS):
        pass
    model.compile()
    with pytest.raises(ArgumentError, match="expected one that is not compiled"), ablate(model, 3):
        pass


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("bert", {"dims": [32]}, "dims: expected 0 to 31, got 32"),
        ("bert", {"dims": [3], "layers": [5]}, r"layers: expected 0 \(the embeddings\) to 4, got"),
        ("bert", {"dims": [3], "at": "readers"}, r"bert model \(post-LN\).*at='parameters' edits"),
        ("gpt2", {"dims": [3], "at": "parameters"},
         r"no norm gives the output of layer 1 in this gpt2 model \(pre-LN\).*1 by h.1.ln_1 and "
         r"h.1.ln_2, .* so on to 4 by ln_f; at='readers' edits.*at='state' takes"),
        ("electra", {"dims": [3], "layers": [0], "at": "parameters"}, "the output of the embedd"),
        ("olmo2", {"dims": [3], "at": "denominator"}, "no norm takes or gives layer 1 in this"),
        ("llama", {"dims": [3], "at": "readers", "only": "beta"}, "only: layers.1.*has no beta"),
        ("olmo", {"dims": [3], "at": "readers"}, "at: layers.1.*has no gamma or beta, but no"),
        ("bert", {"dims": range(32), "at": "denominator"}, "expected fewer than all 32 for at="),
        ("bert", {"dims": range(32), "at": "parameters", "mode": "mean"}, "fewer than all 32"),
        ("bert", {"dims": [3], "at": "denominator", "mode": "scale", "value": -1.0}, "weights >="),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do(family, arguments, message):
    model = kept_base(family)
    before = state_of(model)
    with pytest.raises(ArgumentError, match=message), ablate(model, **arguments):
        pass
    assert state_of(model) == before


def test_nothing_that_ran_is_an_error():
    model = headed("bert")
    with pytest.raises(DataError, match="none fired"), ablate(model, DIMS):
        pass
    with pytest.raises(DataError, match="none fired"), ablate(model, DIMS):
        model.bert.encoder.layer[0](torch.zeros(1, 2, HIDDEN))
    with pytest.raises(ArgumentError, match="ablations: expected at least one"), ablate_each(
        model, []
    ):  # fmt: skip
        pass


def test_a_point_that_does_not_fire_is_an_error():
    model = tiny_model("bert")
    found = architecture(model)
    # A block that leaves its norm out.
    model.encoder.layer[2].output.forward = lambda hidden, residual: residual
    wanted = Ablation(DIMS, at="parameters")
    with (
        pytest.raises(DataError, match=r"norm encoder.layer.2.output.LayerNorm \(0 times\)"),
        apply_ablation(model, wanted, found=found),
    ):
        model(**tiny_inputs(model))
