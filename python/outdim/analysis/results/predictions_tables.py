"""The tables of what the variants of a model predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from outdim.analysis.parts_of_speech import CLASSES
from outdim.analysis.results.cautions import no_interval
from outdim.analysis.results.compared import ends, variant_row
from outdim.analysis.results.predictions import TRUTH, interval_of
from outdim.analysis.table import OF_VARIANT
from outdim.stats.jackknife import ratio
from outdim.stats.prediction_measures import FREQUENCY, OF_PLACES, READ_OUT
from outdim.text import counted

if TYPE_CHECKING:
    from outdim.analysis.results.predictions import Predictions
    from outdim.stats.prediction_sums import Reading

_STRINGS = ("reading", "measure", "variant", "role")
_FLOATS = (
    *("value", "value_low", "value_high", "difference", "difference_low", "difference_high"),
    *("beyond", "beyond_low", "beyond_high", "control", "control_low", "control_high"),
)
#: Columns of ``predictions_lm.parquet``: a row a reading, measure, and variant (or the truth).
MEASURES = pa.schema(
    [
        *((name, pa.string()) for name in _STRINGS),
        *OF_VARIANT,
        *((name, pa.float64()) for name in _FLOATS),
        ("tokens", pa.int64()),
        ("blocks", pa.int64()),  # of documents, left out in turn
        ("reason", pa.string()),  # why the value or an interval is not there, else empty
    ]
)
#: Columns of ``predictions_lm_tokens.parquet``: a row a reading, variant and predicted token.
TOKENS = pa.schema(
    [
        ("reading", pa.string()),
        ("variant", pa.string()),
        ("rank", pa.int64()),  # by count, from 1
        ("id", pa.int64()),
        ("token", pa.string()),
        ("count", pa.int64()),  # how often it is predicted, or true
        ("corpus_count", pa.int64()),
    ]
)
#: Columns of ``predictions_lm_dims.parquet``: a row a reading, variant and dimension.
DIMS = pa.schema(
    [
        ("reading", pa.string()),
        ("variant", pa.string()),
        ("dim", pa.int32()),
        ("mean", pa.float64()),  # of h
        ("mean_abs", pa.float64()),  # of |h|
        ("column_frequent", pa.float64()),  # mean of the output layer's column
        ("column_rare", pa.float64()),
        ("column_unseen", pa.float64()),
        ("column_spearman", pa.float64()),  # of the column with counts, counted tokens
        ("frequent", pa.float64()),  # added to the mean logit of frequent tokens
        ("rare", pa.float64()),
        ("unseen", pa.float64()),
        ("difference", pa.float64()),  # frequent less rare
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("share", pa.float64()),  # of the difference of all dimensions
        ("share_low", pa.float64()),
        ("share_high", pa.float64()),
        ("moved", pa.float64()),  # of the difference, whichever way
    ]
)
#: Columns of ``predictions_lm_pos.parquet``: a row a reading, variant, true and predicted class.
POS = pa.schema(
    [
        ("reading", pa.string()),
        ("variant", pa.string()),
        ("true", pa.string()),
        ("predicted", pa.string()),
        ("count", pa.int64()),
        ("share", pa.float64()),  # of the tokens with the true class
        ("share_low", pa.float64()),
        ("share_high", pa.float64()),
        ("difference", pa.float64()),  # to the intact model
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("blocks", pa.int64()),  # of documents, in which the true class occurs
        ("reason", pa.string()),  # why an interval is not there, else empty
    ]
)


def tables(found: Predictions) -> dict[str, pa.Table]:
    """Measures, predicted tokens, dimensions, and parts of speech where there are any."""
    stem = f"predictions_{found.task}"
    made = {
        stem: pa.Table.from_pylist(list(_rows(found)), MEASURES),
        f"{stem}_tokens": pa.concat_tables(_tokens(found)),
    }
    if found.contributions:
        made[f"{stem}_dims"] = pa.concat_tables(_dims(found))
    if found.tagger:
        made[f"{stem}_pos"] = pa.Table.from_pylist(list(_pos(found)), POS)
    return made


def _rows(found: Predictions) -> Iterator[dict[str, Any]]:
    for reading, by_name in found.comparisons.items():
        for name, compared in by_name.items():
            for i, label in enumerate(found.names()):
                if i == 0 and name not in FREQUENCY:
                    continue  # of the model alone
                about = variant_row(found.variants[i - 1]) if i else {"role": TRUTH}
                yield {
                    "reading": reading,
                    "measure": name,
                    **about,
                    "variant": label,
                    **ends("value", compared.value, i),
                    **(ends("difference", compared.difference, i) if i != 1 else {}),
                    **ends("beyond", compared.beyond, i),
                    **ends("control", compared.control, i),
                    "tokens": _count(found.readings[reading], name, i),
                    "blocks": int(compared.blocks[i]),
                    "reason": _reason(found, reading, name, i),
                }


def _reason(found: Predictions, reading: str, name: str, series: int) -> str:
    blocks = int(found.measure(name, reading).blocks[series])
    said = [found.reason(reading, series), no_interval(blocks)]
    if found.own_counts and name in OF_PLACES and not blocks:
        said.append("there are no other documents to count tokens in")
    if name == "pos_agreement" and (untagged := found.untagged(reading, series)):
        said.insert(1, f"{counted(untagged, 'token')} in documents that are not tagged")
    return "; ".join(filter(None, said))


def _count(found: Reading, name: str, series: int) -> int:
    """Of how many tokens a measure is."""
    if name == "pos_agreement":
        return int(found.classes[:, series - 1].sum())
    return int(found.counts[:, series].sum())


def _tokens(found: Predictions) -> Iterator[pa.Table]:
    for reading in found.readings:
        for i, name in enumerate(found.names()):
            ids, times = found.predicted(reading, i)
            columns = {
                "reading": [reading] * len(ids),
                "variant": [name] * len(ids),
                "rank": np.arange(1, len(ids) + 1),
                "id": ids,
                "token": [found.label(token) for token in ids.tolist()],
                "count": times,
                "corpus_count": found.corpus[ids],
            }
            yield pa.table(columns, TOKENS)


def _dims(found: Predictions) -> Iterator[pa.Table]:
    columns = {f"column_{n}": c for n, c in zip(READ_OUT, found.columns, strict=True)}
    for reading, adds in found.contributions.items():
        difference, share = interval_of(adds.difference), interval_of(adds.share)
        for i, variant in enumerate(found.variants):
            size = adds.mean.shape[1]
            own: dict[str, Any] = {
                "reading": [reading] * size,
                "variant": [variant.label] * size,
                "dim": np.arange(size),
                "mean": adds.mean[i],
                "mean_abs": adds.size[i],
                **columns,
                "frequent": adds.frequent[i],
                "rare": adds.rare[i],
                "unseen": adds.unseen[i],
                "moved": adds.moved[i],
            }
            for name, interval in (("difference", difference), ("share", share)):
                own[name] = interval.value[i]
                own[f"{name}_low"], own[f"{name}_high"] = interval.low[i], interval.high[i]
            arrays = [pa.array(own[f.name], f.type, from_pandas=True) for f in DIMS]
            yield pa.Table.from_arrays(arrays, schema=DIMS)


def _pos(found: Predictions) -> Iterator[dict[str, Any]]:
    for reading, own in found.readings.items():
        counts = own.classes.astype(float)
        shares = ratio(counts, counts.sum(-1, keepdims=True))
        value, blocks = interval_of(shares, share=True), shares.blocks
        difference = interval_of(shares - shares.at(slice(1)))
        total = own.classes.sum(0)
        for true, predicted in np.argwhere(total.sum(0) > 0).tolist():
            for i, variant in enumerate(found.variants):
                at = i, true, predicted
                yield {
                    "reading": reading,
                    "variant": variant.label,
                    "true": CLASSES[true],
                    "predicted": CLASSES[predicted],
                    "count": int(total[at]),
                    **ends("share", value, at),
                    **(ends("difference", difference, at) if i else {}),
                    "blocks": int(blocks[at]),
                    "reason": no_interval(int(blocks[at])),
                }
