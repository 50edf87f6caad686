"""Two other ways to correlate hidden states with token frequency, for bench_pipeline.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from outdim.tokens import batches, encode_pieces
from torch import Tensor

_BATCH = 16  # texts, as in the published code
_DIMS = 12  # as many as it looks at: two outliers and ten random ones

Found = dict[int, tuple[list[int], NDArray[np.float64]]]
"""Per layer (1: the first block) dimensions, and r of |h| with the count over ordinary tokens."""


def published_way(
    model: Any, tokenizer: Any, texts: Sequence[str], counts: NDArray[np.int64], max_length: int
) -> Found:
    """The way of Puccetti et al. 2022 (their repository, `outlier_correlation`), written anew.

    output_hidden_states; every text padded to the maximal length; per layer and dimension the whole
    state taken to the CPU, one column cut out and appended by torch.cat; frequency by a Python call
    per token; scipy.stats.pearsonr; the whole twice, with special tokens and without. Kept from it
    is what costs time, except that gradients are off here, which they are not there, and that on a
    CPU `.cpu()` copies nothing.
    """
    from scipy.stats import pearsonr

    dims = np.random.default_rng(0).choice(model.config.hidden_size, _DIMS, replace=False).tolist()
    found: Found = {}
    for with_special in (True, False):
        columns: dict[tuple[int, int], Tensor] = {}
        frequency, used = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                list(texts[start : start + _BATCH]),
                padding="max_length",
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
                return_special_tokens_mask=True,
            )
            special = batch.pop("special_tokens_mask").bool()
            with torch.no_grad():
                states = model(**batch, output_hidden_states=True).hidden_states
            attended = batch["attention_mask"].bool()
            kept = attended if with_special else attended & ~special
            used = torch.cat([used, kept.flatten()])
            of_tokens = batch["input_ids"].double().apply_(lambda token: float(counts[int(token)]))
            frequency = torch.cat([frequency, of_tokens.flatten()])
            for layer in range(1, len(states)):
                for dim in dims:
                    column = states[layer].cpu()[:, :, dim].flatten()
                    before = columns.get((layer, dim), torch.zeros(0))
                    columns[layer, dim] = torch.cat([before, column])
        f = frequency[used].numpy()
        for layer in range(1, len(states)):
            r = [pearsonr(f, columns[layer, dim][used].abs().numpy()).statistic for dim in dims]
            found[layer] = dims, np.array(r, np.float64)
    return found


def float64_sums(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    counts: NDArray[np.int64],
    max_length: int,
    token_budget: int,
) -> Found:
    """Hooks and sums in float64, in our batches: all dimensions, one covariate, one selection."""
    centered = torch.from_numpy(counts - counts.mean())
    layers = model.encoder.layer
    totals = torch.zeros(len(layers), 3, model.config.hidden_size, dtype=torch.float64)
    n, f_sums, rows = 0, torch.zeros(2, dtype=torch.float64), {}

    def add(layer: int, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        a = hidden[rows["kept"]].double().abs()
        f = rows["f"][:, None]
        totals[layer] += torch.stack([a.sum(0), (a * a).sum(0), (f * a).sum(0)])

    hooks = [
        module.register_forward_hook(lambda _, __, output, layer=layer: add(layer, output))
        for layer, module in enumerate(layers)
    ]
    try:
        pieces = encode_pieces(texts, tokenizer, max_length)
        for batch in batches(pieces, token_budget, pad_id=tokenizer.pad_token_id):
            rows["kept"] = (batch.group == 1) | (batch.group == 3)
            rows["f"] = f = centered[batch.input_ids[rows["kept"]]]
            with torch.inference_mode():
                model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            n += len(f)
            f_sums += torch.stack([f.sum(), f.dot(f)])
    finally:
        for hook in hooks:
            hook.remove()
    f_mean = f_sums[0] / n
    a, aa, fa = totals.unbind(1)
    r = (fa - f_mean * a) / ((f_sums[1] - n * f_mean**2) * (aa - a * a / n)).sqrt()
    dims = list(range(r.shape[1]))
    return {layer + 1: (dims, values.numpy()) for layer, values in enumerate(r)}
