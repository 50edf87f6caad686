"""A model for lm-evaluation-harness that runs any of its tasks intact or with dimensions disabled.

lm-eval 0.4.13 has neither an entry point nor an option for models of other packages: it knows those
that were registered when it looks. So its command line is started through this module, with the
same arguments:

    python -m outdim.integrations.lm_eval --model outdim \
        --model_args pretrained=gpt2,dims=138+378,at=state --tasks lambada_openai

In Python, importing this module is enough: ``lm_eval.simple_evaluate(model="outdim", ...)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tqdm import tqdm

from outdim.analysis.pseudo_likelihood import Scored, pseudo_log_likelihood
from outdim.errors import ArgumentError, BackendError, DataError
from outdim.models import Ablation, Predictor, apply_ablation, architecture, load_model
from outdim.models.ablation import At, Mode, Only
from outdim.models.ablation_sites import sites
from outdim.models.heads import check_head, natural_head
from outdim.text import those_together

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    raise BackendError(
        "lm-eval: outdim.integrations.lm_eval needs the packages lm-eval and accelerate; install "
        "them with `pip install 'outdim[lm-eval]'`"
    ) from error

_NOT_FOR_MASKED = (
    *("parallelize", "tp_plan", "peft", "delta", "autogptq", "gptqmodel", "gguf_file"),
    *("quantization_config", "subfolder"),
)


@register_model("outdim")
class AblatedLM(HFLM):  # type: ignore[misc]
    """The harness' own model (``hf``) with an ablation entered around each of its forwards.

    Causal and encoder-decoder models are scored as ``hf`` does. A masked language model gives the
    pseudo-log-likelihood of the continuation (`outdim.analysis.pseudo_likelihood`), which is what
    minimal pairs (BLiMP) need; it cannot generate. A continuation without a context loses the blank
    that the harness puts before it. How many masked copies share a forward does not depend on
    ``batch_size``.

    Args:
        pretrained: Hugging Face id or directory, or a model of transformers.
        dims: Dimensions to disable, as ``507`` or ``507+247`` (or a list); none leaves the model
            intact.
        layers: 0 for the embeddings, i + 1 for block i, as ``3+4``; none takes all blocks.
        at, mode, value, only: See `outdim.ablate`.
        kwargs: Those of HFLM.

    Raises:
        ArgumentError: An ablation that no model could do, a part of one without ``dims``, or what
            has no meaning for a masked language model.
    """

    def __init__(
        self,
        pretrained: Any,
        dims: int | str | Sequence[int] | None = None,
        layers: int | str | Sequence[int] | None = None,
        at: At = "state",
        mode: Mode = "zero",
        value: float | None = None,
        only: Only | None = None,
        **kwargs: Any,
    ) -> None:
        if dims is None and (layers, at, mode, value, only) != (None, "state", "zero", None, None):
            raise ArgumentError("dims: an ablation needs them, as dims=507+247; got none.")
        self.masked = False  # until the configuration is known
        super().__init__(pretrained, **kwargs)
        if self.masked:
            if self.mixed_precision_dtype is not None:
                raise ArgumentError(
                    "mixed_precision_dtype: not for masked language models, which are scored in "
                    f"the type of their weights; give dtype, got {self.mixed_precision_dtype}."
                )
            check_head(self.model, "mlm")
            self._predictor = Predictor(self.model)
        self.ablation = None
        if dims is not None:
            chosen = None if layers is None else _numbers("layers", layers)
            self.ablation = Ablation(_numbers("dims", dims), chosen, at, mode, value, only)
            self._architecture = architecture(self.model)
            sites(self._architecture, self.ablation)  # raises for what this model cannot have

    def _get_backend(self, config: Any, backend: str = "default", **kwargs: Any) -> None:
        super()._get_backend(config, backend, **kwargs)
        if backend == "default" and natural_head(config) == "mlm":
            import transformers

            self.masked = True
            self.AUTO_MODEL_CLASS = transformers.AutoModelForMaskedLM

    def _ablated(self) -> AbstractContextManager[Any]:
        if self.ablation is None:
            return nullcontext()
        return apply_ablation(self.model, self.ablation, found=self._architecture)

    def _create_model(
        self, pretrained: str, revision: str = "main", dtype: Any = "auto", **kwargs: Any
    ) -> None:
        if not self.masked:
            super()._create_model(pretrained, revision=revision, dtype=dtype, **kwargs)
            return
        # transformers would give a checkpoint without a head a random one.
        unused = [name for name in _NOT_FOR_MASKED if kwargs.get(name)]
        if revision != "main" or unused:
            raise ArgumentError(
                f"{', '.join(unused) or 'revision'}: not for masked language models; save such a "
                "model first and give its directory."
            )
        dtype = None if dtype == "auto" else dtype
        self._model = load_model(pretrained, dtype, self.device, head="mlm")

    def _model_call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._ablated():
            found: torch.Tensor = super()._model_call(*args, **kwargs)
            return found

    def _model_generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.masked:
            raise ArgumentError("model: a masked language model cannot generate text.")
        with self._ablated():
            found: torch.Tensor = super()._model_generate(*args, **kwargs)
            return found

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log p of each continuation given its context, and whether greedy decoding gives it."""
        if not self.masked:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
            return found
        scores = self._pseudo([request.args for request in requests], disable_tqdm)
        for request, score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log p of each text."""
        if not self.masked:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
            return found
        scores = self._pseudo([("", *request.args) for request in requests], disable_tqdm)
        for request, (log_p, _) in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, log_p)
        return [log_p for log_p, _ in scores]

    def _pseudo(
        self, pairs: Sequence[tuple[str, str]], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        sequences = [self._sequence(*pair) for pair in pairs]
        total = sum(len(sequence.targets) for sequence in sequences)
        hidden = disable_tqdm or self.rank != 0
        with self._ablated(), tqdm(total=total, disable=hidden, desc="Masked tokens") as bar:
            found = pseudo_log_likelihood(
                self._predictor,
                sequences,
                mask_id=self.tokenizer.mask_token_id,
                pad_id=self.tokenizer.pad_token_id,
                device=self.device,
                progress=bar.update,
            )
        return list(zip(found.log_p.tolist(), found.greedy.tolist(), strict=True))

    def _sequence(self, context: str, continuation: str) -> Scored:
        """The tokens of a text, of which those of the continuation are asked for."""
        text = context + continuation if context else continuation.lstrip()
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        words, begin = encoded.word_ids(0), len(context.rstrip())
        ends = [end for _, end in encoded["offset_mapping"]]
        targets = [
            at
            for at, (word, end) in enumerate(zip(words, ends, strict=True))
            if word is not None and end > begin
        ]
        if not targets or len(words) > self.max_length:
            raise DataError(
                f"text: expected 1 to {self.max_length} tokens, got {len(words)}, {len(targets)} "
                f"of them of the continuation, in {text[:60]!r}."
            )
        return Scored(encoded["input_ids"], words, targets)


def _numbers(name: str, given: int | str | Sequence[int]) -> tuple[int, ...]:
    """``507+247``, 507 or [507, 247] as whole numbers."""
    try:
        parts = those_together(given) if isinstance(given, str) else given
        return (parts,) if isinstance(parts, int) else tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name}: expected whole numbers joined by +, as 507+247, got {given!r}"
        ) from None


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
