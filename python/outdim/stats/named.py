"""States as flat tensors, whose names lead to the part that each is of."""

from collections.abc import Mapping

from torch import Tensor


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under ``prefix``, without it.

    Example:
        >>> below("one/", {"one/n": Tensor([3.0]), "other/n": Tensor([4.0])})
        {'n': tensor([3.])}
    """
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
