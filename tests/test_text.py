"""Numbers for people."""

import math

import pytest
from outdim.text import with_interval


@pytest.mark.parametrize(
    ("parts", "digits", "words"),
    [
        ((6.45e-4, 2.1e-4, 0.00123), 2, "0.0006 [0.0002, 0.0012]"),
        ((0.011, -0.004, 0.031), 2, "0.011 [−0.004, 0.031]"),
        ((2.5, 0.0, 3.1), 2, "2.50 [0.00, 3.10]"),
        ((0.5, -1e-9, 0.6), 2, "0.50 [0.00, 0.60]"),
        ((2e-4, 1e-4, 3e-4), 2, "2.00e−04 [1.00e−04, 3.00e−04]"),
        ((0.5, math.nan, math.nan), 2, "0.50"),
        ((0.5, None, None), 3, "0.500"),
        ((math.nan, 0.1, 0.2), 2, "n/a [0.10, 0.20]"),
        ((0.5, 0.1, math.inf), 1, "0.5 [0.1, inf]"),
    ],
)
def test_an_interval_is_written_as_finely_as_its_smallest_number(parts, digits, words):
    said = with_interval(*parts, digits=digits)
    assert said == words
