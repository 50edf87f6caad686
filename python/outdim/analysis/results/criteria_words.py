"""What `criteria` found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from outdim.analysis.results.agreement import LEADING
from outdim.analysis.results.cautions import nonfinite_values
from outdim.text import counted, listing, number

if TYPE_CHECKING:
    from outdim.analysis.results.agreement import Criteria, Found

_NAMED = 6


def headline(found: Criteria) -> list[str]:
    """The dimensions that most rules agree on, and whether the parameters say so too."""
    votes = found.votes()
    left_out = sum(bool(one.dims) and not one.telling for one in found.of(LEADING))
    of_which = f", of which {len(found.rules) - left_out} are counted," if left_out else ""
    rules = f"{counted(len(found.rules), 'rule')} on hidden states{of_which}"
    if not votes:
        return [
            f"None of {rules} finds an outlier dimension that stays in its place through the "
            "layers.",
            *_untrained(found),
        ]
    sentences = [f"Of {rules.rstrip(',')}, the most agree on {most_agreed(votes)}."]
    if found.parameters:
        by = [f"{dim}: {len(votes[dim])}" for dim in found.parameters if dim in votes]
        by_none = [dim for dim in found.parameters if dim not in votes]
        by += [f"{listing(by_none)}: none"] if by_none else []
        sentences.append(
            f"How many of these rules find the outliers by parameters: {', '.join(by)}."
        )
    return sentences + _untrained(found)


def most_agreed(votes: Mapping[int, Sequence[str]]) -> str:
    """The dimensions that most rules find, none of a tie that would have to be cut, if any left."""
    by = {dim: len(rules) for dim, rules in votes.items()}
    named = list(by)[:_NAMED]
    if len(by) > _NAMED:
        above = [dim for dim in named if by[dim] > list(by.values())[_NAMED]]
        named = above or named
    said = ", ".join(f"{dim} (by {by[dim]})" for dim in named)
    rest = [of for dim, of in by.items() if dim not in named]
    as_many = rest.count(by[named[-1]])
    fewer = len(rest) - as_many
    more = [f"{as_many:,} more by as many"] if as_many else []
    more += [f"{fewer:,} {'' if more else 'more '}by fewer"] if fewer else []
    text = f"{'dimension' if len(named) == 1 else 'dimensions'} {said}"
    return f"{text}; {' and '.join(more)}" if more else text


def _untrained(found: Criteria) -> list[str]:
    """What the rules find where nothing was learned, or that it is not known."""
    known = [(one, one.untrained) for one in found.of(LEADING) if one.untrained is not None]
    if not known:
        any_ = any(one.dims for one in found.of(LEADING))
        return ["Whether these rules find as much with random weights was not checked "
                "(criteria --twins)."] if any_ else []  # fmt: skip
    loud = [(one, twin) for one, twin in known if any(twin.found)]
    twins, digits = len(found.twins), 0 if len(found.twins) == 1 else 1
    where = (
        f"In {counted(twins, 'model')} of this architecture with random weights that read the same "
        "text"
    )
    if not loud:
        return [f"{where}, none of these rules finds any dimension."]
    said = [
        f"{one.rule.name} {number(twin.of_model, digits)} of {twin.dims:,} (trained: "
        f"{len(one.dims):,})"
        for one, twin in sorted(loud, key=lambda pair: -pair[1].of_model)
    ]
    silent = len(known) - len(loud)
    others = f"; the other {silent} find none" if silent else ""
    return [f"{where}, rules call dimensions outliers too: {listing(said, _NAMED)}{others}."]


def cautions(found: Criteria) -> list[str]:
    """Rules that say more of a threshold than of a model, and quantiles that leave it open."""
    judged = found.of(LEADING)
    said = list(dict.fromkeys(one.rule.note for one in judged if one.rule.note and one.layers))
    for one in judged:
        if one.dims and not one.telling:
            said.append(_not_telling(one))
        elif one.dims and one.as_in_a_layer:
            said.append(_in_a_layer(one))
    if undecided := sum(f.undecided for f in judged):
        verb, them = ("lies", "it") if undecided == 1 else ("lie", "them")
        said.append(
            f"{counted(undecided, 'verdict')} of rules on medians and quantiles {verb} within the "
            "width of a bin of the histogram (6 %) and may go either way; criteria.parquet "
            f"marks {them}."
        )
    moments = [s.moments for (_, name), s in found.states.items() if name == "all"]
    effect = "the rules leave such a dimension out where they need its moments"
    return said + nonfinite_values(moments, effect)


def expected(dims: float | None) -> str:
    """How many dimensions there would be; what is next to none is not written out.

    >>> expected(8.18e-27), expected(1.62), expected(0.0)
    ('< 0.01', '1.62', '0.00')
    """
    return "< 0.01" if dims is not None and 0 < dims < 0.01 else number(dims, 2)


def _in_a_layer(one: Found) -> str:
    """That a rule says something of the model, and little of a single layer."""
    more = "" if one.untrained else "; layers hand on their states, so that --twins tells more"
    return (
        f"What {one.rule.name} flags in a single layer may be chance: {number(one.a_layer, 1)} "
        f"dimensions, where {_beside(one)}. What recurs, {len(one.dims)} in at least "
        f"{counted(one.layers_needed, 'layer')}, is counted: {expected(one.chance)} would if the "
        f"places in each layer were shuffled{more}."
    )


def _beside(one: Found) -> str:
    """What is flagged in a layer where there is nothing to find."""
    said = [f"states of this size without outliers have {number(one.chance_a_layer, 1)}"]
    if one.untrained is not None:
        said.append(f"those of random weights {number(one.untrained.a_layer, 1)}")
    return " and ".join(said)


def _not_telling(one: Found) -> str:
    """What a rule finds, beside what chance and a model that learned nothing give."""
    if one.unproven:
        return (
            f"Whether {one.rule.name} finds more ({counted(len(one.dims), 'dimension')} of the "
            "model) than with random weights is not known without --twins: it is left out where "
            "rules are counted."
        )
    twin = one.untrained
    of_model = (
        []
        if math.isnan(one.chance)
        else [f"there would be {expected(one.chance)} if the places in each layer were shuffled"]
    )
    if twin is not None:
        of_model.append(f"random weights give {number(twin.of_model, 1)}")
    beside = f", where {' and '.join(of_model)}" if of_model else ""
    return (
        f"What {one.rule.name} finds may be chance: {number(one.a_layer, 1)} dimensions a layer, "
        f"where {_beside(one)}; {len(one.dims)} of the model{beside}. It is left out "
        "where rules are counted."
    )
