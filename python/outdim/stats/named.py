"""States as flat tensors, whose names lead to the part that each is of."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from outdim.errors import DataError


def under(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The entries of every part, under its name; `below` gives those of one back.

    Example:
        >>> under({"one": {"n": Tensor([3.0])}, "other": {"n": Tensor([4.0])}})
        {'one/n': tensor([3.]), 'other/n': tensor([4.])}
    """
    return {f"{name}/{key}": tensor for name, part in parts.items() for key, tensor in part.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under ``prefix``, without it.

    Example:
        >>> below("one/", {"one/n": Tensor([3.0]), "other/n": Tensor([4.0])})
        {'n': tensor([3.])}
    """
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def check_points(state: Mapping[str, Tensor], points: Sequence[str], fields: Sequence[str]) -> None:
    """Check that a state holds nothing but some fields of some points.

    Raises:
        DataError: It does.
    """
    known = {f"{point}/{field}" for point in points for field in fields}
    if extra := state.keys() - known:
        raise DataError(f"state: expected the points {', '.join(points)}, got {extra}")


def check_groups(at: str, part: Tensor, groups: Sequence[str], shape: tuple[int, ...]) -> None:
    """Check for float64 of that shape for each of the groups.

    Raises:
        DataError: It has others; names where it is ``at``.
    """
    expected = (len(groups), *shape)
    if part.shape != expected or part.dtype != torch.float64:
        raise DataError(
            f"state: {at}: expected {expected} float64 for the groups {', '.join(groups)}, got "
            f"{tuple(part.shape)} {part.dtype}"
        )
