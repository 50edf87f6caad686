"""GGUF files: dequantised exactly, converted once, and never taken from a broken cache."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch
from outdim import gguf, load_model, load_tokenizer
from outdim.analysis.input_options import ModelOptions
from outdim.analysis.inputs import Inputs
from outdim.cli import main
from outdim.errors import BackendError, DataError
from outdim.models import architecture, model_sha256
from tiny import LAYERS, tiny_inputs

pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("accelerate", reason="the extra gguf is not installed")
from gguf_files import write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test, and a process that has not looked yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gguf._kept.cache_clear()
    yield tmp_path / "cache" / "outdim" / "gguf"
    gguf._kept.cache_clear()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def entry(cache):
    (found,) = cache.iterdir()
    return found


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F32"])
def test_the_weights_are_those_of_the_file(tmp_path, kind):
    path = tmp_path / "tiny.gguf"
    expected = write_gguf(path, kind)
    model = load_model(path, head="lm")
    assert type(model) is type(expected)
    assert model.dtype == torch.float32
    theirs = dict(model.named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.equal(theirs[name], parameter), name
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).logits, expected(**inputs).logits)
    base = load_model(path)
    assert architecture(base).layers == LAYERS
    assert torch.equal(base.embed_tokens.weight, expected.model.embed_tokens.weight)
    assert base.config._name_or_path == str(path)


def test_the_tokenizer_is_that_of_the_file(file):
    tokenizer = load_tokenizer(file)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the hat")["input_ids"])[0] == "the"
    assert tokenizer.bos_token_id == 0


def test_a_file_is_converted_once(file, cache, capsys):
    first = load_model(file)
    assert "tiny.gguf is converted once, into" in capsys.readouterr().err
    kept = entry(cache)
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    gguf._kept.cache_clear()
    assert model_sha256(load_model(file)) == model_sha256(first)
    assert {path: path.stat().st_mtime_ns for path in entry(cache).iterdir()} == before
    assert capsys.readouterr() == ("", "")
    # The name plays no part but in that of the directory; the bytes do.
    write_gguf(file, "Q8_0")
    assert model_sha256(load_model(file)) != model_sha256(first)
    assert len(list(cache.iterdir())) == 2


def test_another_version_of_a_library_converts_anew(file, cache, monkeypatch):
    load_model(file)
    version = gguf.importlib.metadata.version
    monkeypatch.setattr(
        gguf.importlib.metadata, "version", lambda p: "0" if p == "gguf" else version(p)
    )
    gguf._kept.cache_clear()
    load_model(file)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("harm", ["truncated", "altered", "gone", "foreign", "unsigned", "more"])
def test_a_broken_or_foreign_entry_is_rebuilt(file, cache, harm):
    sound = model_sha256(load_model(file))
    kept = entry(cache)
    weights, about = kept / "model.safetensors", kept / "outdim.json"
    content = bytearray(weights.read_bytes())
    if harm == "truncated":
        weights.write_bytes(content[:-9])
    elif harm == "altered":
        content[-9] ^= 1
        weights.write_bytes(content)
    elif harm == "gone":
        (kept / "tokenizer.json").unlink()
    elif harm == "foreign":
        shutil.rmtree(kept)
        kept.mkdir()
        (kept / "config.json").write_text("{}")
    elif harm == "unsigned":
        said = json.loads(about.read_text())
        about.write_text(json.dumps({**said, "tensors": {"F32": 1}}))
    else:
        (kept / "model-00001-of-00002.safetensors").write_bytes(b"")
    gguf._kept.cache_clear()
    assert model_sha256(load_model(file)) == sound
    assert gguf.about(file)["tensors"] == {"Q4_1": 7 * LAYERS, "F32": 2 * LAYERS + 3}
    assert entry(cache) == kept  # nothing else is left


def test_a_conversion_that_fails_leaves_nothing(file, cache, monkeypatch):
    monkeypatch.setattr(gguf, "_tensor_types", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_model(file)
    assert not list(cache.iterdir())


def test_what_another_process_has_put_there_meanwhile_stays(file, cache, monkeypatch):
    convert, first = gguf._convert, []

    def slowly(path, directory):
        found = convert(path, directory)
        if not first:  # before this one is done, another begins and ends
            first.append(True)
            gguf._kept.cache_clear()
            load_model(file)
            first.append({path: path.stat().st_ino for path in done(cache).iterdir()})
        return found

    def done(cache):
        (found,) = (path for path in cache.iterdir() if not path.name.startswith("."))
        return found

    monkeypatch.setattr(gguf, "_convert", slowly)
    load_model(file)
    assert {path: path.stat().st_ino for path in entry(cache).iterdir()} == first[1]


@pytest.mark.slow
def test_processes_that_convert_at_once(file, cache):
    code = f"import outdim; outdim.load_model({str(file)!r})"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    before = {path: path.stat().st_mtime_ns for path in entry(cache).iterdir()}
    load_model(file)
    assert {path: path.stat().st_mtime_ns for path in entry(cache).iterdir()} == before


def test_without_the_extra(file, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gguf" else find(name)
    )
    for load in (load_model, load_tokenizer):
        with pytest.raises(
            BackendError, match=r"is a GGUF file; to read it, gguf is missing: .*outdim\[gguf\]"
        ):
            load(file)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"model: there is no file nowhere\.gguf"):
        load_model("nowhere.gguf")
    path = tmp_path / "weights.bin"
    path.write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match="is a file, but no GGUF file; give a directory"):
        load_model(path)
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(DataError, match=r"model: .* cannot be loaded"):
        load_model(path)
    write_gguf(path, skip="layers.2.mlp.up_proj")
    with pytest.raises(DataError, match=r"lacks 1 tensors of LlamaForCausalLM, such as"):
        load_model(path)


def test_what_a_reader_is_told(file):
    inputs = Inputs()
    recorded = inputs.resolve([ModelOptions(model=str(file))])
    assert recorded["model"] == str(file)
    assert inputs.cautions == [
        "tiny.gguf is a GGUF file whose weights were quantised to Q4_1 (tensors by type: F32 11 "
        "and Q4_1 28); they are dequantised to float32. All that is found is about these weights, "
        "not about those of the model before."
    ]
    rounded = Inputs()
    rounded.resolve([ModelOptions(model=str(file), dtype="bfloat16")])
    assert "they are dequantised to float32, then rounded to bfloat16. All" in rounded.cautions[0]
    packed = {"sha256": gguf.sha256_of(file), "tensors": {"Q4_1": 28, "F32": 11}}
    assert inputs.about_model["gguf"] == packed
    assert ModelOptions.identity(inputs)["gguf"] == packed["sha256"]
    write_gguf(file, "F32")
    found = gguf.about(file)
    assert gguf.caution(file, found) == (
        "tiny.gguf is a GGUF file (tensors by type: F32 39), read as float32."
    )


@pytest.mark.parametrize(
    "command",
    ["detect", *(pytest.param(name, marks=pytest.mark.slow) for name in ("correlate", "analyze"))],
)
def test_commands_take_a_gguf_file(file, corpus, tmp_path, command, capsys):
    text = [] if command == "detect" else [str(corpus)]
    run = tmp_path / "run"
    assert main([command, *text, "--model", str(file), "--output", str(run)]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["model"]["gguf"]["tensors"]["Q4_1"] == 28
    assert "quantised to Q4_1" in (run / "report.html").read_text()
    capsys.readouterr()
    write_gguf(file, "Q8_0")
    assert main([command, *text, "--model", str(file), "--output", str(run)]) == 5
    assert "gguf" in capsys.readouterr().err
