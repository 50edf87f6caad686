"""The rows of a state of moments by name, and the bins of magnitudes.

csrc/core/moments.h and csrc/core/magnitude_counts.h have the same.
"""

from enum import IntEnum


class BodyRow(IntEnum):
    """Rows of a body that every state has; the co-moments follow, of h then of |h|."""

    MEAN = 0
    M2 = 1
    MEAN_ABS = 2
    M2_ABS = 3


class ShapeRow(IntEnum):
    """Rows at the end of a body that was taken with `shape`, from `shape_row` on."""

    M3 = 0
    M4 = 1
    MIN = 2
    MAX = 3
    COUNT_OVER = 4
    UNIT_SUM = 5
    NONFINITE = 6


BASE_ROWS = len(BodyRow)
#: Rows of a body of `comoments` before the co-moments: mean and M2 of |h|.
COMOMENTS_BASE = 2

#: Bins of |h|: a power of two has 2^MAGNITUDE_BITS, and the exponents between which values are told
#: apart are MAGNITUDE_LOWEST and MAGNITUDE_HIGHEST.
MAGNITUDE_BITS, MAGNITUDE_LOWEST, MAGNITUDE_HIGHEST = 4, -16, 16
#: The number of a bin is a float32 without its sign, shifted right by this, less that of the first.
MAGNITUDE_SHIFT = 23 - MAGNITUDE_BITS
MAGNITUDE_FIRST = (127 + MAGNITUDE_LOWEST) << MAGNITUDE_BITS
MAGNITUDE_BINS = (MAGNITUDE_HIGHEST - MAGNITUDE_LOWEST) << MAGNITUDE_BITS
#: Room of a dimension in the counts of a batch: its bins, and as many numbers as a power of two,
#: the first of which says in its bits of which powers of two bins were written.
MAGNITUDE_ROOM = MAGNITUDE_BINS + (1 << MAGNITUDE_BITS)


def head_size(covariates: int) -> int:
    """Size of a head: n, K means and K second central sums of the covariates."""
    return 1 + 2 * covariates


def covariates_of(head_size: int) -> int:
    """K of a head of that size."""
    return (head_size - 1) // 2


def body_rows(covariates: int, shape: bool) -> int:
    """Rows of a body: means and M2 of h and |h|, 2 K co-moments, and the shape rows."""
    return BASE_ROWS + 2 * covariates + (len(ShapeRow) if shape else 0)


def comoment_row(covariates: int, k: int, *, of_abs: bool = False) -> int:
    """Row of C(x_k, h), or of C(x_k, |h|)."""
    return BASE_ROWS + k + (covariates if of_abs else 0)


def shape_row(covariates: int, row: ShapeRow) -> int:
    """Row of a body that holds a statistic of shape."""
    return BASE_ROWS + 2 * covariates + row
