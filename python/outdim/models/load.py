"""Load a model, and say which one it is."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from outdim import gguf, hub
from outdim.errors import ArgumentError, DataError
from outdim.models.heads import Head, auto_class, check_head
from outdim.models.parts import encoder_or_decoder, text_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outdim.models.architecture import Architecture

Part = Literal["encoder", "decoder"]


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    *,
    part: Part | None = None,
    head: Head | None = None,
) -> "PreTrainedModel":
    """Load a model from a local directory, a GGUF file or a Hugging Face id, in eval mode.

    No code from the model's repository is run. Without ``head`` it is the base model, and of a
    model for text and images the text model. The class is what transformers' AutoModel takes for
    the configuration or, where weights are missing for that, the one that the checkpoint names
    (T5EncoderModel). A pooler whose weights are not there (checkpoints of masked language models)
    is left out; any other missing weight, which would be random, is an error: a head that was not
    trained is no head. Weights that are tied to others are not missing. Those of a GGUF file are
    dequantised to float32 and kept so in the user's cache (`outdim.gguf`).

    Args:
        name_or_path: Directory, GGUF file or hub id.
        dtype: "float32", "float16", "bfloat16" or a torch dtype; None: that of the checkpoint.
        device: Where to put it.
        part: Of a model that has both, the encoder or the decoder alone.
        head: "mlm" predicts masked tokens, "lm" the next one, "classifier" the label of a text.

    Raises:
        ArgumentError: An unknown dtype, part or head, or one that the model does not have.
        DataError: Nothing there, no model of transformers, or weights missing.
        BackendError: A GGUF file without the packages of the extra ``gguf``.

    Example:
        >>> model = load_model("bert-base-uncased")  # doctest: +SKIP
        >>> encoder = load_model("t5-small", part="encoder")  # doctest: +SKIP
        >>> with_head = load_model("bert-base-uncased", head="mlm")  # doctest: +SKIP
    """
    from transformers import AutoConfig

    if part is not None and part not in get_args(Part):
        raise ArgumentError(f"part: expected 'encoder' or 'decoder', got {part!r}")
    if head is not None and part is not None:
        raise ArgumentError(f"part: expected None with a head ({head!r}), got {part!r}")
    wanted = "auto" if dtype is None else _dtype(dtype)
    name = hub.expand("model", name_or_path)
    source = gguf.directory_of("model", name)
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise DataError(f"model: {name} is a directory without config.json; {hub.ADVICE}")
    config = hub.from_pretrained("model", AutoConfig, source)
    hub.refuse_kernels(config)
    if head is None:
        model = _load_either(source, config, wanted, part)
    else:
        model = _load_with_head(head, source, config, wanted)
    model.config._name_or_path = name
    model = model.to(device).eval()
    if head is not None:
        check_head(model, head)
    return model


def declared_size(name_or_path: str | Path) -> tuple[int | None, int | None]:
    """Hidden size and number of layers as the configuration has them, without the weights.

    None where it does not say, of models with two parts, and of a GGUF file, which would have to be
    converted first.

    Raises:
        DataError: No configuration that can be read.
    """
    from transformers import AutoConfig

    name = hub.expand("model", name_or_path)
    if Path(name).is_file():
        return None, None
    config = hub.from_pretrained("model", AutoConfig, name)
    if config.is_encoder_decoder:
        return None, None
    config = config.get_text_config()
    size, layers = (getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers"))
    return size if isinstance(size, int) else None, layers if isinstance(layers, int) else None


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArgumentError(f"dtype: expected float32, float16, bfloat16 or float64, got {dtype!r}")
    return found


def _load_either(name: str, config: Any, dtype: Any, part: Part | None) -> Any:
    """Load AutoModel's class or, where that does not fit the weights, the one they were saved as.

    A T5EncoderModel has the configuration of a T5Model, and half of its weights.
    """
    import transformers

    try:
        return _load(transformers.AutoModel, name, config, dtype, part)
    except DataError:
        named = str(next(iter(config.architectures or ()), ""))
        saved_as = getattr(transformers, named, None)
        if not (isinstance(saved_as, type) and issubclass(saved_as, transformers.PreTrainedModel)):
            raise
        try:
            return _load(saved_as, name, config, dtype, part)
        except DataError:
            pass  # the first error is about the class that people know
        raise


def _load_with_head(head: Head, name: str, config: Any, dtype: Any) -> Any:
    model, missing = _read(auto_class(head, config), name, config, dtype)
    if missing:
        raise DataError(
            f"model: {name!r} has no weights for {len(missing)} tensors of {type(model).__name__} "
            f"({', '.join(sorted(missing)[:4])}{', ...' if len(missing) > 4 else ''}), which would "
            f"be random; give a checkpoint that was trained with this head ({head!r})"
        )
    return model


def _read(kind: Any, name: str, config: Any, dtype: Any) -> tuple[Any, set[str]]:
    """A model, and its tensors that the checkpoint lacks; tied ones are not among them."""
    model, info = hub.from_pretrained(
        "model", kind, name, config=config, dtype=dtype, output_loading_info=True
    )
    return model, set(info["missing_keys"])


def _load(kind: Any, name: str, config: Any, dtype: Any, part: Part | None) -> Any:
    whole, lacking = _read(kind, name, config, dtype)
    model = text_model(whole)
    if part is not None:
        model = encoder_or_decoder(model, part)
    prefix = next(f"{path}." if path else "" for path, m in whole.named_modules() if m is model)
    own = dict(model.state_dict(keep_vars=True))
    missing = {key.removeprefix(prefix) for key in lacking if key.startswith(prefix)}
    random = sorted(key for key in missing & own.keys() if not key.startswith("pooler."))
    if random:
        raise DataError(
            f"model: the weights of {name!r} lack {len(random)} tensors of {type(model).__name__}, "
            f"such as {random[0]}, which would be random; the checkpoint belongs to another class "
            "or is incomplete"
        )
    if missing & own.keys():
        model.pooler = None  # as with add_pooling_layer=False
    return model


def model_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of all weights: name, dtype, shape and bytes of each, ordered by name.

    It depends on the dtype that the model was loaded in, not on how its files are cut.

    Raises:
        DataError: A weight has no values of its own in memory (`check_weights`).
    """
    check_weights(model)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_weights(model: nn.Module) -> None:
    """Raise DataError unless every weight is a plain tensor that lies in memory."""
    named = [*model.named_parameters(), *model.named_buffers()]
    if away := [name for name, tensor in named if tensor.is_meta]:
        raise DataError(
            f"model: {len(away)} of {len(named)} weights are offloaded to the meta device, such as "
            f"{away[0]}: their values are not in memory. Load the model without device_map, or "
            "with one that offloads nothing; bfloat16 takes half of the memory"
        )
    if odd := [name for name, tensor in named if not _is_plain(tensor)]:
        raise DataError(
            f"model: {len(odd)} weights are sparse or nested tensors, such as {odd[0]}; expected "
            "dense ones: convert them with to_dense()"
        )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


def describe(model: "PreTrainedModel", architecture: "Architecture") -> dict[str, Any]:
    """Return what a manifest says of a model, as plain values."""
    return {
        "name": str(model.config._name_or_path),
        "class": type(model).__name__,
        "sha256": model_sha256(model),
        "family": architecture.family,
        "placement": architecture.placement,
        "hidden_states": architecture.hidden_states_note,
        "layers": architecture.layers,
        "hidden_size": architecture.hidden_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
