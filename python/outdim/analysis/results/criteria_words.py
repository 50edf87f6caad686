"""What `criteria` found, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outdim.analysis.results.agreement import LEADING
from outdim.analysis.results.cautions import nonfinite_values
from outdim.text import counted, listing, number

if TYPE_CHECKING:
    from outdim.analysis.results.agreement import Criteria

_NAMED = 6


def headline(found: Criteria) -> list[str]:
    """The dimensions that most rules agree on, and whether the parameters say so too."""
    votes = found.votes()
    rules = counted(len(found.rules), "rule")
    if not votes:
        return [
            f"None of {rules} on hidden states finds an outlier dimension that stays in its "
            "place through the layers."
        ]
    said = ", ".join(f"{dim} (by {len(votes[dim])})" for dim in list(votes)[:_NAMED])
    rest = len(votes) - _NAMED
    sentences = [
        f"Of {rules} on hidden states, the most agree on "
        f"{'dimension' if len(votes) == 1 else 'dimensions'} {said}"
        f"{f'; {rest:,} more are found by as many or fewer' if rest > 0 else ''}."
    ]
    if found.parameters:
        by = [f"{dim}: {len(votes[dim])}" for dim in found.parameters if dim in votes]
        by_none = [dim for dim in found.parameters if dim not in votes]
        by += [f"{listing(by_none)}: none"] if by_none else []
        sentences.append(
            f"How many of these rules find the outliers by parameters: {', '.join(by)}."
        )
    return sentences


def cautions(found: Criteria) -> list[str]:
    """Rules that say more of a threshold than of a model, and quantiles that leave it open."""
    judged = found.of(LEADING)
    said = list(dict.fromkeys(one.rule.note for one in judged if one.rule.note and one.layers))
    for one in judged:
        if one.dims and not one.telling:
            said.append(
                f"What {one.rule.name} finds may be chance: {number(one.a_layer, 1)} "
                "dimensions a layer, where states of this size without outliers have "
                f"{number(one.chance_a_layer, 1)}; {len(one.dims)} of the model, where there "
                f"would be {number(one.chance, 1)} if the places in each layer were shuffled. It "
                "is left out where rules are counted."
            )
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
