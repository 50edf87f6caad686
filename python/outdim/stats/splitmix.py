"""splitmix64 (Steele, Lea and Flood 2014): numbers that depend on a key alone, in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: By how much the state grows from one output to the next.
GAMMA = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output that follows each state: its next state, mixed.

    >>> [hex(one) for one in splitmix64(np.array([0, 1], np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    z = state + GAMMA  # modulo 2^64, as are the products
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
