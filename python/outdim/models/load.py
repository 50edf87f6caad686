"""Load a model, and say which one it is."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from outdim import hub
from outdim.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.models.architecture import Architecture

_FIX = (
    "give a directory written by save_pretrained (config.json and weights), or a Hugging Face id "
    "while the hub can be reached"
)


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> "PreTrainedModel":
    """Load the base model (no head) of a local directory or a Hugging Face id, in eval mode.

    No code from the model's repository is run. A pooler whose weights are not there (checkpoints of
    masked language models) is left out; any other missing weight, which would be random, is an
    error.

    >>> model = load_model("bert-base-uncased")  # doctest: +SKIP

    Args:
        name_or_path: directory or hub id.
        dtype: "float32", "float16", "bfloat16" or a torch dtype; None: that of the checkpoint.
        device: where to put it.

    Raises:
        ArgumentError: an unknown dtype.
        DataError: nothing there, no model of transformers, or weights missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    name = hub.expand("model", name_or_path)
    wanted = "auto" if dtype is None else _dtype(dtype)
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise DataError(f"model: {name} is a directory without config.json; {_FIX}")
    with _quiet_unless_terminal():
        try:
            model, info = AutoModel.from_pretrained(
                name, dtype=wanted, trust_remote_code=False, output_loading_info=True
            )
        # SafetensorError: a file that is damaged or cut short. ImportError: a package is missing.
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(f"model: {name!r} cannot be loaded ({reason}); {_FIX}") from error
    _drop_missing_pooler(model, sorted(info["missing_keys"]), name)
    return model.to(device).eval()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError(f"dtype: expected float32, float16, bfloat16 or float64, got {dtype!r}")
    return found


def _drop_missing_pooler(model: Any, missing: list[str], name: str) -> None:
    other = [key for key in missing if not key.startswith("pooler.")]
    if other:
        raise DataError(
            f"model: the weights of {name!r} lack {len(other)} tensors of {type(model).__name__}, "
            f"such as {other[0]}, which would be random; the checkpoint belongs to another class "
            "or is incomplete"
        )
    if missing:
        model.pooler = None  # as with add_pooling_layer=False


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Keep transformers' progress bar and load report off a stderr that nobody watches."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def model_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of all weights: name, dtype, shape and bytes of each, ordered by name.

    It depends on the dtype that the model was loaded in, not on how its files are cut.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def describe(model: "PreTrainedModel", architecture: "Architecture") -> dict[str, Any]:
    """Return what a manifest says of a model, as plain values."""
    return {
        "name": str(model.config._name_or_path),
        "sha256": model_sha256(model),
        "family": architecture.family,
        "placement": architecture.placement,
        "layers": len(architecture.blocks()),
        "hidden_size": architecture.hidden_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
