"""Texts that variants of a model completed, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from outdim.analysis.results.compared import others
from outdim.analysis.step import Json, Result
from outdim.analysis.variants.variant import Variant
from outdim.text import counted, listing, number

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Filling(Result):
    """What each variant put into, or behind, each text.

    Attributes:
        head: "mlm" (masks are filled) or "lm" (prompts are continued).
        texts: As given.
        prompts: Their ids.
        variants: Intact, ablated, controls.
        found: By text: "0/ids" [M, masks, top] with "0/probability", or "0/ids" [M, tokens].
        tokenizer: Of the model.
    """

    head: Literal["mlm", "lm"]
    texts: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    variants: tuple[Variant, ...]
    found: Mapping[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerFast

    @cached_property
    def completions(self) -> list[Json]:
        """For each text and variant, in this order, what became of it; plain data.

        text and variant (numbers), completed (the whole text, or what was written behind it) and
        same: of masks, how many the intact model fills alike; of a continuation, how many tokens at
        its beginning are the same. With masks: tokens, each with token, probability and others
        (the next likely ones). Of a continuation: length, distinct_1 to distinct_3 and
        longest_repeat (`outdim.models.completion`).
        """
        of = self._masks if self.head == "mlm" else self._continuations
        return [one for place in range(len(self.texts)) for one in of(place)]

    def _masks(self, place: int) -> Iterator[Json]:
        ids = self.found[f"{place}/ids"].tolist()
        chances = self.found[f"{place}/probability"].tolist()
        mask = self.tokenizer.mask_token_id
        for m, (tokens, chance) in enumerate(zip(ids, chances, strict=True)):
            first = iter([candidates[0] for candidates in tokens])
            whole = [next(first) if one == mask else one for one in self.prompts[place]]
            yield {
                "text": place,
                "variant": m,
                "completed": self._decode(whole),
                "same": sum(a[0] == b[0] for a, b in zip(tokens, ids[0], strict=True)),
                "tokens": [
                    {
                        "token": self._decode(candidates[:1]),
                        "probability": p[0],
                        "others": [
                            [self._decode([one]), q]
                            for one, q in zip(candidates[1:], p[1:], strict=True)
                        ],
                    }
                    for candidates, p in zip(tokens, chance, strict=True)
                ],
            }

    def _continuations(self, place: int) -> Iterator[Json]:
        from outdim.models.completion import ENDED, distinct, longest_repeat

        rows = [[one for one in row if one != ENDED] for row in self.found[f"{place}/ids"].tolist()]
        for m, ids in enumerate(rows):
            differs = (i for i, (a, b) in enumerate(zip(ids, rows[0], strict=False)) if a != b)
            yield {
                "text": place,
                "variant": m,
                "completed": self._decode(ids),
                "same": next(differs, min(len(ids), len(rows[0]))),
                "length": len(ids),
                **{f"distinct_{n}": distinct(ids, n) for n in (1, 2, 3)},
                "longest_repeat": longest_repeat(ids),
            }

    def _decode(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=len(ids) > 1)
        return decoded.strip() if self.head == "mlm" else decoded

    def tables(self) -> dict[str, Json]:
        """One document, ``evaluate_fill.json``: texts, variants, and `completions`."""
        described = [{"label": variant.label, **variant.as_dict()} for variant in self.variants]
        completions = [
            {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in one.items()}
            for one in self.completions
        ]
        return {
            "evaluate_fill": {
                "head": self.head,
                "texts": list(self.texts),
                "variants": described,
                "completions": completions,
            }
        }

    def headline(self) -> list[str]:
        """How much each ablated variant keeps of the intact model's text, beside controls."""
        said = []
        for m, variant in enumerate(self.variants):
            if variant.role != "ablated":
                continue
            beside = [
                n for n, other in enumerate(self.variants)
                if other.role == "control" and other.group == variant.group
            ]  # fmt: skip
            said.append(f"{variant.label}: {self._kept([m])}{self._against(beside)}.")
        return said

    def _against(self, controls: Sequence[int]) -> str:
        if not controls:
            return ""
        beside = others([self.variants[n] for n in controls]).removesuffix(",")
        mean = ", on average" if len(controls) > 1 else ""
        return f"; {beside}{mean}: {self._kept(controls)}"

    def _kept(self, variants: Sequence[int]) -> str:
        """In words, the mean over variants."""
        of = [one for one in self.completions if one["variant"] in variants]
        same = sum(one["same"] for one in of) / len(variants)
        if self.head == "mlm":
            masks = sum(len(one["tokens"]) for one in of) // len(variants)
            return f"{_short(same)} of {counted(masks, 'mask')} filled as by the intact model"
        same /= len(self.texts)
        written = float(np.mean([one["length"] for one in of]))
        repeat = np.mean([one["longest_repeat"] for one in of])
        two = np.mean([one["distinct_2"] for one in of])
        return (
            f"of {_short(written)} tokens the first {_short(same)} as by the intact model, "
            f"distinct-2 {number(float(two), 2)}, longest repeat {_short(float(repeat))} tokens"
        )

    def cautions(self) -> list[str]:
        """A handful of texts is an illustration."""
        return [
            f"{len(self.texts)} {'text is' if len(self.texts) == 1 else 'texts are'} an "
            "illustration; what a variant costs is said by `outdim evaluate lm` or `mlm`."
        ]

    def markdown(self) -> str:
        """A table for each text, as Markdown."""
        lines = []
        for place, text in enumerate(self.texts):
            lines += [f"**{_escaped(text)}**", "", "| variant | text | |", "| --- | --- | --- |"]
            for one in self.completions:
                if one["text"] == place:
                    label = self.variants[one["variant"]].label
                    cells = map(_escaped, (label, one["completed"], measures(one)))
                    lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
        return "\n".join(lines)


def measures(one: Mapping[str, Any]) -> str:
    """What is measured of a completion, in words."""
    if "tokens" in one:
        return listing([f"{t['token']} {number(t['probability'], 2)}" for t in one["tokens"]])
    return (
        f"distinct-2 {number(one['distinct_2'], 2)}, longest repeat {one['longest_repeat']}, first "
        f"{one['same']} as intact"
    )


def _short(value: float) -> str:
    return number(int(value) if value == int(value) else value, 1)


def _escaped(text: str) -> str:
    """A text in one cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ⏎ ")
