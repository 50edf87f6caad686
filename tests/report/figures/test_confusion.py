"""True by predicted classes: shares of rows, one variant fixed, the others to choose from."""

import numpy as np
import pytest
from outdim.report.figures.confusion import confusion

TABLES = {
    "intact": np.array([[8, 2], [0, 0]]),
    "one off": np.array([[5, 5], [0, 0]]),
    "two <off>": np.array([[0, 10], [0, 0]]),
}


def test_rows_are_shares_and_empty_ones_have_none():
    figure = confusion("pos", "Parts of speech", "", ["NOUN", "VERB"], TABLES)
    table = figure.table.to_pandas().set_index(["variant", "true", "predicted"])
    assert table.loc[("one off", "NOUN", "VERB")].share == 0.5
    assert table.loc[("intact", "NOUN", "NOUN")]["count"] == 8
    assert np.isnan(table.loc[("intact", "VERB", "VERB")].share)


def test_the_intact_model_stays_and_the_others_are_chosen_from():
    figure = confusion("pos", "Parts of speech", "", ["NOUN", "VERB"], TABLES)
    (choice,) = figure.choices
    assert list(choice.options) == ["one off", "two <off>"]
    first, second, third = figure.interactive.data
    assert first.meta is None
    assert (first.visible, second.visible, third.visible) == (True, True, False)
    assert [trace.meta["variant"] for trace in (second, third)] == ["one off", "two <off>"]
    assert third.z[0].tolist() == [0, 1]
    assert figure.svg().count(b"one off") == 1


@pytest.mark.parametrize("count", [1, 2])
def test_with_one_other_or_none_there_is_nothing_to_choose(count):
    tables = dict(list(TABLES.items())[:count])
    figure = confusion("pos", "Parts of speech", "", ["NOUN", "VERB"], tables)
    assert figure.choices == ()
    assert all(trace.visible for trace in figure.interactive.data)
    assert figure.svg()
