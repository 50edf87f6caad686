"""What results say they found, and what they warn of."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from outdim.analysis.correlate import Correlation, frequency_covariates
from outdim.analysis.count import Counted
from outdim.analysis.results.correlation_words import _changed_by
from outdim.analysis.results.detection import FalsePositives, detect_parameters
from outdim.analysis.results.estimate import Estimate
from outdim.stats import PointMoments
from outdim.tokens import GROUPS, TokenFrequencies

TOKENS, VOCAB, DIMS = 400, 20, 8
POINTS = ("embeddings", "block.0")


def estimate(value, **worth):
    return Estimate(np.array([value]), **{k: np.array([v]) for k, v in worth.items()})[0]


@pytest.mark.parametrize(
    ("given", "words", "chance"),
    [
        ({}, "−0.50", ""),
        ({"low": -0.6, "high": -0.4}, "−0.50 [−0.60, −0.40]", ""),
        ({"low": np.nan, "high": np.nan}, "−0.50", ""),
        ({"p": 0.0004}, "−0.50", "more than chance gives (p < 0.001)"),
        ({"p": 0.46, "null": 0.1}, "−0.50", "no more than chance gives (p = 0.460)"),
        (
            {"p": 0.004, "low": -0.9, "high": 0.7},
            "−0.50 [−0.90, 0.70]",
            "not surely more than chance gives, since the interval holds 0 (p = 0.004)",
        ),
        ({"null": 0.4}, "−0.50", "more than chance gives (which reaches 0.40)"),
        ({"null": 0.6, "p": np.nan}, "−0.50", "no more than chance gives (which reaches 0.60)"),
    ],
)
def test_a_value_is_told_with_what_it_is_worth(given, words, chance):
    one = estimate(-0.5, **given)
    assert (one.words(), one.chance()) == (words, chance)
    assert one.beyond_chance is (chance.startswith("more") if chance else None)


@pytest.mark.parametrize(
    ("r", "without", "way"),
    [
        (0.66, 0.74, "where it was 0.66: together they work against it"),
        (0.66, 0.5, "work for it"),
        (0.66, -0.9, "work for it"),
        (-0.5, -0.7, "where it was −0.50: together they work against it"),
        (-0.5, -0.3, "work for it"),
    ],
)
def test_words_that_change_an_r_work_for_it_or_against_it(r, without, way):
    drivers = SimpleNamespace(ids=[1, 0], without_all=[0.1, without])
    leader = SimpleNamespace(dim=127, point="block.0", r=r, p_all=0.01, drivers=drivers)
    worth = SimpleNamespace(labels=["the", "##k"], leading=lambda covariate: leader)
    found = SimpleNamespace(worth=worth, points=["block.0"], layers=[1])
    (said,) = _changed_by(found)
    assert said.startswith("Without “##k” and “the”, which change it most, r of dimension 127 at")
    assert way in said


def planted_norms(dims=(7,), layers=4, beta=True):
    rng = np.random.default_rng(0)
    gamma, shift = rng.normal(1, 0.1, (layers, 64)), rng.normal(0, 0.1, (layers, 64))
    for dim in dims:
        gamma[:, dim] += 3
        shift[:, dim] -= 3
    return gamma, shift if beta else None


@pytest.mark.parametrize(
    ("rule", "beta", "said"),
    [
        (
            "kovaleva2021",
            True,
            "γ and β both further than 3 σ from their layer's mean, in at least",
        ),
        ("puccetti2022", True, "γ or β further than 3 σ from their layer's mean, in at least"),
        ("kovaleva2021", False, "γ further than 3 σ from its layer's mean, in at least"),
    ],
)
def test_outliers_are_told_with_the_rule(rule, beta, said):
    found = detect_parameters(*planted_norms(beta=beta), rule=rule, permutations=0)
    least = 4 if rule == "puccetti2022" else 2
    assert found.headline() == [
        f"1 of the 64 dimensions is an outlier by the rule ({said} {least} of the 4 layers): 7."
    ]
    none = detect_parameters(*planted_norms((), beta=beta), rule=rule, k=9, permutations=0)
    assert none.headline()[0].startswith("No dimension of the 64 is an outlier by the rule (γ")


@pytest.mark.parametrize(
    ("apart", "kept", "said"),
    [
        (0.0, 0.04, "1,000 permutations of their positions: none (each"),
        (0.0, 0.04, "each layer apart; 0.04 if those of β"),
        (0.12, 0.0, "1,000 permutations of their positions: 0.12 (each"),
        (0.12, 0.0, "each layer apart; none if"),
        (0.12, math.nan, "0.12 (each layer apart)."),
    ],
)
def test_chance_is_told_within_what_permutations_can_say(apart, kept, said):
    found = detect_parameters(*planted_norms(), permutations=0)
    found = replace(found, false_positives=FalsePositives(1000, apart, 0.0, kept))
    assert said in found.headline()[0]


def test_a_rule_that_finds_dimensions_by_chance_is_warned_of():
    found = detect_parameters(*planted_norms(), permutations=0)
    assert found.cautions() == []
    found = replace(found, note="Mind the norm.", false_positives=FalsePositives(9, 1.5, 1, 0))
    first, second = found.cautions()
    assert first == "Mind the norm."
    assert second.startswith("The outlier rule finds 1.50 dimensions by chance alone")


def counted(skipped, places=(), **given):
    counts = np.array([9, 0, 60, 30, 10], np.int64)
    frequencies = TokenFrequencies(counts, np.arange(5) == 0, tuple("abcde"))
    read = {"documents": 1_234, "tokens": 109, "special": 9, "skipped": skipped}
    return Counted(frequencies, {}, {**read, "places": list(places)}, **given)


def test_counts_are_told_with_what_was_left_out():
    assert counted({"blank": 3}).headline() == [
        "100 text tokens of 1,234 documents were counted; 3 of 4 token ids of text occur, and the "
        "100 most frequent make up 100% of the text."
    ]
    said = counted({"short": 6_949}, min_chars=500).headline()[0]
    assert "1,234 documents (6,949 more, shorter than 500 characters, were left out) were" in said


def test_rows_that_could_not_be_read_are_warned_of():
    assert counted({"blank": 9, "short": 6_949, "null": 8}).cautions() == []
    skipped = {"blank": 9, "truncated file": 1, "invalid JSON": 1_203}
    (said,) = counted(skipped, ["a.jsonl: line 3: invalid JSON", "b"]).cautions()
    assert "could not be read: 1,203 × invalid JSON and 1 × truncated file. " in said
    assert said.endswith("The first: a.jsonl: line 3: invalid JSON.")


def correlation(change=lambda hidden: None, tokens=TOKENS):
    """Dimension 3 of block.0 follows the log count; dimension 5 the count of the one token 1."""
    rng = np.random.default_rng(0)
    counts = np.array([0, 1_000_000, *range(1, VOCAB - 1)], np.int64)
    covariates = frequency_covariates(
        TokenFrequencies(counts, np.arange(VOCAB) == 0, tuple(map(str, range(VOCAB))))
    )
    ids = torch.from_numpy(rng.integers(0, VOCAB, tokens))
    group = torch.where(ids == 0, 1 + GROUPS.index("special"), 1 + GROUPS.index("text"))
    moments = PointMoments(POINTS, GROUPS, covariates)
    moments.begin(ids, group.to(torch.uint8), torch.arange(tokens).double()[None])
    for point in POINTS:
        hidden = 5 + torch.from_numpy(rng.normal(0, 0.1, (1, tokens, DIMS)))
        if point == "block.0":
            hidden[..., 3] += 0.1 * torch.from_numpy(np.log1p(counts))[ids]
            hidden[..., 5] += torch.from_numpy(counts)[ids] / 1e6
        change(hidden)
        moments.add(point, hidden)
    moments.commit()
    return Correlation(POINTS, (0, 1), moments)


def test_log_counts_lead_and_raw_counts_stand_beside():
    found = correlation()
    r = found.pearson("block.0", "log1p_count")
    raw = found.pearson("block.0", "count")
    assert (np.argmax(np.abs(r)), np.argmax(np.abs(raw))) == (3, 5)
    text, everything = (found.results["block.0", name].n for name in ("text", "all"))
    assert found.headline() == [
        f"The dimension that follows token frequency most closely is 3, at layer 1: r of |h| "
        f"with log(1 + token count) (text tokens only) is {r[3]:.2f}. The median dimension there "
        f"has |r| = {np.median(np.abs(r)):.2f}.",
        "With the token count itself, in which a few very frequent tokens weigh most, it is "
        f"dimension 5, at layer 1: r is {raw[5]:.2f}.",
        f"{text} text tokens went into the statistics ({everything} with special tokens).",
    ]


def test_intervals_and_chance_are_in_headline_and_table(monkeypatch):
    plain = Correlation.estimate

    def with_worth(self, point, covariate, **which):
        found = plain(self, point, covariate, **which)
        p = np.full(DIMS, 0.5)
        return replace(found, low=found.value - 0.1, high=found.value + 0.1, p=p)

    monkeypatch.setattr(Correlation, "estimate", with_worth)
    found = correlation()
    r = found.pearson("block.0", "log1p_count")[3]
    said = f"is {r:.2f} [{r - 0.1:.2f}, {r + 0.1:.2f}], no more than chance gives (p = 0.500)."
    assert said in found.headline()[0]
    rows = found.tables()["stats"].to_pylist()
    row = next(
        row
        for row in rows
        if (row["statistic"], row["covariate"], row["point"], row["dim"], row["selection"])
        == ("pearson_abs", "log1p_count", "block.0", 3, "text")
    )
    assert (row["value"], row["low"], row["p"]) == (r, r - 0.1, 0.5)


def test_cautions_name_places_and_reasons():
    def spoil(hidden):
        hidden[..., 2] = 1.0
        hidden[0, :12, 6] = torch.nan

    said = "\n".join(correlation(spoil).cautions())
    assert "24 values were NaN or infinite, in 1 dimension; their" in said
    assert "Most at embeddings dimension 6 (12) and block.0 dimension 6 (12)." in said
    assert "in 4 of 16 places: 2 where " in said
    assert "2 where the dimension is constant" in said
    assert "2 where values are NaN or infinite" in said
    assert "(log(1 + token count)" not in said
    assert "token count, text tokens only; " in said
    assert "text tokens: even if they were independent, r would have a standard error of" in said


def test_a_sound_correlation_has_no_cautions():
    assert correlation(tokens=12_000).cautions() == []


def test_r_that_is_nowhere_defined_is_said():
    found = correlation(lambda hidden: hidden.fill_(1.0))
    assert found.headline()[0] == (
        "r of |h| with log(1 + token count) (text tokens only) is not defined for any dimension."
    )
