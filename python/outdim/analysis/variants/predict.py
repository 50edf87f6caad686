"""What a model says of texts: the outputs of a classifier, the cosine of two pooled states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from outdim.analysis.fitting import side_by_side
from outdim.errors import DataError
from outdim.models import Ablation, Forward, architecture, check_eval_mode, padding_reaches_text
from outdim.models.prefix import PrefixForward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Called with the number of tokens of each batch that is done.
Progress = Callable[[int], object]


@torch.inference_mode()
def logits(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    batch_size: int = 256,
    max_length: int = 256,
    progress: Progress = lambda tokens: None,
) -> Tensor:
    """Outputs of a sequence classifier for N texts (or pairs of texts): float32 [N, C], on the CPU.

    Texts of like length share a batch, which is padded to its longest, at the tokenizer's side:
    XLNet reads its label off the last position. Where padding would change what the model says of a
    text (`outdim.models.padding_reaches_text`), only texts of one length share a batch.

    Raises:
        DataError: The model takes batches only with a padding token, and has none.
    """
    found = torch.empty(len(texts), model.config.num_labels)
    for rows, batch in _batches(model, tokenizer, texts, pairs, batch_size, max_length, progress):
        found[rows] = model(**batch).logits.float().cpu()
    return found


class VariantLogits:
    """Outputs of a classifier, intact and ablated: layers below the first edit run once for all.

    Args:
        model: A sequence classifier in eval mode.

    Attributes:
        note: Why every variant runs all of the model; "" where it does not.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_eval_mode(model)
        self._model, self._call = model, Forward(model)
        self._others: dict[str, Tensor] = {}  # of the batch, such as token types
        self._forward = PrefixForward(model, architecture(model), self._run)
        self.note = self._forward.note

    def _run(self, ids: Tensor, mask: Tensor) -> Tensor:
        others = {k: one.repeat(len(ids) // len(one), 1) for k, one in self._others.items()}
        return torch.as_tensor(self._call(ids, mask, **others).logits)

    @torch.inference_mode()
    def __call__(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        ablations: Sequence[Ablation],
        *,
        at_once: int | None = 1,
        batch_size: int = 256,
        max_length: int = 256,
        progress: Progress = lambda tokens: None,
    ) -> Tensor:
        """Of the intact model and every ablated one, for N texts: float32 [1 + M, N, C].

        With ``at_once`` 1 they are to the bit what `logits` gives under each ablation; None takes
        as many as fill a batch of ``batch_size`` times ``max_length`` ids, on CPUs of 512.
        """
        given = (self._model, tokenizer, texts, pairs, batch_size, max_length, progress)
        found = torch.empty(1 + len(ablations), len(texts), self._model.config.num_labels)
        for rows, batch in _batches(*given):
            ids = batch.pop("input_ids")
            mask = batch.pop("attention_mask") if "attention_mask" in batch else ids.new_ones(())
            self._others = dict(batch)
            found[0, rows] = self._forward.keep(ids, mask.expand_as(ids), ablations).float().cpu()
            several = at_once or side_by_side(ids.numel(), batch_size * max_length, ids.device)
            for i, outputs in enumerate(self._forward.variants(ablations, several), 1):
                found[i, rows] = outputs.float().cpu()
        self._others = {}
        return found


@torch.inference_mode()
def similarities(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str],
    *,
    batch_size: int = 256,
    max_length: int = 256,
    progress: Progress = lambda tokens: None,
) -> Tensor:
    """Cosine of two texts' vectors, for N of them: float32 [N]; see `text_vectors`."""
    vectors = text_vectors(
        model,
        tokenizer,
        [*texts, *pairs],
        batch_size=batch_size,
        max_length=max_length,
        progress=progress,
    )
    return functional.cosine_similarity(vectors[: len(texts)], vectors[len(texts) :])


@torch.inference_mode()
def text_vectors(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 256,
    max_length: int = 256,
    progress: Progress = lambda tokens: None,
) -> Tensor:
    """The pooled last hidden states of N texts: float32 [N, D], on the CPU.

    Pooled is the mean over all tokens but padding, special ones among them, as
    sentence-transformers does for MiniLM. A text that stands more than once is read once.
    """
    every = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(every)}
    pooled = torch.empty(0, 0)
    for rows, batch in _batches(model, tokenizer, every, None, batch_size, max_length, progress):
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].bool().unsqueeze(-1)
        mean = hidden.masked_fill(~mask, 0).sum(1) / mask.sum(1)
        if not len(pooled):
            pooled = torch.empty(len(every), mean.shape[1])
        pooled[rows] = mean.cpu()
    return pooled[[place[text] for text in texts]]


def _batches(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    batch_size: int,
    max_length: int,
    progress: Progress,
) -> Iterator[tuple[Tensor, Any]]:
    """Rows and inputs of each batch, the longest texts first: they need the most memory."""
    if tokenizer.pad_token_id is None or getattr(model.config, "pad_token_id", 0) is None:
        raise DataError(
            "model: its configuration or its tokenizer has no padding token, which a batch of "
            "texts needs; set pad_token_id in both and save them."
        )
    encoded = tokenizer(
        list(texts),
        None if pairs is None else list(pairs),
        truncation=True,
        max_length=max_length,
    )
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    alone = padding_reaches_text(model.base_model, side=tokenizer.padding_side)
    changes = np.flatnonzero(np.diff(lengths[order])) + 1
    for alike in np.split(order, changes) if alone else [order]:
        for first in range(0, len(alike), batch_size):
            rows = alike[first : first + batch_size]
            own = {name: [values[row] for row in rows] for name, values in encoded.items()}
            batch = tokenizer.pad(own, return_tensors="pt").to(model.device)
            yield torch.from_numpy(rows), batch
            progress(int(lengths[rows].sum()))
