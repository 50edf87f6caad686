"""The section of greedy sets."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
from outdim.analysis.results.chosen import ROUNDS
from outdim.analysis.table import EVALUATION
from outdim.report.sections import greedy_lm


@pytest.mark.parametrize(
    ("controls", "series"),
    [
        ([None, None], ["chosen"]),
        ([0.1, 0.2], ["chosen", "random sets"]),
        ([None, 0.2], ["chosen", "random sets"]),
    ],
)
def test_random_sets_are_drawn_where_any_stands_beside(controls, series):
    sets = [
        {"metric": "loss", "role": "ablated", "documents": 9, "tokens": 99, "control": control,
         "difference": 1.0 + i, "difference_low": 0.5, "difference_high": 3.0}
        for i, control in enumerate(controls)
    ]  # fmt: skip
    rounds = [{"round": i, "dim": 7, "tried": 3, "chosen_by": 1.0} for i in (1, 2)]
    tables = {
        "greedy_lm.parquet": pa.Table.from_pylist(sets, EVALUATION),
        "greedy_lm_rounds.parquet": pa.Table.from_pylist(rounds, ROUNDS),
    }
    found = greedy_lm.section(SimpleNamespace(table=tables.get), "greedy-lm", [])
    (figure,) = found.figures
    assert figure.table["series"].unique().to_pylist() == series
    (table,) = found.tables
    random = table.columns.index("random")
    assert [row[random] for row in table.rows] == [f"{c:.3f}" if c else "" for c in controls]
