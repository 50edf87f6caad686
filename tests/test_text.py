"""Numbers for people."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outdim.text import number, p_value, with_interval


@pytest.mark.parametrize(
    ("parts", "digits", "words"),
    [
        ((6.45e-4, 2.1e-4, 0.00123), 2, "0.0006 [0.0002, 0.0012]"),
        ((0.011, -0.004, 0.031), 2, "0.011 [−0.004, 0.031]"),
        ((2.5, 0.0, 3.1), 2, "2.50 [0.00, 3.10]"),
        ((0.5, -1e-9, 0.6), 2, "0.50 [0.00, 0.60]"),
        ((2e-4, 1e-4, 3e-4), 2, "0.00020 [0.00010, 0.00030]"),
        ((2e-4, 1e-4, 3e-4), 1, "0.0 [0.0, 0.0]"),
        ((-3.2e-6, -4.4e-4, 4.2e-4), 2, "0.00000 [−0.00044, 0.00042]"),
        ((512133.997, 81323.759, 612083.2), 3, "512,134 [81,324, 612,083]"),
        ((512133.997, 81323.759, 2.41e6), 3, "512,134 [81,323.8, 2,410,000]"),
        ((0.5, math.nan, math.nan), 2, "0.50"),
        ((0.5, None, None), 3, "0.500"),
        ((math.nan, 0.1, 0.2), 2, "n/a [0.10, 0.20]"),
        ((0.5, 0.1, math.inf), 1, "0.5 [0.1, inf]"),
    ],
)
def test_an_interval_is_written_as_finely_as_its_smallest_number(parts, digits, words):
    said = with_interval(*parts, digits=digits)
    assert said == words


@given(st.floats(-1e11, 1e11), st.integers(0, 4))
def test_a_number_is_near_what_it_says_and_short(value, digits):
    said = number(value, digits)
    assert "e" not in said
    assert sum(character.isdigit() for character in said) <= max(12, 6 + digits)
    assert said not in ("−0", "−0.0", "−0.00")
    if said[0] in "<>":
        assert 0 < abs(value) < 1e-6
        return
    read = float(said.replace(",", "").replace("−", "-"))
    rounded = 0.5 * 10.0**-digits if digits < 2 or abs(value) >= 0.5 * 10.0**-digits else 0
    assert abs(read - value) <= rounded + 0.051 * abs(value)


@given(st.floats(0, 1))
def test_a_p_is_told_to_a_thousandth(p):
    said = p_value(p)
    assert said == "< 0.001" if p < 0.001 else abs(float(said) - p) <= 0.0005
