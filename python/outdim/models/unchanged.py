"""Run a model and find it afterwards as it was: what it changes in itself is put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from operator import eq, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def unchanged(model: nn.Module) -> Iterator["Changes"]:
    """Put the model back whole at the end: attributes, submodules, values of weights, hooks, modes.

    BigBird exchanges its attention modules at the first short sequence and keeps the new ones, RWKV
    rescales its weights, Reformer draws random numbers. Random numbers of torch, NumPy and Python
    go on as if nothing had run. Yields what is found to have changed.
    """
    holders = [*model.modules(), *_configs(model)]
    kept = [_Kept(holder) for holder in holders]
    changes = Changes()
    state = random.getstate(), np.random.get_state()
    devices = {p.device for p in model.parameters() if p.is_cuda}
    writes = _Writes(model)
    try:
        with torch.random.fork_rng(devices=[d.index for d in devices]), writes:
            yield changes
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        changed = [one.put_back() for one in kept]
        changes.found = any(changed) | writes.put_back()


class Changes:
    """Whether what ran in `unchanged` changed the model, hooks and modes aside."""

    found = False


def _configs(model: nn.Module) -> list[Any]:
    return list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())


class _Kept:
    """The attributes of an object, and what its dictionaries and lists hold."""

    def __init__(self, holder: Any) -> None:
        attributes = vars(holder)
        inside = [value for value in attributes.values() if isinstance(value, dict | list)]
        # Most are empty, and an OrderedDict takes long to copy.
        self._before = [(one, one.copy() if one else ()) for one in (attributes, *inside)]

    def put_back(self) -> bool:
        """Whether anything had to be."""
        changed = False
        for now, before in self._before:
            if _alike(now, before):
                continue
            changed = True
            now.clear()
            now.update(before) if isinstance(now, dict) else now.extend(before)
        return changed


def _alike(now: Any, before: Any) -> bool:
    """Whether two hold the same objects: equality of tensors would be no truth value."""
    if len(now) != len(before):
        return False
    if not isinstance(before, dict):
        return all(map(is_, now, before))
    return all(map(eq, now, before)) and all(map(is_, now.values(), before.values()))


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies a tensor of the model before the first operation that writes into it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        own = [*model.parameters(), *model.buffers()]
        storages = (tensor.untyped_storage() for tensor in own if not tensor.is_meta)
        self._own = {storage.data_ptr(): storage for storage in storages if storage.nbytes()}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                self._before_write(argument, value)
            for argument in func._schema.arguments:
                self._before_write(argument, kwargs.get(argument.name))
        return func(*args, **kwargs)

    def _before_write(self, argument: Any, value: Any) -> None:
        if argument.alias_info is None or not argument.alias_info.is_write:
            return
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            key = tensor.untyped_storage().data_ptr()
            if key in self._own and key not in self._copies:
                self._copies[key] = self._own[key].clone()  # type: ignore[no-untyped-call]

    def put_back(self) -> bool:
        """Whether anything had to be."""
        for key, copy in self._copies.items():
            self._own[key].copy_(copy)
        return bool(self._copies)
