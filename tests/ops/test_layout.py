"""The names of the rows of a state are those of the kernels."""

import re
from pathlib import Path

import torch
from ops.oracles import needs_core
from outdim import ops
from outdim.ops import layout
from outdim.ops._binding import core
from outdim.ops.layout import (
    BodyRow,
    ShapeRow,
    body_rows,
    comoment_row,
    covariates_of,
    head_size,
    shape_row,
)

HEADER = Path(__file__).parents[2] / "csrc" / "core" / "moments.h"


def enumerators(name):
    """Names and values of an enum of the header, without the last, which counts them."""
    body = re.search(rf"enum {name} : int \{{(.*?)\}};", HEADER.read_text(), re.DOTALL)[1]
    found = re.findall(r"k(\w+) = (\d+)", re.sub(r"//.*", "", body))
    return [(name, int(value)) for name, value in found]


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def test_rows_have_the_names_of_the_header():
    for rows, end in ((BodyRow, "BaseRows"), (ShapeRow, "ShapeRows")):
        *found, last = enumerators(rows.__name__)
        assert [(snake(name), value) for name, value in found] == [(r.name, r.value) for r in rows]
        assert last == (end, len(rows))


@needs_core
def test_sizes_are_those_of_the_module():
    for k in range(7):
        assert core().head_size(k) == head_size(k)
        assert covariates_of(head_size(k)) == k
        for shape in (True, False):
            assert core().body_rows(k, shape) == body_rows(k, shape)


def test_bins_are_those_of_the_header():
    header = (HEADER.parent / "magnitude_counts.h").read_text()
    for name, value in re.findall(r"kMagnitude(Bits|Lowest|Highest) = (-?\d+)", header):
        assert getattr(layout, f"MAGNITUDE_{name.upper()}") == int(value)
    formulas = dict(re.findall(r"constexpr int kMagnitude(\w+) = ([^;]+);", header))
    for name in ("Shift", "First", "Bins", "Room"):
        formula = re.sub(r"kMagnitude(\w+)", lambda m: f"MAGNITUDE_{m[1].upper()}", formulas[name])
        formula = formula.replace("MAGNITUDE_LINE", "(1 << MAGNITUDE_BITS)")
        assert getattr(layout, f"MAGNITUDE_{name.upper()}") == eval(formula, vars(layout).copy())


def test_every_row_is_where_its_name_says():
    h = torch.tensor([[1.0], [-3.0], [8.0]])
    rows = torch.tensor([[1.0, 2.0, 4.0], [5.0, 4.0, 4.5]], dtype=torch.float64)
    body = ops.moments(h, rows=rows).body[0, :, 0]
    x, a, n = h[:, 0].double(), h[:, 0].abs().double(), 3

    def comoment(u, v):
        return float(((u - u.mean()) * (v - v.mean())).sum())

    want = {
        BodyRow.MEAN: x.mean(), BodyRow.M2: comoment(x, x),
        BodyRow.MEAN_ABS: a.mean(), BodyRow.M2_ABS: comoment(a, a),
        comoment_row(2, 1): comoment(rows[1], x),
        comoment_row(2, 0, of_abs=True): comoment(rows[0], a),
        shape_row(2, ShapeRow.M3): ((x - x.mean()) ** 3).sum(),
        shape_row(2, ShapeRow.M4): ((x - x.mean()) ** 4).sum(),
        shape_row(2, ShapeRow.MIN): -3, shape_row(2, ShapeRow.MAX): 8,
        shape_row(2, ShapeRow.COUNT_OVER): 1, shape_row(2, ShapeRow.UNIT_SUM): 1,
        shape_row(2, ShapeRow.NONFINITE): 0,
    }  # fmt: skip
    assert n == len(h)
    for row, value in want.items():
        assert abs(float(body[row]) - float(value)) < 1e-12, row
