"""Hadamard matrices: rotations that spread what stands in one dimension over all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def hadamard(size: int) -> Floats | None:
    """A Hadamard matrix of entries 1 and -1, [size, size]; None where none is made here.

    A power of two (Sylvester) times an order of Paley's constructions: q + 1 for a prime q with
    q mod 4 = 3, and 2 (q + 1) for one with q mod 4 = 1. That covers the widths of models such as
    384 = 32 x 12, 576 = 16 x 36, 768 = 64 x 12 and 5,120 = 256 x 20.

    Example:
        >>> found = hadamard(12)
        >>> bool((found @ found.T == 12 * np.eye(12)).all()), hadamard(6) is None
        (True, True)
    """
    from scipy.linalg import hadamard as sylvester

    power = size & -size  # the largest power of two in it
    while power:
        base = _paley(size // power)
        if base is not None:
            return np.kron(sylvester(power), base).astype(float)
        power //= 2
    return None


def _paley(size: int) -> Floats | None:
    if size == 1:
        return np.ones((1, 1))
    if size % 4:
        return None
    if _is_prime(size - 1):  # size - 1 mod 4 is 3
        q = _jacobsthal(size - 1)
        found = np.eye(size)
        found[0, 1:], found[1:, 0] = 1, -1
        found[1:, 1:] += q
        return found
    prime = size // 2 - 1
    if prime % 4 == 1 and _is_prime(prime):
        inner = np.zeros((size // 2, size // 2))
        inner[0, 1:] = inner[1:, 0] = 1
        inner[1:, 1:] = _jacobsthal(prime)
        one, other = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        return np.asarray(np.kron(inner, one) + np.kron(np.eye(size // 2), other))
    return None


def _jacobsthal(prime: int) -> Floats:
    """1 where i - j is a square modulo the prime, -1 where it is none, 0 on the diagonal."""
    character = np.full(prime, -1.0)
    character[np.arange(prime) ** 2 % prime] = 1
    character[0] = 0
    place = np.arange(prime)
    return np.asarray(character[(place[:, None] - place) % prime])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))
