"""Observe points of a model while it runs."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from outdim.errors import ArgumentError
from outdim.models.architecture import architecture, check_model
from outdim.models.fused import FusedSink, fuse
from outdim.models.points import Point
from outdim.models.watch import Watch, by_module, frames_of


class Observation(Mapping[str, Tensor]):
    """The hidden states [B, S, D] of the last forward by point, detached; empty with a sink."""

    def __init__(self) -> None:
        self._hidden: dict[str, Tensor] = {}

    def __call__(self, point: Point, hidden: Tensor) -> None:
        """Keep `hidden`: an observation is the sink where no other is given."""
        self._hidden[point.name] = hidden.detach()

    def __getitem__(self, name: str) -> Tensor:
        return self._hidden[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hidden)

    def __len__(self) -> int:
        return len(self._hidden)


@contextmanager
def observe(
    model: nn.Module,
    points: Sequence[str | Point] | None = None,
    sink: Callable[[Point, Tensor], object] | None = None,
    *,
    fused: bool = False,
) -> Iterator[Observation]:
    """Hand the hidden states at `points` to `sink` while the model runs.

    Args:
        model: A transformers model, with or without a head; not compiled, not wrapped.
        points: Names (see `Point`), or points of `architecture(model)`, which save the small
            forward that finds them. None: the embeddings and every block.
        sink: Called as sink(point, hidden [B, S, D]) at once for each point of each forward, with
            the tensor of the model itself, neither copied nor detached. None: the observation keeps
            those of the last forward.
        fused: Take the statistics inside our LayerNorm, which replaces the model's at points that
            a norm gives (post-LN) or reads (pre-LN). `sink` is then a `FusedSink`, which also
            gets the moments of those points. Outputs of the model agree with the plain one's to
            rounding; with False, to the bit.

    Returns:
        A context manager with an `Observation`. Contexts nest, and leave nothing on the model, also
        when the forward raises. A forward that raised counts for nothing in the checks. Forwards of
        several threads take turns.

    Raises:
        ArgumentError: An unknown point; `fused` with another sink, in training mode, or with
            gradients.
        DataError: A point did not fire exactly once in a forward; layers ran, but no forward of the
            model; without a sink, also when nothing ran.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
        >>> model = BertModel(config).eval()
        >>> with torch.inference_mode(), observe(model, ["block.1"]) as seen:
        ...     output = model(torch.tensor([[1, 2, 3]]))
        >>> torch.equal(seen["block.1"], output.last_hidden_state)
        True
    """
    check_model(model)
    chosen = _choose(model, points)
    seen = Observation()
    watch = Watch(chosen, seen if sink is None else sink)
    frames = frames_of(model, chosen)
    with ExitStack() as stack:
        rest: Sequence[Point] = chosen
        if fused:
            if not isinstance(sink, FusedSink):
                raise ArgumentError(
                    "sink: fused=True expects arguments(point), absorb(point, state) and a call "
                    f"with (point, hidden), got {type(sink).__name__}; see outdim.models.FusedSink"
                )
            rest = stack.enter_context(fuse(model, frames, chosen, sink, watch))
        for frame in frames:
            stack.callback(watch.frame(frame))
        for path in {point.flat_in for point in rest if point.flat_in is not None}:
            stack.callback(watch.shape_of(path, model.get_submodule(path)).remove)
        for group in by_module(rest):
            stack.callback(watch.hook(model.get_submodule(group[0].module), group).remove)
        yield seen
    watch.check(ran=sink is None)


def _choose(model: nn.Module, points: Sequence[str | Point] | None) -> tuple[Point, ...]:
    if isinstance(points, str):
        raise ArgumentError(f"points: expected a list of names, got a string; pass [{points!r}]")
    known = tuple(point for point in points or () if isinstance(point, Point))
    chosen = known if points and len(known) == len(points) else architecture(model).select(points)
    if not chosen:
        raise ArgumentError("points: expected at least one point, got none")
    if twice := [name for name, n in Counter(point.name for point in chosen).items() if n > 1]:
        raise ArgumentError(f"points: expected each once, got {', '.join(twice)} more than once")
    return chosen
