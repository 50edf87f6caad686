"""What fires between the beginning and the end of each forward of an observed or edited model."""

import functools
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from outdim.errors import ArgumentError, BackendError, DataError
from outdim.models.points import Point, first_hidden, first_hidden_input, with_hidden
from outdim.models.replaced import replace_forward

_COMPILED = (
    "torch.compile(fullgraph=True): a model that is observed or ablated runs without compilation; "
    "leave fullgraph out, or call the model itself"
)


class Watch:
    """Counts calls within a forward, hands points to the sink, checks that each fired exactly once.

    Forwards of several threads take turns: what a point gives belongs to one forward. A forward
    that raises, KeyboardInterrupt included, counts for nothing and leaves nothing behind.

    Args:
        points: Those that have to fire.
        sink: Gets the hidden states of those that are observed.
        opening: Called at the beginning of each forward with module, args and kwargs.

    Attributes:
        forwards: Complete forwards so far.
    """

    def __init__(
        self,
        points: Sequence[Point],
        sink: Callable[[Point, Tensor], object] = lambda point, hidden: None,
        opening: Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], object] | None = None,
    ) -> None:
        self.points, self.sink = points, sink
        self.forwards = 0
        self._opening = opening
        self._turn = threading.RLock()
        self._thread: int | None = None  # the one whose forward is under way
        self._depth = 0
        self._calls: Counter[object] = Counter()
        self._fired: Counter[str] = Counter()
        self._outside = 0
        self._shapes: dict[str, torch.Size] = {}

    def frame(self, module: nn.Module) -> Callable[[], None]:
        """Let forwards of `module` count as forwards of the model: where they nest, the outer.

        Under torch.compile the model runs uncompiled: a graph would not know that edits end. Its
        forward is replaced, since torch calls no hook after a BaseException. A hook says if
        we are on: whoever takes the hooks off to have the model alone does so with us too.
        Returns what puts the forward back.
        """
        plain = module.forward
        on = module.register_forward_pre_hook(lambda module, args: None)

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if on.id not in module._forward_pre_hooks:
                return plain(*args, **kwargs)
            if torch.compiler.is_compiling():  # then torch runs this frame without compiling it
                raise BackendError(_COMPILED)
            if "torch._dynamo" in sys.modules:  # else there is nothing to disable
                plainly: Any = torch.compiler.disable(watched)  # type: ignore[no-untyped-call]
                return plainly(*args, **kwargs)
            return watched(*args, **kwargs)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self._turn:
                if not self._depth:
                    self._begin()
                self._depth += 1
                try:
                    if self._opening is not None and self._depth == 1:
                        self._opening(module, args, kwargs)
                    output = plain(*args, **kwargs)
                finally:
                    self._depth -= 1
                    if not self._depth:
                        self._thread = None
                if not self._depth:
                    self._end(module)
                return output

        put_back = replace_forward(module, forward)

        def leave() -> None:
            on.remove()
            put_back()

        return leave

    @property
    def running(self) -> bool:
        """Whether a forward of this thread is under way."""
        return self._thread == threading.get_ident()

    def _begin(self) -> None:
        self._thread = threading.get_ident()
        self._calls.clear()
        self._fired.clear()

    def _end(self, module: nn.Module) -> None:
        wrong = [
            f"{p.name} ({self._fired[p.name]} times)"
            for p in self.points
            if self._fired[p.name] != 1
        ]
        if wrong:
            raise DataError(
                f"points: expected each to fire exactly once in a forward of "
                f"{type(module).__name__}, but {', '.join(wrong)}; the points belong to another "
                "model, or it skips or repeats layers"
            )
        self.forwards += 1

    def call(self, key: object) -> int | None:
        """Count a call of what `key` stands for; its index in this forward, None outside of one."""
        if not self.running:
            return None
        self._calls[key] += 1
        return self._calls[key] - 1

    def fire(self, point: Point) -> None:
        """Note that the point fired."""
        self._fired[point.name] += 1

    def emit(self, point: Point, hidden: Tensor) -> None:
        """Hand out the hidden states of a point that fired, [B, S, D] whatever the model keeps."""
        self.fire(point)
        if point.flat_in is not None:
            hidden = hidden.reshape(self._shapes[point.flat_in])
        self.sink(point, hidden if point.batch_first else hidden.transpose(0, 1))

    def due(self, key: object, points: Sequence[Point]) -> list[Point] | None:
        """Count a call of what `key` stands for; those of `points` whose call it is.

        None outside of a forward.
        """
        index = self.call(key)
        if index is None:
            self._outside += 1
            return None
        if index >= points[0].calls:  # one call too many: which one is the point?
            for point in points:
                self.fire(point)
            return []
        return [point for point in points if point.call == index]

    def hook(self, module: nn.Module, points: Sequence[Point]) -> RemovableHandle:
        """Register the hook that hands out the points at one side of `module`."""
        key = object()

        def look(hidden: Tensor | None) -> None:
            for point in self.due(key, points) or ():
                if hidden is not None:
                    self.emit(point, hidden)

        if points[0].side == "output":
            return module.register_forward_hook(
                lambda module, args, output: look(first_hidden(output))
            )
        return module.register_forward_pre_hook(
            lambda module, args, kwargs: look(first_hidden_input(args, kwargs)), with_kwargs=True
        )

    def shape_of(self, path: str, block: nn.Module) -> RemovableHandle:
        """Register the hook that keeps the shape of what a block takes, for points flat inside."""

        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            if (hidden := first_hidden_input(args, kwargs)) is not None:
                self._shapes[path] = hidden.shape

        return block.register_forward_pre_hook(look, with_kwargs=True)

    def edit(
        self,
        module: nn.Module,
        points: Sequence[Point],
        change: Callable[[Point, Tensor], Tensor],
    ) -> RemovableHandle:
        """Register the hook that changes the points at one side of `module`.

        It comes before the hooks that are there: whoever observes the point sees what it became.
        """
        key = object()

        def changed(hidden: Tensor | None) -> Tensor | None:
            for point in self.due_or_again(key, points):
                if hidden is not None:
                    self.fire(point)
                    hidden = change(point, hidden)
            return hidden

        def output_hook(module: nn.Module, args: Any, output: Any) -> Any:
            before = first_hidden(output)
            after = changed(before)
            return None if after is before or after is None else with_hidden(output, after)

        def input_hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            before = first_hidden_input(args, kwargs)
            after = changed(before)
            if after is before or after is None:
                return None
            if first_hidden(args) is None:
                return args, with_hidden(kwargs, after)
            return with_hidden(args, after), kwargs

        if points[0].side == "output":
            return module.register_forward_hook(output_hook, prepend=True)
        return module.register_forward_pre_hook(input_hook, prepend=True, with_kwargs=True)

    def due_or_again(self, key: object, points: Sequence[Point]) -> Sequence[Point]:
        """`due`, and outside of a forward the points of a module that has only one call.

        Gradient checkpointing runs blocks again in the backward pass: what was edited then is
        edited again.

        Raises:
            DataError: Outside of a forward the call of a module that layers share.
        """
        due = self.due(key, points)
        if due is not None:
            return due
        if points[0].calls > 1:
            raise DataError(
                f"{points[0].module}: layers share it, and it ran outside a forward of the model "
                "(gradient checkpointing?), where nobody knows for which of them; run the model "
                "itself, without checkpointing"
            )
        return points

    def check(self, *, ran: bool) -> None:
        """Raise where layers ran outside a forward only; with `ran`, also where nothing ran."""
        if not self.forwards and (self._outside or ran):
            raise DataError(
                "points: none fired, because no forward of the observed model was complete; call "
                "the model that was given to observe or ablate, not a part, a copy or a compiled "
                "form of it"
            )


def frames_of(model: nn.Module, points: Sequence[Point]) -> list[nn.Module]:
    """Return the modules around all points and norms, down to the one with the list of blocks.

    A forward of any of them is a forward of the model: some heads call an inner module of their
    base (OPTForCausalLM calls model.decoder), and people call the base.
    """
    around: set[str] = {""}
    paths = [path for point in points for path in (point.module, point.norm) if path is not None]
    modules = dict(model.named_modules(remove_duplicate=False))
    if unknown := [path for path in paths if path not in modules]:
        raise ArgumentError(
            f"points: {type(model).__name__} has no module {unknown[0]}; the points are those of "
            "another model, name them instead"
        )
    for n, path in enumerate(paths):
        above = {""}
        for end in (i for i, sign in enumerate(path) if sign == "."):
            if isinstance(modules[path[:end]], nn.ModuleList):
                break
            above.add(path[:end])
        around = above if n == 0 else around & above
    return [modules[path] for path in sorted(around)]


def by_module(points: Sequence[Point]) -> list[list[Point]]:
    """Group points by the module and side at which they are hooked."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.module, point.side].append(point)
    return list(groups.values())
