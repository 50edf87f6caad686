"""What fires between the beginning and the end of each forward of an observed model."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from outdim.errors import DataError
from outdim.models.points import Point, first_hidden, first_hidden_input


class Watch:
    """Counts calls within a forward, hands points to the sink, checks that each fired exactly once.

    forwards: complete forwards so far.
    """

    def __init__(self, points: Sequence[Point], sink: Callable[[Point, Tensor], object]) -> None:
        self.points, self.sink = points, sink
        self.forwards = 0
        self._depth = 0
        self._calls: Counter[object] = Counter()
        self._fired: Counter[str] = Counter()
        self._outside = 0

    def frame(self, module: nn.Module) -> list[RemovableHandle]:
        """Let forwards of `module` count as forwards of the model: where they nest, the outer."""
        return [
            module.register_forward_pre_hook(self._begin),
            module.register_forward_hook(self._end, always_call=True),
        ]

    @property
    def running(self) -> bool:
        """Whether a forward is under way."""
        return self._depth > 0

    def _begin(self, module: nn.Module, args: Any) -> None:
        if not self._depth:
            self._calls.clear()
            self._fired.clear()
        self._depth += 1

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1
        if self._depth or output is None:  # None: the forward raised, and counts for nothing
            return
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
        if not self._depth:
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
