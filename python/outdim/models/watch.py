"""What fires between the beginning and the end of each forward of an observed model."""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from outdim.errors import DataError
from outdim.models.points import Point, first_hidden, first_hidden_input


class Watch:
    """Counts calls within a forward, hands points to the sink, checks that each fired exactly once.

    Forwards of several threads take turns: what a point gives belongs to one forward. A forward
    that raises, KeyboardInterrupt included, counts for nothing and leaves nothing behind.

    forwards: complete forwards so far.
    """

    def __init__(self, points: Sequence[Point], sink: Callable[[Point, Tensor], object]) -> None:
        self.points, self.sink = points, sink
        self.forwards = 0
        self._turn = threading.RLock()
        self._thread: int | None = None  # the one whose forward is under way
        self._depth = 0
        self._calls: Counter[object] = Counter()
        self._fired: Counter[str] = Counter()
        self._outside = 0

    def frame(self, module: nn.Module) -> Callable[[], None]:
        """Let forwards of `module` count as forwards of the model: where they nest, the outer.

        Its forward is replaced, since torch calls no hook after a BaseException. A hook says if
        we are on: whoever takes the hooks off to have the model alone does so with us too.
        Returns what puts the forward back.
        """
        plain, own = module.forward, vars(module).get("forward")
        on = module.register_forward_pre_hook(lambda module, args: None)

        @functools.wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if on.id not in module._forward_pre_hooks:
                return plain(*args, **kwargs)
            with self._turn:
                if not self._depth:
                    self._begin()
                self._depth += 1
                try:
                    output = plain(*args, **kwargs)
                finally:
                    self._depth -= 1
                    if not self._depth:
                        self._thread = None
                if not self._depth:
                    self._end(module)
                return output

        def put_back() -> None:
            on.remove()
            if own is None:
                del module.forward  # the one of the class comes forth again
            else:
                module.forward = own

        module.forward = forward
        return put_back

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
        self.sink(point, hidden if point.batch_first else hidden.transpose(0, 1))

    def hook(self, module: nn.Module, points: Sequence[Point]) -> RemovableHandle:
        """Register the hook of the points at one side of `module`."""
        key, side, calls = object(), points[0].side, points[0].calls

        def at_call(hidden: Tensor | None) -> None:
            index = self.call(key)
            if index is None:
                self._outside += 1
                return
            for point in points:
                if index >= calls:  # one call too many: which one is the point?
                    self.fire(point)
                elif point.call == index and hidden is not None:
                    self.emit(point, hidden)

        if side == "output":
            return module.register_forward_hook(
                lambda module, args, output: at_call(first_hidden(output))
            )
        return module.register_forward_pre_hook(
            lambda module, args, kwargs: at_call(first_hidden_input(args, kwargs)), with_kwargs=True
        )

    def check(self, *, ran: bool) -> None:
        """Raise where layers ran outside a forward only; with `ran`, also where nothing ran."""
        if not self.forwards and (self._outside or ran):
            raise DataError(
                "points: none fired, because no forward of the observed model was complete; call "
                "the model that was given to observe, not a part or a copy of it"
            )
