"""``outdim sweep glue``: by what a classifier says of labelled items.

Accuracy moves by whole items, and most single dimensions move none: loss and probability of the
right label, which are smooth, stand beside the metrics of the task and rank the dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from outdim.analysis.input_options import args_of
from outdim.analysis.inputs import Inputs
from outdim.analysis.labelled_items import GlueOptions, resolve_glue
from outdim.analysis.step import Json
from outdim.analysis.sweeps.options import SweepOptions
from outdim.analysis.sweeps.ranked_text import ranked_on
from outdim.analysis.sweeps.step import SweepStep
from outdim.analysis.variants.on_items import AnswersOnItems, means_of_items, variant_logits


@dataclass(frozen=True, kw_only=True)
class SweepGlueOptions(GlueOptions, SweepOptions):  # noqa: D101 - what the two say
    __doc__ = f"{SweepOptions.__doc__}{args_of(GlueOptions)}"


class SweepGlue(SweepStep, AnswersOnItems):
    """A block of the variants of a grid, with all items."""

    name = "sweep-glue"
    needs = ("screen-glue",)
    Options = SweepGlueOptions

    @classmethod
    def resolve(cls, options: SweepGlueOptions, inputs: Inputs) -> Json:
        """The items, the labels of the classifier, and the grid of variants."""
        recorded = resolve_glue(options, inputs, options.seed)
        means = partial(means_of_items, options, recorded, inputs)
        return {
            **recorded,
            "grid": options.grid(inputs, means).as_dict(),
            "note": variant_logits(inputs).note,
            "ranked": ranked_on(options.ranking, options.dims, [recorded["items"]["sha256"]]),
        }
