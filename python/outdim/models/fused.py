"""The fused way to observe: our LayerNorm in the place of the model's takes the statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from outdim.errors import ArgumentError
from outdim.models.norms import Norm, recognise_norm
from outdim.models.points import Point
from outdim.models.replaced import replace_forward
from outdim.models.watch import Watch

if TYPE_CHECKING:
    from outdim.ops import MomentsState, StatisticsArgs
    from outdim.ops.checked import CheckedStatistics


@runtime_checkable
class FusedSink(Protocol):
    """What `observe(..., fused=True)` reports to.

    At each point that a norm can take, `arguments` and `absorb`; at every point, right after that,
    a call with the hidden states.
    """

    def arguments(self, point: Point) -> StatisticsArgs | CheckedStatistics | None:
        """Return what to take at a point for the tokens of the current forward, B * S rows."""

    def absorb(self, point: Point, state: MomentsState) -> object:
        """Take the moments of a point in this forward, those that `arguments` asked for."""

    def __call__(self, point: Point, hidden: Tensor) -> object:
        """Take the hidden states [B, S, D] of a point."""


@contextmanager
def fuse(
    model: nn.Module,
    frames: Sequence[nn.Module],
    points: Sequence[Point],
    sink: FusedSink,
    watch: Watch,
) -> Iterator[list[Point]]:
    """Replace the forward of the norms at `points`, and yield the points left to be hooked.

    Raises ArgumentError in training mode (dropout stands between a norm and its point) and, from
    within the forward, where gradients are recorded (statistics have none).
    """
    if model.training:
        raise ArgumentError(
            "model: expected eval mode for fused=True, got training mode; call model.eval()"
        )
    fused: dict[str, _FusedNorm] = {}
    rest = []
    for point in points:
        path = str(point.norm)
        if path not in fused and (free := _free_norm(model, frames, point)) is not None:
            fused[path] = _FusedNorm(free, sink, watch)
        # A norm takes the statistics of one tensor a call.
        if path in fused and point.norm_call not in fused[path].points:
            fused[path].points[point.norm_call] = point
        else:
            rest.append(point)
    with ExitStack() as stack:
        for norm in fused.values():
            residual = next(iter(norm.points.values())).residual
            if residual is not None:
                parent = model.get_submodule(residual)
                stack.callback(replace_forward(parent, norm.with_residual(parent)))
            stack.callback(replace_forward(norm.module, norm.forward))
        yield rest


def is_fused(model: nn.Module) -> bool:
    """Whether a context of `fuse` is on."""
    held = (getattr(vars(m).get("forward"), "__self__", None) for m in model.modules())
    return any(isinstance(one, _FusedNorm) for one in held)


def _free_norm(model: nn.Module, frames: Sequence[nn.Module], point: Point) -> Norm | None:
    """Return the norm at `point` if it may be replaced, None where hooks have to do.

    So it is where rows are not in the order of the ids, where the norm has no parameters, and where
    somebody else hooks or replaces the norm or a module around it: an edit there would make the
    output of the norm another tensor than the point.
    """
    if point.norm is None or not point.batch_first:
        return None
    if point.side == "input" and model.get_submodule(point.module)._forward_pre_hooks:
        return None  # behind the norm, so that it may see another tensor than the point
    path = point.norm
    while path and (module := model.get_submodule(path)) not in frames:
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # The hooks by which transformers collects output_hidden_states edit nothing.
        if "forward" in vars(module) or any(
            "output_capturing" not in str(hook.__module__) for hook in hooks
        ):
            return None
        path = path.rpartition(".")[0]
    module = model.get_submodule(point.norm)
    weight = getattr(module, "weight", None)
    return None if weight is None else recognise_norm(point.norm, module, weight.shape[-1])


class _FusedNorm:
    """Takes the place of a norm's forward, and of BERT's norm(dropout(dense(x)) + residual)."""

    def __init__(self, norm: Norm, sink: FusedSink, watch: Watch) -> None:
        from outdim.ops.checked_norm import CheckedNorm

        self.module = norm.module
        self.points: dict[int, Point] = {}  # by the call of the norm
        self._norm, self._sink, self._watch = norm, sink, watch
        self._checked = CheckedNorm(norm.eps, norm.rms)
        self._plain: Callable[[Tensor], Tensor] = norm.module.forward

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise, with the statistics of the point at this call."""
        point = self._next_point()
        if point is None:
            return self._plain(hidden_states)
        if self._is_ours(hidden_states):
            return self._normalise(point, hidden_states, None)
        output = self._plain(hidden_states)
        self._watch.emit(point, output if point.norm_side == "output" else hidden_states)
        return output

    def with_residual(self, parent: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the forward of `parent` in which the residual add is fused too."""
        original: Callable[[Tensor, Tensor], Tensor] = parent.forward

        def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
            hooked = self.module._forward_hooks or self.module._forward_pre_hooks
            if hooked or not self._watch.running or not self._is_ours(input_tensor):
                return original(hidden_states, input_tensor)  # which calls the norm
            branch = parent.dropout(parent.dense(hidden_states))
            point = self._next_point()
            if point is None:
                return self._plain(branch + input_tensor)
            return self._normalise(point, branch, input_tensor)

        return forward

    def _next_point(self) -> Point | None:
        index = self._watch.call(self)
        if index is None:
            return None
        point = self.points.get(index)
        if point is None and index >= next(iter(self.points.values())).norm_calls:
            for known in self.points.values():  # one call too many: which one is the point?
                self._watch.fire(known)
        return point

    def _is_ours(self, x: Tensor) -> bool:
        """Whether the op gives the dtype that the norm would; under autocast torch chooses it."""
        return x.dtype == self.module.weight.dtype and not torch.is_autocast_enabled(x.device.type)

    def _normalise(self, point: Point, x: Tensor, residual: Tensor | None) -> Tensor:
        from outdim.ops import layer_norm

        norm = self._norm
        if torch.is_grad_enabled():
            raise ArgumentError(
                "observe(fused=True): expected a forward without gradients; run it under "
                "torch.inference_mode()"
            )
        of_input = point.norm_side == "input"
        wanted = self._sink.arguments(point)
        if wanted is None:
            with_sum = of_input and residual is not None
            result = layer_norm(
                x, norm.gamma, norm.beta, norm.eps, rms=norm.rms, residual=residual,
                return_sum=with_sum,
            )  # fmt: skip
            y, s = result if with_sum else (result, None)
        else:
            y, s, state = self._checked(x, norm.gamma, norm.beta, residual, wanted, point.norm_side)
            self._sink.absorb(point, state)
        self._watch.emit(point, y if not of_input else x if s is None else s)
        output: Tensor = y
        return output
