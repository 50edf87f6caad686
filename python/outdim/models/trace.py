"""One small forward pass, with what went into and came out of every module."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from outdim.errors import DataError
from outdim.models.points import first_hidden

# Two different small sizes, so that [B, S, D], [S, B, D] and [B * S, D] can be told apart.
BATCH, LENGTH = 2, 5

# Set by transformers once its hooks for output_hidden_states are on a model. Where config asks for
# them, our forward is the one that puts them on, and they go with our hooks.
_COLLECTING = "_output_capturing_hooks_installed"


@dataclass(eq=False)
class Call:
    """One call of a module: when it began and ended, and copies of what it took and gave.

    index: how many calls of the module came before.
    tensors: the floating-point tensors among its positional arguments.
    source: the hidden states it took.
    """

    path: str
    module: nn.Module
    index: int
    start: int
    stop: int = -1
    tensors: tuple[torch.Tensor, ...] = ()
    source: torch.Tensor | None = None
    output: torch.Tensor | None = None

    def holds(self, other: "Call") -> bool:
        """Whether `other` took place inside this call."""
        return self.start < other.start and other.stop < self.stop


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of one forward in the order in which they began, and their number by path."""

    calls: tuple[Call, ...]
    counts: Counter[str]


def trace(model: nn.Module) -> Trace:
    """Run `model` on a few dummy tokens, images or sounds and record every call.

    Runs in eval mode under `no_grad`, with the hooks that others have put on the model out of the
    way, and leaves modes and hooks as they were. Raises DataError when the model cannot be run so.
    """
    calls: list[Call] = []
    open_calls: list[Call] = []
    counts: Counter[str] = Counter()
    clock = 0

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    def begin(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(path, module, counts[path], tick())
        call.tensors = tuple(
            t
            for a in args
            if isinstance(a, torch.Tensor) and (t := _copy(first_hidden(a))) is not None
        )
        call.source = call.tensors[0] if call.tensors else _copy(first_hidden(kwargs))
        counts[path] += 1
        calls.append(call)
        open_calls.append(call)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        call = open_calls.pop()
        call.stop, call.output = tick(), _copy(first_hidden(output))

    with _alone(model), ExitStack() as hooks, torch.no_grad():
        for path, module in model.named_modules():
            hooks.callback(
                module.register_forward_pre_hook(partial(begin, path), with_kwargs=True).remove
            )
            hooks.callback(module.register_forward_hook(end).remove)
        try:
            model(**dummy_inputs(model))
        except Exception as error:
            raise DataError(
                f"model: {type(model).__name__} does not run on {BATCH} x {LENGTH} dummy inputs "
                f"({type(error).__name__}: {error}); pass the text encoder or decoder itself, as "
                "transformers' AutoModel gives it"
            ) from error
    return Trace(tuple(calls), counts)


def dummy_inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the smallest input that `model` takes, by the name of its main input."""
    config: Any = model.config
    name = getattr(model, "main_input_name", "input_ids")
    like = next(model.parameters())
    if name == "input_ids":
        return {"input_ids": _dummy_ids(model).to(like.device)}
    generator = torch.Generator().manual_seed(0)
    if name == "pixel_values":
        size = config.image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        values = torch.randn(BATCH, config.num_channels, height, width, generator=generator)
    elif name == "input_values":
        values = torch.randn(BATCH, 4000, generator=generator)
    else:
        raise DataError(
            f"model: {type(model).__name__} takes {name}, expected input_ids, pixel_values or "
            "input_values"
        )
    return {name: values.to(like.device, like.dtype)}


def _dummy_ids(model: nn.Module) -> torch.Tensor:
    """Distinct ids away from the special tokens, which sit at one of the ends of a vocabulary."""
    config: Any = model.config
    special: set[int | None] = set()
    for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
        value = getattr(config, f"{name}_token_id", None)
        special.update(value if isinstance(value, list | tuple) else [value])
    step = max(1, config.vocab_size // (2 * BATCH * LENGTH))
    ids = [i for i in range(config.vocab_size // 3, config.vocab_size, step) if i not in special]
    ids = (ids or [0]) * (BATCH * LENGTH)
    return torch.tensor(ids[: BATCH * LENGTH]).reshape(BATCH, LENGTH)


def _copy(hidden: torch.Tensor | None) -> torch.Tensor | None:
    # On the CPU: the modules of one model may lie on several devices.
    return None if hidden is None else hidden.detach().to("cpu", copy=True)


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Give the model eval mode and no hooks: what others edit is no evidence of how it is built."""
    modules = list(model.modules())
    kept = [(m.training, m._forward_hooks, m._forward_pre_hooks) for m in modules]
    collecting = [_COLLECTING in vars(module) for module in modules]
    try:
        for module in modules:
            module.training = False
            module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for module, (training, hooks, pre_hooks) in zip(modules, kept, strict=True):
            module.training = training
            module._forward_hooks, module._forward_pre_hooks = hooks, pre_hooks
        for module, before in zip(modules, collecting, strict=True):
            if not before:
                vars(module).pop(_COLLECTING, None)
