"""GGUF files: converted once into a directory as transformers writes it, kept in a cache.

The cache is ``gguf`` in what platformdirs says is the user's cache of outdim: on Linux
``$XDG_CACHE_HOME/outdim/gguf`` or ``~/.cache/outdim/gguf``. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import sys
import uuid
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from outdim import hub
from outdim.errors import BackendError, DataError
from outdim.files import digest, naming, read_json, remove_stale, sha256_of, write_json
from outdim.text import listing

_MAGIC = b"GGUF"
_ABOUT = "outdim.json"
_FORMAT = 1  # of a converted directory
_EXTRA = ("gguf", "accelerate", "platformdirs")
_FLOATS = ("F64", "F32", "F16", "BF16")


def directory_of(argument: hub.Argument, name: str) -> str:
    """Where transformers reads ``name`` from: of a GGUF file the converted copy, else ``name``.

    Raises:
        DataError: It is a file of another kind, or one that transformers cannot convert.
        BackendError: The packages of the extra ``gguf`` are missing, or the cache has no room.
    """
    path = Path(name)
    if not path.is_file():
        return name
    if not is_gguf(path):
        raise DataError(f"{argument}: {name} is a file, but no GGUF file; {hub.ADVICE}")
    return str(_converted(argument, path))


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def about(name: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Of a GGUF file its ``sha256`` and its ``tensors``, how many by type; None of all else."""
    path = Path(os.path.expanduser(os.fspath(name)))
    if not path.is_file() or not is_gguf(path):
        return None
    found = read_json(_converted("model", path) / _ABOUT)
    return {"sha256": found["file"], "tensors": found["tensors"]}


def caution(name: str | os.PathLike[str], found: dict[str, Any], dtype: str | None = None) -> str:
    """What a reader must know of the weights of a GGUF file, which are then run in ``dtype``."""
    kinds = [kind for kind in found["tensors"] if kind not in _FLOATS]
    numbers = listing([f"{kind} {n:,}" for kind, n in found["tensors"].items()])
    rounded = f", then rounded to {dtype}" if dtype not in (None, "float32") else ""
    if not kinds:
        return (
            f"{Path(name).name} is a GGUF file (tensors by type: {numbers}), read as "
            f"float32{rounded}."
        )
    return (
        f"{Path(name).name} is a GGUF file whose weights were quantised to {listing(kinds)} "
        f"(tensors by type: {numbers}); they are dequantised to float32{rounded}. All that is "
        "found is about these weights, not about those of the model before."
    )


def missing_packages() -> list[str]:
    """Those of the extra that are not installed."""
    return [name for name in _EXTRA if importlib.util.find_spec(name) is None]


def _converted(argument: hub.Argument, path: Path) -> Path:
    if missing := missing_packages():
        raise BackendError(
            f"{argument}: {path} is a GGUF file; to read it, {listing(missing)} is missing: "
            "pip install 'outdim[gguf]'"
        )
    facts = path.stat()
    return _kept(str(path.resolve()), facts.st_size, facts.st_mtime_ns, path.name)


@cache
def _kept(resolved: str, size: int, mtime_ns: int, name: str) -> Path:
    """The directory of a file in the state that it is in; looked for once in a process."""
    from platformdirs import user_cache_path

    versions = {p: importlib.metadata.version(p) for p in ("transformers", "gguf")}
    identity = {"file": sha256_of(Path(resolved)), "versions": versions, "format": _FORMAT}
    kept = user_cache_path("outdim", appauthor=False) / "gguf"
    target = kept / f"{Path(name).stem}-{digest(identity)[:16]}"
    if not _is_whole(target, identity):
        with naming(target):
            _fill(target, Path(resolved), identity)
    return target


def _is_whole(directory: Path, identity: dict[str, Any]) -> bool:
    """Whether nothing but this very conversion is there, and untouched since."""
    with suppress(OSError, DataError, KeyError):  # none, a foreign one, or one that was altered
        found = read_json(directory / _ABOUT)
        return bool(
            {key: found[key] for key in identity} == identity
            and found["written"] == _written(directory)
        )
    return False


def _written(directory: Path) -> dict[str, list[int]]:
    """Size and time of every file."""
    files = (path for path in sorted(directory.iterdir()) if path.name != _ABOUT)
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _fill(target: Path, path: Path, identity: dict[str, Any]) -> None:
    """Convert beside ``target``, then put it there: whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target.parent)
    staged = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        staged.mkdir()
        print(f"outdim: {path.name} is converted once, into {target}", file=sys.stderr)
        tensors = _convert(path, staged)
        for written in staged.iterdir():
            with written.open("rb") as file:
                os.fsync(file.fileno())
        write_json(staged / _ABOUT, {**identity, "tensors": tensors, "written": _written(staged)})
        if _is_whole(target, identity):  # another process was first, and may be reading it
            return
        with suppress(FileNotFoundError):  # what is broken or foreign makes room
            target.rename(staged / "before")
            shutil.rmtree(staged / "before", ignore_errors=True)
        with suppress(OSError):  # another process has put the same there just now
            staged.rename(target)
        if not _is_whole(target, identity):
            raise BackendError(f"{target} cannot be written: remove it, and try again.")
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _convert(path: Path, directory: Path) -> dict[str, int]:
    """Write model and tokenizer to ``directory``; how many tensors there are of each type.

    Raises:
        DataError: transformers cannot read it, or it has not all of the tensors of its class.
    """
    import torch
    import transformers

    source, file = str(path.parent), {"gguf_file": path.name}
    config = hub.from_pretrained("model", transformers.AutoConfig, source, **file)
    # Where transformers can compute with the blocks themselves, it has to be told to unpack them.
    packed = getattr(transformers, "GgufConfig", None)
    unpack = {"quantization_config": packed(dequantize=True)} if packed else {}
    with _quiet_bars():
        model, info = hub.from_pretrained(
            "model",
            _class_of(config),
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            **file,
            **unpack,
        )
        tokenizer = hub.from_pretrained("tokenizer", transformers.AutoTokenizer, source, **file)
        if missing := sorted(info["missing_keys"]):
            raise DataError(
                f"model: {path} lacks {len(missing)} tensors of {type(model).__name__}, such as "
                f"{missing[0]}, which would be random; of a file in parts, join the parts "
                "(llama-gguf-split --merge)"
            )
        with hub.quiet_unless_terminal():
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    return _tensor_types(path)


def _class_of(config: Any) -> Any:
    """With the head for the next token where the family has one: such files hold it."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    causal = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    return transformers.AutoModelForCausalLM if causal else transformers.AutoModel


def _tensor_types(path: Path) -> dict[str, int]:
    from gguf import GGUFReader

    counted = Counter(str(tensor.tensor_type.name) for tensor in GGUFReader(path).tensors)
    return dict(counted.most_common())


def _quiet_bars() -> contextlib.AbstractContextManager[Any]:
    """Bars that transformers draws without asking its own setting are kept off a log file."""
    if sys.stderr.isatty():
        return contextlib.nullcontext()
    return contextlib.redirect_stderr(io.StringIO())
