"""Which tokens a language model predicts: measures, curves, dimensions, parts of speech."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.compute as pc

from outdim.analysis.parts_of_speech import CLASSES
from outdim.analysis.results.predictions import LABELS, LEADING, TRUTH
from outdim.report.colours import Palette
from outdim.report.figures.base import Figure
from outdim.report.figures.confusion import confusion
from outdim.report.figures.differences import Difference, differences
from outdim.report.figures.rank_curves import RankCurve, rank_curves
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.sections._rows import Row, beside_controls, ends, grouped, interval
from outdim.report.study import Study
from outdim.report.text import token_of
from outdim.text import listing, number

_TITLES = {"lm": "Which tokens are predicted", "mlm": "Which tokens are filled in"}
_READINGS = {
    "next": "the next token",
    "masked": "masked tokens",
    "unmasked": "tokens that are not masked",
}
#: Measures of a table each.
_TABLES = {
    "How frequent predicted tokens are": (
        "mean_log_frequency", "types", "entropy", "unseen_share", "pos_agreement",
    ),
    "Predictions against the corpus": ("slope", "log_slope", "spearman", "logit_gap"),
}  # fmt: skip
_ROLES = (TRUTH, "intact", "ablated", "control")
_SHOWN = 40  # variants in a table; all are in the parquet file
_LINES = 8  # ablated variants in a figure, and of controls a few
_CONTROLS = 5
_DIMS = 20
_LEADING_TOKENS = 8
_DIGITS = {"types": 0}


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """What every variant predicts, beside the truth and the controls."""
    stem = step.replace("-", "_")
    readings = grouped(study.rows(f"{stem}.parquet"), "reading")
    if not readings:
        return _default.section(study, step, marked)
    tables: list[Table | None] = []
    figures: list[Figure | None] = []
    for reading, rows in readings.items():
        shown = _order(rows)
        tables += [_measures(rows, reading, shown, title) for title in _TABLES]
        tables.append(_tokens(study, stem, reading, shown))
        figures += [
            _curves(study, stem, reading, shown),
            _changes(stem, reading, rows, study.palette),
        ]
        figures += [_dims(study, stem, reading, marked), _pos(study, stem, reading, shown)]
    tables.append(_dims_table(study, stem, next(iter(readings)), marked))
    return Section(
        step,
        _TITLES[step.rpartition("-")[2]],
        tables=[one for one in tables if one is not None],
        figures=[one for one in figures if one is not None],
        definitions="predictions.html.j2",
    )


def _order(rows: Sequence[Row]) -> dict[str, str]:
    """Role by variant: the truth, the intact model, what was ablated by change, the controls."""
    of_measure = [row for row in rows if row["measure"] == LEADING]

    def key(row: Row) -> tuple[int, float]:
        change = row["difference"] if row["role"] == "ablated" else None
        return _ROLES.index(row["role"]), -abs(change or 0.0)

    return {row["variant"]: row["role"] for row in sorted(of_measure, key=key)}


def _measures(rows: Sequence[Row], reading: str, shown: Mapping[str, str], title: str) -> Table:
    there = {row["measure"] for row in rows}
    names = [name for name in _TABLES[title] if name in there]
    found = {(row["measure"], row["variant"]): row for row in rows}
    variants = [name for name, role in shown.items() if role != "control"][:_SHOWN]
    tokens = max(row["tokens"] for row in rows)
    beside = any(role == "control" for role in shown.values())
    words = "; ".join(f"{name.replace('_', ' ')}: {LABELS[name]}" for name in names)
    return Table(
        title=f"{title}: {_READINGS[reading]}",
        caption=f"Predicting {_READINGS[reading]}, {tokens:,} of them. {words[:1].upper()}"
        f"{words[1:]}. In brackets 95 % intervals over documents; those of the differences to the "
        "intact model are in the table of results.",
        columns=["variant", *(name.replace("_", " ") for name in names)],
        rows=[[v, *(_cell(found.get((name, v)), name) for name in names)] for v in variants],
        brief=title == next(iter(_TABLES)),
        marks="a difference to the intact model that is surely larger than that of any control"
        if beside
        else "",
    )


def _cell(row: Row | None, name: str) -> Cell | str:
    if row is None or row["value"] is None:
        return ""
    said = interval(row, "value", digits=_DIGITS.get(name, 2))
    return Cell(said, marked=_beyond_controls(row))


def _beyond_controls(row: Row) -> bool:
    """Whether the interval of the difference lies outside of what the controls change."""
    ends = [row[name] for name in ("difference_low", "difference_high")]
    controls = [row[name] for name in ("control_low", "control_high")]
    if None in ends or None in controls:
        return False
    return bool(ends[0] > max(0, controls[1]) or ends[1] < min(0, controls[0]))


def _of_variants(study: Study, stem: str, kind: str, reading: str) -> dict[str, list[Row]]:
    """The rows of a table by variant."""
    table = study.table(f"{stem}_{kind}.parquet")
    if table is None:
        return {}
    return grouped(table.filter(pc.field("reading") == reading).to_pylist(), "variant")


def _tokens(study: Study, stem: str, reading: str, shown: Mapping[str, str]) -> Table:
    by_variant = _of_variants(study, stem, "tokens", reading)
    variants = [v for v, role in shown.items() if role != "control" and v in by_variant]
    return Table(
        title=f"Predicted most often: {_READINGS[reading]}",
        caption=f"Predicting {_READINGS[reading]}: the tokens that are true, or predicted, most "
        "often, and how often.",
        columns=["variant", "tokens"],
        rows=[
            [
                v,
                Cell(
                    ", ".join(
                        f"“{token_of(study.frequencies, row['id'], row['token'])}” {row['count']:,}"
                        for row in by_variant[v][:_LEADING_TOKENS]
                    ),
                    title=f"ids {listing([r['id'] for r in by_variant[v][:_LEADING_TOKENS]])}",
                ),
            ]
            for v in variants[:_SHOWN]
        ],
        left=2,
    )


def _curves(study: Study, stem: str, reading: str, shown: Mapping[str, str]) -> Figure:
    by_variant = _of_variants(study, stem, "tokens", reading)
    kinds = {TRUTH: "reference", "control": "beside"}
    limit = {"ablated": _LINES, "control": _CONTROLS}
    drawn = dict.fromkeys(_ROLES, 0)
    lines = []
    for variant, role in shown.items():
        rows = by_variant.get(variant, [])
        drawn[role] += 1
        if rows and drawn[role] <= limit.get(role, 1):
            counts = [row["count"] for row in rows]
            tokens = [token_of(study.frequencies, row["id"], row["token"]) for row in rows]
            lines.append(RankCurve(variant, counts, tokens, kinds.get(role, "line")))
    return rank_curves(
        f"{stem}_{reading}_ranks",
        f"How often each token is predicted: {_READINGS[reading]}",
        "Tokens by how often they are predicted, the most frequent on the left; both axes are "
        "logarithmic. Dashed: the true tokens of the same places. Dotted grey: random dimensions "
        "disabled. A curve above the dashed one on the left and ending before it on the right "
        "predicts few tokens, and those often.",
        lines,
    )


def _changes(stem: str, reading: str, rows: Sequence[Row], palette: Palette) -> Figure | None:
    of_measure = [row for row in rows if row["measure"] == LEADING]
    ablated = [
        row for row in of_measure if row["role"] == "ablated" and row["difference"] is not None
    ]
    ablated.sort(key=lambda row: row["difference"])
    if not ablated:
        return None
    return differences(
        f"{stem}_{reading}_changes",
        f"Towards frequent or rare tokens: {_READINGS[reading]}",
        "Filled dots: by how much the mean log frequency of what is predicted differs from that of "
        "the intact model on the same tokens, with its 95 % interval. Open dots: the same for sets "
        "of as many random dimensions. Right of the line: more frequent tokens; left of it: rarer "
        "ones.",
        "change of the mean of log(1 + count)",
        beside_controls(of_measure, ablated[:_SHOWN], palette),
    )


def _intact_dims(study: Study, stem: str, reading: str) -> list[Row]:
    rows = _of_variants(study, stem, "dims", reading).get("intact", [])
    rows = [row for row in rows if row["difference"] is not None]
    return sorted(rows, key=lambda row: -abs(row["difference"]))[:_DIMS]


def _dims(study: Study, stem: str, reading: str, marked: Sequence[int]) -> Figure | None:
    rows = _intact_dims(study, stem, reading)
    if not rows:
        return None
    return differences(
        f"{stem}_{reading}_dims",
        f"Dimensions that raise the logits of frequent tokens: {_READINGS[reading]}",
        f"The {len(rows)} dimensions that add most to the difference between the mean logit of the "
        "most frequent tenth of the counted tokens and that of the rarest tenth, in the intact "
        "model: the mean of the state before the output layer, times the difference of the mean "
        "columns; with 95 % intervals over documents. Right of the line a dimension raises "
        f"frequent tokens, left of it rare ones.{' Stars: outliers.' if marked else ''}",
        "added to the mean logit, frequent less rare tokens",
        [
            Difference(
                f"{r['dim']}{' *' if r['dim'] in marked else ''}",
                *ends(r),
                colour=study.palette.of(r["dim"]).colour,
            )
            for r in rows
        ],
    )


def _dims_table(study: Study, stem: str, reading: str, marked: Sequence[int]) -> Table | None:
    rows = _intact_dims(study, stem, reading)
    if not rows:
        return None
    return Table(
        title="What dimensions add to the logits of frequent and rare tokens",
        caption=f"Predicting {_READINGS[reading]}, the intact model. Mean: of the state before the "
        "output layer. Frequent, rare, unseen: added to the mean logit of the most frequent tenth "
        "of the counted tokens, of the rarest tenth, and of those never counted, before a scale or "
        "cap of the model. Share: of the difference that all dimensions together make. Moved: the "
        "mean size of what a dimension adds to the difference, whichever way. ρ: of the output "
        "layer's column with the counts.",
        columns=["dimension", "mean", "frequent", "rare", "unseen", "difference", "share",
                 "moved", "ρ"],
        rows=[
            [
                Cell(str(row["dim"]), marked=row["dim"] in marked),
                *(number(row[name], 3) for name in ("mean", "frequent", "rare", "unseen")),
                interval(row, "difference"),
                interval(row, "share"),
                number(row["moved"], 3),
                number(row["column_spearman"], 2),
            ]
            for row in rows
        ],
        marks="an outlier dimension by parameters" if marked else "",
    )  # fmt: skip


def _pos(study: Study, stem: str, reading: str, shown: Mapping[str, str]) -> Figure | None:
    by_variant = _of_variants(study, stem, "pos", reading)
    if not by_variant:
        return None
    tables = {}
    variants = [v for v, role in shown.items() if role in ("intact", "ablated")]
    for variant in variants[: _LINES + 1]:
        counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        for row in by_variant[variant]:
            counts[CLASSES.index(row["true"]), CLASSES.index(row["predicted"])] = row["count"]
        tables[variant] = counts
    whole = np.sum(list(tables.values()), axis=0)
    used = np.flatnonzero((whole.sum(0) + whole.sum(1)) > 0)
    return confusion(
        f"{stem}_{reading}_pos",
        f"Parts of speech: {_READINGS[reading]}",
        "Rows: the part of speech of the true word, where it stands. Columns: that of the word "
        "that comes of putting the predicted token in its place. Shares of each row; with the "
        "diagonal all orange, every prediction has the true part of speech. Universal POS tags; "
        "SPACE are blanks alone, “special” are tokens that stand for no word.",
        [CLASSES[i] for i in used],
        {name: counts[np.ix_(used, used)] for name, counts in tables.items()},
    )
