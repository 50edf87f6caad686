"""Comparisons of results with those that were kept; each can fail, as the tests show."""

import math

import numpy as np
import pandas as pd
from golden import digests

KEY = ["point", "layer", "dim", "selection", "statistic", "covariate"]
EXTREMES = ("min", "max", "absmax")
#: float64 arithmetic on the parameters, no forward.
FLOAT64 = 1e-12


def scales(kept):
    """What each statistic moves by, to first order, when every h moves by max |h| in its worst way.

    Indexed by point, layer, dim, selection; a column a statistic.
    """
    states = kept[(kept.selection != "") & (kept.covariate == "")]
    index = ["point", "layer", "dim", "selection"]
    wide = states.pivot(index=index, columns="statistic", values="value")
    wide = wide.reindex(columns=["mean", "std", "mean_abs", "absmax", "kurtosis"])
    size, std = wide["absmax"], wide["std"]
    std_abs = np.sqrt(np.maximum(std**2 + wide["mean"] ** 2 - wide["mean_abs"] ** 2, 0))
    found = dict.fromkeys(("mean", "mean_abs", "std", *EXTREMES), size)
    found |= {"variance": 2 * std * size, "variance_abs": 2 * std_abs * size}
    found |= {"pearson": 2 * size / std, "pearson_abs": 2 * size / std_abs}
    found["kurtosis"] = 8 * wide["kurtosis"] * size / std  # E |z|^3 <= E z^4
    return pd.DataFrame(found)


def tolerances(kept, accuracy):
    """The largest difference allowed in each row of the kept table; 0 without a scale."""
    average, extreme = accuracy
    scale = scales(kept).stack()
    scale.index.names = ["point", "layer", "dim", "selection", "statistic"]
    rows = pd.MultiIndex.from_frame(kept[scale.index.names])
    share = np.where(kept.statistic.isin(EXTREMES), extreme, average)
    allowed = share * scale.reindex(rows).to_numpy()
    parameters = kept.statistic.isin(["gamma", "beta", "gamma_z", "beta_z"])
    allowed = np.where(parameters, FLOAT64 * kept.value.abs(), allowed)
    over = kept.statistic.str.startswith("fraction_over")  # two tokens may cross the threshold
    allowed = np.where(over, 2 / kept.n.clip(lower=1) if extreme else 0, allowed)
    return np.where(np.isnan(allowed), 0, allowed)


def compare_tables(found, kept, accuracy):
    """Every kept row is there, with its n and its reason, and with its value as far as allowed."""
    both = kept.merge(found, "left", KEY, suffixes=("", "_found"), validate="one_to_one")
    missing = both[both.n_found.isna()]
    assert missing.empty, f"rows are missing:\n{missing[KEY].head(10).to_string()}"
    for column in ("n", "reason"):
        wrong = both[both[column] != both[f"{column}_found"]]
        assert wrong.empty, f"{column} is another:\n{wrong.head(10).to_string()}"
    assert_close(both.value_found, both.value, tolerances(kept, accuracy), both[KEY])


def assert_close(found, kept, allowed, rows=None):
    """NaN is where NaN was, infinity where it was, and the rest not further off than allowed."""
    found, kept, allowed = (np.asarray(part, np.float64) for part in (found, kept, allowed))
    finite = np.isfinite(kept)
    assert np.isfinite(allowed[finite]).all(), "a comparison that cannot fail"
    same = (found == kept) | (np.isnan(found) & np.isnan(kept))
    with np.errstate(invalid="ignore"):
        same |= finite & (np.abs(found - kept) <= allowed)
    if not same.all():
        shown = np.stack([found[~same], kept[~same], allowed[~same]], 1)
        where = "" if rows is None else rows[~same].head(10).to_string()
        raise AssertionError(f"found, kept, allowed of {len(shown)}:\n{shown[:10]}\n{where}")


def compare_counts(found, kept, whole=None):
    """Every column of the kept ids is the same; ``whole`` has digests of columns of all ids."""
    pd.testing.assert_frame_equal(found.loc[kept.index, kept.columns], kept)
    assert (whole or {}) == {name: digests.column_digest(found[name]) for name in whole or {}}


def compare_plain(found, kept, at="detection"):
    """JSON: what was kept is there; integers, texts and lists as they were, floats to FLOAT64."""
    if isinstance(kept, dict):
        for key, value in kept.items():
            assert key in found, f"{at}: no {key}"
            compare_plain(found[key], value, f"{at}.{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), f"{at}: {len(found)} entries, {len(kept)} were kept"
        for i, pair in enumerate(zip(found, kept, strict=True)):
            compare_plain(*pair, f"{at}[{i}]")
    elif isinstance(kept, float):
        assert math.isclose(found, kept, rel_tol=FLOAT64), f"{at}: {found!r}, kept {kept!r}"
    else:
        assert found == kept, f"{at}: {found!r}, kept {kept!r}"


def compare_sums(found, kept, table, accuracy):
    """Sums per token: ids and n exactly, the others as the mean and the variance of the table."""
    for name in ("ids", "n", "points", "dims"):
        np.testing.assert_array_equal(found[name], kept[name], name)
    scale = scales(table).xs("text", level="selection").droplevel("layer")
    at = pd.MultiIndex.from_product([kept["points"], kept["dims"]])

    def share(column, accuracy):
        return accuracy * scale.loc[at, column].to_numpy().reshape(kept["m2"].shape)

    by_token = kept["n"][:, None, None] * share("mean", max(accuracy))  # of one token, maybe
    for name in ("sums", "sums_abs"):
        assert_close(found[name], kept[name], by_token)
    n = kept["n"].sum()
    assert_close(found["m2"], kept["m2"], n * share("variance", accuracy[0]))
    assert_close(found["m2_abs"], kept["m2_abs"], n * share("variance_abs", accuracy[0]))
