"""The matrix of pairs: both halves, marks, and cells whose value is not known."""

import numpy as np
from outdim.report.figures.pairs import Pair, pairs

GIVEN = [
    Pair(5, 2, 1.5, 1.2, 1.75, True),
    Pair(5, 9, None, None, None, False),
    Pair(2, 9, -0.5, None, None, False),
]


def test_both_halves_are_drawn_and_what_is_not_known_stays_empty():
    figure = pairs("id", "Title", "Caption.", GIVEN)
    (drawn,) = figure.plot().data
    assert list(drawn.x) == ["5", "2", "9"]
    expected = [[np.nan, 1.5, np.nan], [1.5, np.nan, -0.5], [np.nan, -0.5, np.nan]]
    np.testing.assert_array_equal(np.array(drawn.z, float), expected)
    assert drawn.text[0].tolist() == ["", "1.50*", ""]
    assert drawn.hovertext[0].tolist() == ["", "2+5<br>1.500 [1.200, 1.750]", ""]
    assert drawn.hovertext[2].tolist() == ["", "2+9<br>−0.500", ""]
    texts = [one.get_text() for one in figure.draw().axes[0].texts]
    assert texts == ["", "1.50*", "", "1.50*", "", "−0.50", "", "−0.50", ""]
    assert figure.table.column("value").to_pylist() == [1.5, None, -0.5]
