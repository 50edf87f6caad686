"""One small forward pass, with what went into and came out of every module."""

import inspect
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from outdim.errors import DataError
from outdim.hub import quiet_unless_terminal
from outdim.models.points import first_hidden
from outdim.models.unchanged import unchanged

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OTHERS = ("training", *_HOOKS)  # what others set

# Two different small sizes, so that [B, S, D], [S, B, D] and [B * S, D] can be told apart.
BATCH, LENGTH = 2, 5


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
    """One forward.

    Attributes:
        calls: In the order in which they began.
        counts: Their number by path.
        output: The first hidden states that the model gave.
        hidden_states: What transformers gives as ``hidden_states``, empty where it does not.
    """

    calls: tuple[Call, ...]
    counts: Counter[str]
    output: torch.Tensor | None
    hidden_states: tuple[torch.Tensor | None, ...]


def trace(model: nn.Module) -> Trace:
    """Run `model` on a few dummy tokens, images or sounds and record every call.

    Runs in eval mode under `no_grad`, with the hooks that others have put on the model out of the
    way, and leaves the model as it was. Raises DataError when the model cannot be run so.
    """
    asked: dict[str, bool]
    for asked in ({"output_hidden_states": True}, {}):
        recorder = _Recorder()
        if "use_cache" in inspect.signature(model.forward).parameters:
            asked["use_cache"] = False
        try:
            with (
                quiet_unless_terminal(),
                alone(model),
                recorder.hooks(model),
                unchanged(model),
                torch.no_grad(),
            ):
                output = model(**dummy_inputs(model), **asked)
            break
        except DataError:
            raise
        except Exception as error:  # of a model that is not made for these inputs: anything
            failure = error
    else:
        raise DataError(
            f"model: {type(model).__name__} does not run on {BATCH} x {LENGTH} dummy inputs "
            f"({type(failure).__name__}: {failure}); pass the text encoder or decoder itself, as "
            "outdim.load_model gives it"
        ) from failure
    hidden = getattr(output, "hidden_states", None) or ()
    states = tuple(_copy(one) for one in hidden) if isinstance(hidden, tuple) else ()
    return Trace(tuple(recorder.calls), recorder.counts, _copy(first_hidden(output)), states)


class _Recorder:
    """Records calls of modules while its hooks are on them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.counts: Counter[str] = Counter()
        self._open: list[Call] = []
        self._clock = 0

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for path, module in model.named_modules():
                before = partial(self._begin, path)
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._end).remove)
            yield

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _begin(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        call = Call(path, module, self.counts[path], self._tick())
        call.tensors = tuple(
            t
            for a in args
            if isinstance(a, torch.Tensor) and (t := _copy(first_hidden(a))) is not None
        )
        call.source = call.tensors[0] if call.tensors else _copy(first_hidden(kwargs))
        self.counts[path] += 1
        self.calls.append(call)
        self._open.append(call)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._open.pop()
        call.stop, call.output = self._tick(), _copy(first_hidden(output))


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
def alone(model: nn.Module) -> Iterator[None]:
    """Give the model eval mode and no hooks: what others edit is no evidence of how it is built."""
    modules = [vars(module) for module in model.modules()]  # nn.Module is slow to set attributes
    kept = [{name: module[name] for name in _OTHERS} for module in modules]
    try:
        for module in modules:
            module.update({name: OrderedDict() for name in _HOOKS}, training=False)
        yield
    finally:
        for module, before in zip(modules, kept, strict=True):
            module.update(before)


def same(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether two copies are of one tensor, up to flattening [B, S, D] to rows.

    Equal bits stand for identity: two tensors of a model do not agree in 10 x D values by chance.
    """
    if left is None or right is None or left.dtype != right.dtype:
        return False
    if left.shape[-1] != right.shape[-1] or left.numel() != right.numel():
        return False
    bits = [tensor.contiguous().view(torch.uint8).flatten() for tensor in (left, right)]
    return torch.equal(*bits)
