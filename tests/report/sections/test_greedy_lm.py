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
        {"metric": metric, "role": "ablated", "variant": f"set {i}", "documents": 9, "tokens": 99,
         "control": control, "value": 2.0, "difference": sign * (1.0 + i),
         "difference_low": sign * 0.5, "difference_high": sign * 3.0}
        for metric, sign in (("loss", 1), ("accuracy", -0.1))
        for i, control in enumerate([None, *controls])
    ]  # fmt: skip
    for intact in sets[:: 1 + len(controls)]:
        intact |= {"role": "intact", "variant": "intact", "difference": None}
    rounds = [{"round": i, "dim": 7, "tried": 3, "chosen_by": 1.0} for i in (1, 2)]
    tables = {
        "greedy_lm.parquet": pa.Table.from_pylist(sets, EVALUATION),
        "greedy_lm_rounds.parquet": pa.Table.from_pylist(rounds, ROUNDS),
    }
    study = SimpleNamespace(rows=lambda name: tables[name].to_pylist())
    found = greedy_lm.section(study, "greedy-lm", [])
    (figure,) = found.figures
    assert figure.table["series"].unique().to_pylist() == series
    table, others = found.tables
    assert table.brief
    assert others.rows == [
        ["intact", "2.000"],
        ["set 1", "2.000 (−0.200 [−0.050, −0.300])"],
        ["set 2", "2.000 (−0.300 [−0.050, −0.300])"],
    ]
    random = table.columns.index("random")
    assert [row[random] for row in table.rows] == [f"{c:.3f}" if c else "" for c in controls]
