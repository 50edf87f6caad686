"""Observe points of a model while it runs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from outdim.errors import ArgumentError
from outdim.models.architecture import architecture, check_model
from outdim.models.fused import FusedSink, fuse
from outdim.models.points import Point
from outdim.models.watch import Watch


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

    >>> import torch
    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2)
    >>> model = BertModel(config).eval()
    >>> with torch.inference_mode(), observe(model, ["block.1"]) as seen:
    ...     output = model(torch.tensor([[1, 2, 3]]))
    >>> torch.equal(seen["block.1"], output.last_hidden_state)
    True

    Args:
        model: a transformers model, with or without a head; not compiled, not wrapped.
        points: names (see `Point`), or points of `architecture(model)`, which save the small
            forward that finds them. None: the embeddings and every block.
        sink: called as sink(point, hidden [B, S, D]) at once for each point of each forward, with
            the tensor of the model itself, neither copied nor detached. None: the observation keeps
            those of the last forward.
        fused: take the statistics inside our LayerNorm, which replaces the model's at points that
            a norm gives (post-LN) or reads (pre-LN). `sink` is then a `FusedSink`, which also
            gets the moments of those points. Outputs of the model agree with the plain one's to
            rounding; with False, to the bit.

    Returns:
        A context manager with an `Observation`. Contexts nest, and leave nothing on the model, also
        when the forward raises. A forward that raised counts for nothing in the checks. Forwards of
        several threads take turns.

    Raises:
        ArgumentError: an unknown point; `fused` with another sink, in training mode, or with
            gradients.
        DataError: a point did not fire exactly once in a forward; layers ran, but no forward of the
            model; without a sink, also when nothing ran.
    """
    check_model(model)
    chosen = _choose(model, points)
    seen = Observation()
    watch = Watch(chosen, seen if sink is None else sink)
    frames = _frames(model, chosen)
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
        for group in _by_module(rest):
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


def _frames(model: nn.Module, points: Sequence[Point]) -> list[nn.Module]:
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


def _by_module(points: Sequence[Point]) -> list[list[Point]]:
    """Group points by the module and side at which they are hooked."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.module, point.side].append(point)
    return list(groups.values())
