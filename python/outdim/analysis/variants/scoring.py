"""What batches of documents predict, added up by document."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from outdim.analysis.documents import Documents
from outdim.analysis.results.evaluation import SUMS
from outdim.analysis.variants.runner import Predicted


class Tally:
    """Sums by document of one unit.

    Attributes:
        columns: K, what is added up.
    """

    columns = len(SUMS)

    def __init__(self, variants: int, log_counts: Tensor, documents: Documents) -> None:
        self._variants, self._log_counts, self._read = variants, log_counts, documents
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def documents(self) -> int:
        """How many documents there are in which something was predicted."""
        return len({number for part in self._parts for number in part[0].tolist()})

    @classmethod
    def nothing(cls, variants: int) -> dict[str, Tensor]:
        """The state of no document."""
        return {
            "sums": torch.zeros(0, variants, cls.columns, dtype=torch.float64),
            "tokens": torch.zeros(0, dtype=torch.int64),
            "bytes": torch.zeros(0, dtype=torch.float64),
        }

    def add(self, predicted: Predicted[Any]) -> None:
        """Take what a batch gave."""
        (documents, _, targets, _), found = predicted
        numbers, which = _numbered(documents.cpu())
        values = torch.stack([self._values(targets, one, found[0]) for one in found], 1)
        shape = (len(numbers), *values.shape[1:])
        sums = torch.zeros(shape, dtype=torch.float64).index_add_(0, which, values)
        self._parts.append((numbers, sums, which.bincount(minlength=len(numbers))))

    def _values(self, targets: Tensor, own: Any, intact: Any) -> Tensor:
        """[R, K]; on the CPU, where sums have one order."""
        predicted, true = own.predicted.cpu(), targets.cpu()
        # A logit of -inf that is not the true token's leaves the loss finite alone.
        finite = own.loss.isfinite() & own.kl.isfinite()
        if not own.brief:
            finite &= own.entropy.isfinite()
        return torch.stack(
            [
                own.loss.cpu(),
                (predicted == true).double(),
                own.entropy.cpu(),
                own.kl.cpu(),
                (predicted == intact.predicted.cpu()).double(),
                own.top.cpu(),
                self._log_counts[predicted] - self._log_counts[true],
                (~finite).double().cpu(),
            ],
            1,
        )

    def state(self) -> dict[str, Tensor]:
        """Of the documents in which something was predicted, in the order read."""
        if not self._parts:
            return self.nothing(self._variants)
        every, sums, tokens = (torch.cat(each) for each in zip(*self._parts, strict=True))
        numbers, which = _numbered(every)
        total = torch.zeros(len(numbers), *sums.shape[1:], dtype=torch.float64)
        scored = torch.zeros(len(numbers), dtype=torch.int64).index_add_(0, which, tokens)
        # What is not predicted is as long as what is.
        share = [self._read.bytes[n] / self._read.tokens[n] for n in numbers.tolist()]
        return {
            "sums": total.index_add_(0, which, sums),
            "tokens": scored,
            "bytes": scored * torch.tensor(share, dtype=torch.float64),
        }


def _numbered(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The documents that there are, in order, and which of these each is."""
    numbers, which = np.unique(documents.numpy(), return_inverse=True)
    return torch.from_numpy(numbers), torch.from_numpy(which)
