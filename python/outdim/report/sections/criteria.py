"""Outlier dimensions by hidden states: what each rule finds, and how rules agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from outdim.analysis.results.agreement import jaccard
from outdim.analysis.results.criteria_words import expected
from outdim.analysis.table import selection_label
from outdim.report.figures.layer_curves import MAX_MARKED
from outdim.report.section import Cell, Section, Table
from outdim.report.sections import _default
from outdim.report.study import Study
from outdim.report.views import topics
from outdim.text import counted, listing, number, percent

DOCUMENT = "agreement.json"
_LEADING = "all"
_NAMED = 8
_SHOWN_DIMS = 15
_AGREES = 0.5


def section(study: Study, step: str, marked: Sequence[int]) -> Section:
    """Dimensions by the rules that find them, what a rule finds by chance, and Jaccard indices."""
    document = study.document(DOCUMENT)
    found = study.statistics.get(step)
    if document is None or found is None:
        return _default.section(study, step, marked)
    voted = [vote["dim"] for vote in document["votes"][_LEADING]]
    by_rules = "the first dimensions that rules agree on"
    marks = f"{_default.OUTLIERS}, and {by_rules}" if marked else by_rules
    return Section(
        step,
        "Outlier dimensions by hidden states",
        sentences=_without_special(document),
        tables=[
            *_votes(document, marked),
            _rules(document),
            _definitions(document),
            agreement(document, damage(study)),
        ],
        figures=_default.curves(step, topics(found), [*marked, *voted][:MAX_MARKED], marks),
        definitions="criteria.html.j2",
    )


def _found(document: dict[str, Any], selection: str) -> dict[str, dict[str, Any]]:
    """What was found over a selection of tokens, by rule."""
    return {one["rule"]: one for one in document["found"] if one["selection"] == selection}


def _without_special(document: dict[str, Any]) -> list[str]:
    """Say which dimensions are outliers at special and first tokens only."""
    if "text" not in document["votes"]:
        return []
    everywhere, text = (
        {vote["dim"] for vote in document["votes"][name]} for name in (_LEADING, "text")
    )
    only = sorted(everywhere - text)
    if not only:
        return []
    return [
        f"Found over all tokens, but by no rule over {selection_label('text')}: "
        f"{listing(only, _NAMED)}. What is extreme there is at special tokens and at the first "
        "token of a sequence."
    ]


def _votes(document: dict[str, Any], marked: Sequence[int]) -> list[Table]:
    """The dimensions that most rules find, and in how many layers each does."""
    votes = document["votes"][_LEADING][:_SHOWN_DIMS]
    rules = [rule["name"] for rule in document["rules"]]
    found = _found(document, _LEADING)
    telling = [rule for rule in rules if found[rule]["telling"]]
    if not votes:
        return []
    layers = {rule: dict(zip(found[rule]["dims"], found[rule]["layers"], strict=True))
              for rule in telling}  # fmt: skip
    left_out = len(document["votes"][_LEADING]) - len(votes)
    return [
        Table(
            title="Dimensions that rules agree on",
            caption="In how many layers a rule flags the dimension, for rules that are known to "
            f"find more than chance; over {selection_label(_LEADING)}."
            + (f" {left_out:,} more are in {DOCUMENT}." if left_out else ""),
            columns=["dimension", "rules", *(rule.replace("_", " ") for rule in telling)],
            rows=[
                [
                    Cell(str(vote["dim"]), heading=True, marked=vote["dim"] in marked),
                    str(len(vote["rules"])),
                    *(str(layers[rule].get(vote["dim"], "")) for rule in telling),
                ]
                for vote in votes
            ],
            brief=True,
            marks="an outlier by parameters",
        )
    ]


def _rules(document: dict[str, Any]) -> Table:
    found, text = _found(document, _LEADING), _found(document, "text")
    twins = len(document["twins"])
    rows = [
        [
            rule["name"] + (" (not counted)" if one["dims"] and not one["telling"] else ""),
            listing(one["dims"], _NAMED) if one["dims"] else "none",
            str(len(one["dims"])),
            *([str(len(text[rule["name"]]["dims"]))] if text else []),
            number(one["a_layer"], 1),
            expected(one["chance_a_layer"]),
            expected(one["chance"]),
            *([_untrained(one, twins)] if twins else []),
        ]
        for rule in document["rules"]
        for one in [found[rule["name"]]]
    ]
    return Table(
        title="What each rule finds",
        caption="Dimensions that a rule flags in enough layers; how many it flags in a layer, in "
        "the mean; how many it would among independent normal states of the same size, of which "
        "none is an outlier; and how many would recur if the places in each layer were shuffled. "
        "Not counted where rules agree: what may be chance, and mad without models that learned "
        "nothing."
        + (
            f" With random weights: how many the rule finds in the mean of "
            f"{counted(twins, 'model')} of this architecture that learned nothing and read the "
            "same text; in brackets the share of all dimensions, with its interval. Shaded: at "
            "least half of what it finds in this model."
            if twins
            else ""
        ),
        columns=[
            *("rule", "dimensions", "found"),
            *(["in text alone"] if text else []),
            *("a layer", "a layer, by chance", "recurring by chance"),
            *(["with random weights"] if twins else []),
        ],
        rows=rows,
        left=2,
    )


def _definitions(document: dict[str, Any]) -> Table:
    return Table(
        title="How the rules are defined",
        caption="When a rule flags a dimension of a layer, and who brought it.",
        columns=["rule", "flags a dimension where", "source"],
        rows=[[rule["name"], rule["definition"], rule["source"]] for rule in document["rules"]],
        left=3,
        folded=True,
    )


def _untrained(one: dict[str, Any], twins: int) -> Cell:
    """What a rule finds in twins with random weights."""
    twin = one["untrained"]
    mean = sum(twin["found"]) / twins
    rate, low, high = (percent(twin[name]) for name in ("rate", "low", "high"))
    return Cell(
        f"{number(mean, 0 if twins == 1 else 1)} ({rate} [{low}, {high}])",
        marked=mean > 0 and mean >= len(one["dims"]) / 2,
    )


def damage(study: Study) -> set[int] | None:
    """Dimensions that by their interval do over five times the harm of random ones, of a sweep."""
    tables = [study.table(f"{name}.parquet") for name in ("sweep_lm", "sweep_mlm")]
    swept = [table for table in tables if table is not None]
    if not swept:
        return None
    harmful = (
        (pc.field("metric") == "loss")
        & (pc.field("role") == "ablated")
        & (pc.field("gate") == "passed")
    )
    dims = [row for table in swept for row in table.filter(harmful)["dims"].to_pylist()]
    return {row[0] for row in dims if len(row) == 1}


def agreement(document: dict[str, Any], harmful: set[int] | None) -> Table:
    """Jaccard indices of the rules, and of what a sweep found to do damage."""
    matrix = document["agreement"][_LEADING]
    names = [name.replace("_", " ") for name in matrix["names"]]
    values = [list(row) for row in matrix["jaccard"]]
    if harmful is not None:
        found = _found(document, _LEADING)
        sets = [found[n]["dims"] if n in found else document["parameters"] for n in matrix["names"]]
        column = [jaccard(set(dims), harmful) for dims in sets]
        values = [[*row, value] for row, value in zip(values, column, strict=True)]
        values.append([*column, jaccard(harmful, harmful)])
        names.append("damage")
    finds = np.isfinite(np.array(values, np.float64).diagonal())  # with itself: 1, if anything
    something = np.flatnonzero(finds).tolist()
    silent = [name for name, any_ in zip(names, finds, strict=True) if not any_]
    names = [names[place] for place in something]
    values = [[values[row][column] for column in something] for row in something]
    return Table(
        title="Agreement of the rules",
        caption="Jaccard index of the dimensions that two rules find: those found by both, as a "
        f"share of those found by either. Shaded: {_AGREES} and more."
        + (f" Left out, for they find none: {listing(silent)}." if silent else "")
        + (
            ""
            if harmful is None
            else f" Damage: {counted(len(harmful), 'dimension')} that by this study's sweep do "
            "over five times the harm of random ones."
        ),
        columns=["", *names],
        rows=[
            [
                name,
                *(
                    Cell(number(value, 2), marked=value is not None and value >= _AGREES)
                    for value in row
                ),
            ]
            for name, row in zip(names, values, strict=True)
        ],
    )
