"""What a model says of texts: the outputs of a classifier, the cosine of two pooled states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from outdim.analysis.fitting import side_by_side
from outdim.analysis.variants.items import Batching, Progress, item_batches
from outdim.models import Ablation, Forward, architecture, check_eval_mode
from outdim.models.prefix import PrefixForward

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def logits(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    **how: Unpack[Batching],
) -> Tensor:
    """Outputs of a sequence classifier for N texts (or pairs of texts): float32 [N, C], on the CPU.

    In the batches of `item_batches`, which takes ``how``.
    """
    found = torch.empty(len(texts), model.config.num_labels)
    for batch in item_batches(model, tokenizer, texts, pairs, **how):
        found[batch.rows] = model(**batch.inputs).logits.float().cpu()
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
        telling: Callable[[float, float], Callable[[], None]] = lambda before, share: lambda: None,
    ) -> Tensor:
        """Of the intact model and every ablated one, for N texts: float32 [1 + M, N, C].

        With ``at_once`` 1 they are to the bit what `logits` gives under each ablation; None takes
        as many as fill a batch of ``batch_size`` times ``max_length`` ids, on CPUs of 512. What
        ``telling`` gives for the share of the texts before a batch, and for that of the batch, is
        called for every variant.
        """
        how: Any = {"batch_size": batch_size, "max_length": max_length, "progress": progress}
        found = torch.empty(1 + len(ablations), len(texts), self._model.config.num_labels)
        done = 0
        for batch in item_batches(self._model, tokenizer, texts, pairs, **how):
            ids, rows, self._others = batch.input_ids, batch.rows, batch.others
            intact = self._forward.keep(ids, batch.attention_mask, ablations)
            found[0, rows] = intact.float().cpu()
            several = at_once or side_by_side(ids.numel(), batch_size * max_length, ids.device)
            tell = telling(done / len(texts), len(rows) / len(texts))
            for i, outputs in enumerate(self._forward.variants(ablations, several), 1):
                tell()
                found[i, rows] = outputs.float().cpu()
            done += len(rows)
        self._others = {}
        return found


@torch.inference_mode()
def similarities(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str],
    **how: Unpack[Batching],
) -> Tensor:
    """Cosine of two texts' vectors, for N of them: float32 [N]; see `text_vectors`."""
    vectors = text_vectors(model, tokenizer, [*texts, *pairs], **how)
    return functional.cosine_similarity(vectors[: len(texts)], vectors[len(texts) :])


@torch.inference_mode()
def text_vectors(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str],
    **how: Unpack[Batching],
) -> Tensor:
    """The pooled last hidden states of N texts: float32 [N, D], on the CPU.

    Pooled is the mean over all tokens but padding, special ones among them, as
    sentence-transformers does for MiniLM. A text that stands more than once is read once.
    """
    every = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(every)}
    pooled = torch.empty(0, 0)
    for batch in item_batches(model, tokenizer, every, None, **how):
        hidden = model(**batch.inputs).last_hidden_state.float()
        mask = batch.attention_mask.bool().unsqueeze(-1)
        mean = hidden.masked_fill(~mask, 0).sum(1) / mask.sum(1)
        if not len(pooled):
            pooled = torch.empty(len(every), mean.shape[1])
        pooled[batch.rows] = mean.cpu()
    return pooled[[place[text] for text in texts]]
