"""What a model puts in the place of masks, or behind a prompt, under several ablations at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outdim.errors import ArgumentError
from outdim.hub import quiet_unless_terminal
from outdim.models.ablate import ablate_each
from outdim.models.ablation import Ablation
from outdim.models.architecture import Architecture, check_eval_mode
from outdim.models.forward import Forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENDED = -1  # in the place of a token behind the end of a text
_AT_ONCE = 16  # ablations in one batch


def fill_masks(
    model: PreTrainedModel,
    ids: Sequence[int],
    mask_id: int,
    ablations: Sequence[Ablation | None],
    *,
    top: int = 5,
    found: Architecture | None = None,
) -> tuple[Tensor, Tensor]:
    """The likeliest tokens for every mask of a text, under each ablation.

    Every mask is filled from the same forward, in which all of them are masks.

    Args:
        model: one with a head for masked tokens, in eval mode.
        ids: the text with its template.
        mask_id: what is filled.
        ablations: one a row of the result; None for the model as it is.
        top: how many tokens for each mask.
        found: architecture(model).

    Returns:
        Ids [M, masks, top] int64, the likeliest first, and their probabilities, float64.

    Raises:
        ArgumentError: the model is in training mode.
    """
    check_eval_mode(model)
    places = [place for place, one in enumerate(ids) if one == mask_id]
    forward = Forward(model)
    tokens, chances = [], []
    for some in _parts(ablations):
        rows = torch.tensor([list(ids)] * len(some), device=model.device)
        with torch.inference_mode(), ablate_each(model, some, found=found):
            logits = forward(rows, torch.ones_like(rows)).logits[:, places]
        chance, token = logits.double().softmax(-1).topk(top, -1)
        tokens.append(token.cpu())
        chances.append(chance.cpu())
    return torch.cat(tokens), torch.cat(chances)


def continue_prompt(
    model: PreTrainedModel,
    ids: Sequence[int],
    tokens: int,
    ablations: Sequence[Ablation | None],
    *,
    found: Architecture | None = None,
) -> Tensor:
    """What a language model writes behind a prompt under each ablation, always the likeliest.

    Args:
        model: a causal language model in eval mode.
        ids: the prompt.
        tokens: how many are written at most.
        ablations: one a row of the result; None for the model as it is.
        found: architecture(model).

    Returns:
        Ids [M, tokens] int64; `ENDED` from the token on that ends the text.

    Raises:
        ArgumentError: the model is in training mode, or there is no prompt.
    """
    check_eval_mode(model)
    if not len(ids):
        raise ArgumentError("ids: expected a prompt of at least one token, got none")
    end = _end_ids(model)
    written = []
    for some in _parts(ablations):
        rows = torch.tensor([list(ids)] * len(some), device=model.device)
        with torch.inference_mode(), ablate_each(model, some, found=found), quiet_unless_terminal():
            generated = _greedy(model, rows, tokens, sorted(end))
        new = torch.full((len(some), tokens), ENDED)
        new[:, : generated.shape[1] - len(ids)] = generated[:, len(ids) :].cpu()
        over = torch.isin(new, torch.tensor(sorted(end))).cumsum(1) > 0
        written.append(torch.where(over, ENDED, new))
    return torch.cat(written)


def _greedy(model: Any, rows: Tensor, tokens: int, end: list[int]) -> Tensor:
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=end or None,
        pad_token_id=end[0] if end else 0,
    )
    before = model.generation_config  # it would fill in the rest
    model.generation_config = config
    try:
        generated: Tensor = model.generate(
            rows, attention_mask=torch.ones_like(rows), generation_config=config
        )
    finally:
        model.generation_config = before
    return generated


def _end_ids(model: Any) -> set[int]:
    """Ids that end a text."""
    found = getattr(model.generation_config, "eos_token_id", None)
    return set(found) if isinstance(found, list) else set() if found is None else {found}


def _parts(ablations: Sequence[Ablation | None]) -> list[Sequence[Ablation | None]]:
    return [ablations[i : i + _AT_ONCE] for i in range(0, len(ablations), _AT_ONCE)]


def distinct(ids: Sequence[int], n: int) -> float:
    """Share of different n-grams among those of a text (distinct-n, Li et al. 2016); NaN for none.

    >>> distinct([1, 2, 1, 2, 1], 2)
    0.5
    """
    grams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else float("nan")


def longest_repeat(ids: Sequence[int]) -> int:
    """The most tokens in a row that say again what came right before, by any whole period.

    >>> longest_repeat([7, 1, 2, 1, 2, 1, 2]), longest_repeat([1, 2, 3]), longest_repeat([4, 4, 4])
    (4, 0, 2)
    """
    best = 0
    for period in range(1, len(ids) // 2 + 1):
        run = 0
        for now, before in zip(ids[period:], ids, strict=False):
            run = run + 1 if now == before else 0
            if run >= period:
                best = max(best, run)
    return best
