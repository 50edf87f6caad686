"""Accumulation of moments over a stream of hidden states."""

import json
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outdim import ops
from outdim.errors import ArgumentError, DataError, DtypeError
from outdim.ops._check import as_tensor, describe
from outdim.ops._dispatch import Backend
from outdim.ops.layout import body_rows, head_size
from outdim.ops.moments import Accumulate
from outdim.stats._turns import Turns, in_turn
from outdim.stats.covariates import Covariates
from outdim.stats.result import MomentsResult

FORMAT = "outdim.moments"
FORMAT_VERSION = 1

TAU = 6.0  # threshold of `fraction_over`: the criterion of LLM.int8()

State = tuple[Tensor, Tensor]


class Moments(Turns):
    """Moments of every dimension of a stream of hidden states, and their co-moments.

    `update` takes batches, `merge` the state of other rows, `compute` gives the statistics. The
    state is float64 and merged by Chan's and Pebay's formulas in the order of the calls: the same
    batches in the same order give the same bytes, and other splits agree to about 1e-15. Calls from
    several threads take turns.

    Args:
        covariates: What to correlate with; None for moments alone.
        tau: Threshold of `fraction_over`.
        accum: "exact" (float64, error of r <= 1e-12), "fast" (about 1e-9, on a GPU) or "auto", see
            `outdim.ops.moments`.
        shape: Whether to keep skewness, kurtosis, min, max and the like.
        backend: "auto", "cpu", "cuda" or "reference", see `outdim.ops.moments`.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[5.0, 1.0, 9.0]], dtype=torch.float64)
        >>> moments = Moments(Covariates(counts, ("count",)))
        >>> ids = torch.tensor([[0, 1], [2, 0]])
        >>> hidden = torch.stack([-counts[0][ids], torch.zeros(2, 2)], -1).float()
        >>> result = moments.update(hidden, ids, mask=torch.ones(2, 2, dtype=torch.bool)).compute()
        >>> result.n, result.mean.tolist()
        (4, [-5.0, 0.0])
        >>> result.pearson("count").tolist(), result.pearson("count", of="abs").tolist()
        ([-1.0, nan], [1.0, nan])
        >>> result.reason("count").tolist()
        ['', 'constant dimension']
    """

    def __init__(
        self,
        covariates: Covariates | None = None,
        *,
        tau: float = TAU,
        accum: Accumulate = "exact",
        shape: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.covariates = Covariates() if covariates is None else covariates
        self.tau = float(tau)
        self.accum = accum
        self.shape = shape
        self.backend = backend
        self._digest = self.covariates.digest
        self._tables: dict[torch.device, Tensor] = {}
        self._state: State | None = None
        self._result: MomentsResult | None = None

    @in_turn
    def update(self, hidden: Any, ids: Any = None, mask: Any = None, rows: Any = None) -> "Moments":
        """Count the rows of a batch.

        Args:
            hidden: (..., D) float32, float16, bfloat16 or float64, tensor or array, N rows.
            ids: N token ids, int64, of any shape; needed where there is a table.
            mask: N values, bool or integer, of any shape; rows where it is 0 are left out, and
                may be NaN.
            rows: [K2, N] (or [K2, ...], or N values where K2 is 1) numbers, the row covariates.

        Returns:
            self

        Raises:
            ArgumentError, DtypeError, BackendError: As `outdim.ops.moments`, or another D than
                before.
        """
        hidden = as_tensor("hidden", hidden)
        if not isinstance(hidden, Tensor):
            raise DtypeError(f"hidden: expected a tensor or array, got {describe(hidden)}")
        before = None
        if self._state is not None:
            d = self._state[1].shape[1]
            if hidden.dim() and hidden.shape[-1] != d:
                raise ArgumentError(f"hidden: expected D = {d} as before, got {describe(hidden)}")
            before = ops.MomentsState(*(part[None].to(hidden.device) for part in self._state))
        head, body = ops.moments(
            hidden,
            ids=as_tensor("ids", ids),
            table=self._table_on(hidden.device),
            rows=self._row_covariates(rows, hidden),
            group=_selection(mask),
            tau=self.tau,
            accum=self.accum,
            shape=self.shape,
            before=before,
            backend=self.backend,
        )
        self._state, self._result = (head[0], body[0]), None
        return self

    @in_turn
    def absorb(self, head: Any, body: Any) -> "Moments":
        """Merge one raw state, head [1 + 2 K] and body [R, D] float64, as of later rows.

        Raises:
            ArgumentError: Shapes that do not belong to these covariates, `shape` or D.
            DtypeError: Another dtype than float64.
        """
        head, body = as_tensor("head", head), as_tensor("body", body)
        k = len(self.covariates.all_names)
        expected = (head_size(k),), (body_rows(k, self.shape), self._width(body))
        for name, tensor, shape in zip(("head", "body"), (head, body), expected, strict=True):
            if not isinstance(tensor, Tensor) or tensor.dtype != torch.float64:
                raise DtypeError(f"{name}: expected {shape} float64, got {describe(tensor)}")
            if tensor.shape != shape:
                raise ArgumentError(
                    f"{name}: expected {shape} float64 for {k} covariates and shape={self.shape}, "
                    f"got {describe(tensor)}"
                )
        if self._state is None:
            self._state = head.clone(), body.clone()
        else:
            self._state = ops.merge_states(self._state, (head, body), self.shape)
        self._result = None
        return self

    def merge(self, other: "Moments") -> "Moments":
        """Merge the state of another accumulator, as of later rows; `other` stays as it is.

        Raises:
            ArgumentError: Other covariates (names or table), tau, shape or D.
        """
        if not torch.equal(self._digest, other._digest):
            raise ArgumentError(
                f"other: expected the covariates {self.covariates.all_names} with the same table, "
                f"got {other.covariates.all_names}"
                + (
                    " with another table; merge states that were made from the same counts"
                    if self.covariates.all_names == other.covariates.all_names
                    else ""
                )
            )
        for name in ("shape", "tau"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ArgumentError(f"other: expected {name}={mine}, got {name}={its}")
        state = other._state  # never changed in place, but replaced
        if state is not None:
            self.absorb(*state)
        return self

    @in_turn
    def compute(self) -> MomentsResult:
        """Return the statistics of all rows so far; the accumulator can go on."""
        if self._result is None:
            head, body = (tensor.to("cpu", copy=True) for tensor in self._state_or_empty())
            names = self.covariates.all_names
            self._result = MomentsResult(head, body, names, self.tau, self.shape)
        return self._result

    @in_turn
    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as a flat dict of float64 and int64 tensors on the CPU.

        head [1 + 2 K] and body [R, D] (D = 0 before the first update), tau, shape, and digest [4],
        the hash of the covariates.
        """
        head, body = self._state_or_empty()
        return {
            "head": head.cpu().clone(),
            "body": body.cpu().clone(),
            "tau": torch.tensor(self.tau, dtype=torch.float64),
            "shape": torch.tensor(int(self.shape), dtype=torch.int64),
            "digest": self._digest.clone(),
        }

    @in_turn
    def load_state_dict(self, state: dict[str, Tensor]) -> "Moments":
        """Replace the state by one of `state_dict`.

        Raises:
            DataError: A missing or unknown key, a state of other covariates, tau or shape, or a
                damaged one; the accumulator then stays as it is.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise DataError(f"state: expected the keys {sorted(expected)}, got {sorted(state)}")
        for key in ("digest", "tau", "shape"):
            if not torch.equal(state[key].cpu(), expected[key]):
                what = "covariates or their table" if key == "digest" else key
                raise DataError(f"state: it was accumulated with other {what}; build Moments alike")
        before, self._state = self._state, None
        if state["body"].dim() != 2 or state["body"].shape[1]:
            try:
                self.absorb(state["head"], state["body"])
            except (ArgumentError, DtypeError) as error:
                self._state = before
                raise DataError(f"state: damaged: {error}") from error
        self._result = None
        return self

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state as safetensors, with version and names of covariates as metadata."""
        from safetensors.torch import save_file

        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "covariates": json.dumps(self.covariates.names),
            "row_covariates": json.dumps(self.covariates.row_names),
        }
        save_file(self.state_dict(), path, metadata)

    @classmethod
    def load(cls, path: str | PathLike[str], covariates: Covariates | None = None) -> "Moments":
        """Read a state that `save` wrote.

        Args:
            path: The file.
            covariates: Those of the state, needed to go on with `update`; the table itself is not
                in the file. Without them the state can be merged and computed.

        Raises:
            DataError: Not such a file, a version that is unknown, or other covariates.
        """
        tensors, metadata = _read(path)
        given = covariates is not None
        if covariates is None:
            names = json.loads(metadata["covariates"])
            covariates = Covariates(
                np.empty((len(names), 0)), names, json.loads(metadata["row_covariates"])
            )
        moments = cls(covariates, tau=float(tensors["tau"]), shape=bool(tensors["shape"]))
        if not given:
            moments._digest = tensors["digest"]
        return moments.load_state_dict(tensors)

    def _state_or_empty(self) -> State:
        if self._state is not None:
            return self._state
        return ops.empty_state(len(self.covariates.all_names), 0, self.shape)

    def _width(self, body: Any) -> int:
        """D of the state, or of the first body."""
        if self._state is not None:
            return self._state[1].shape[1]
        return body.shape[-1] if isinstance(body, Tensor) and body.dim() else 0

    def _table_on(self, device: torch.device) -> Tensor | None:
        """Return the table on a device, copied there once."""
        table: Tensor = self.covariates.table
        if not len(table):
            return None
        if not table.shape[1]:
            raise ArgumentError(
                f"covariates: the table of {self.covariates.names} is empty, as in a state loaded "
                "without its table; pass covariates= to Moments.load"
            )
        if device not in self._tables:
            self._tables[device] = table.to(device)
        return self._tables[device]

    def _row_covariates(self, rows: Any, hidden: Tensor) -> Tensor | None:
        names = self.covariates.row_names
        if not names:
            return None
        rows = as_tensor("rows", rows)
        n = hidden.numel() // max(hidden.shape[-1], 1) if hidden.dim() else 0
        if not isinstance(rows, Tensor):
            raise ArgumentError(f"rows: expected ({len(names)}, {n}) values of {names}, got None")
        if len(names) == 1 and rows.numel() == n:
            rows = rows.reshape(1, n)
        if rows.dim() < 2 or rows.shape[0] != len(names):
            raise ArgumentError(
                f"rows: expected ({len(names)}, {n}) values of {names}, got {describe(rows)}"
            )
        converted: Tensor = rows.to(hidden.device, torch.float64)
        return converted


def _selection(mask: Any) -> Any:
    """Turn an attention mask into a selection of rows."""
    mask = as_tensor("mask", mask)
    if mask is None or (isinstance(mask, Tensor) and mask.dtype == torch.bool):
        return mask
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        raise DtypeError(f"mask: expected bool or integers, one per row, got {describe(mask)}")
    return mask != 0


def _read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a saved state."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"path: {path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise DataError(f"path: {path} does not hold moments; expected a file of Moments.save")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise DataError(
            f"path: {path} has version {metadata.get('version')}, this outdim reads "
            f"{FORMAT_VERSION}; read it with the outdim that wrote it"
        )
    return tensors, metadata
