"""The torchmetrics adapter against torchmetrics' own metric and scipy."""

import pickle
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from outdim.errors import ArgumentError, BackendError, DtypeError

torchmetrics = pytest.importorskip("torchmetrics")

from outdim.integrations.torchmetrics import PearsonCorrCoef  # noqa: E402


def data(n=600, d=5, mean=0.0):
    generator = torch.Generator().manual_seed(0)
    preds = torch.randn(n, d, generator=generator) + mean
    target = preds[:, 0] * 0.5 + torch.randn(n, generator=generator)
    return preds, target


def scipy_r(preds, target):
    target = target if target.dim() == 2 else target[:, None].expand_as(preds)
    pairs = zip(preds.double().numpy().T, target.double().numpy().T, strict=True)
    return np.array([scipy.stats.pearsonr(a, b).statistic for a, b in pairs])


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_scipy_over_batches(mean, shared):
    preds, target = data(mean=mean)
    if not shared:
        target = target[:, None] + preds.flip(1)
    metric = PearsonCorrCoef(num_outputs=5)
    for rows in torch.arange(600).split(97):
        metric.update(preds[rows], target[rows])
    got = metric.compute()
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, scipy_r(preds, target), rtol=0, atol=1e-12)


def test_equals_torchmetrics():
    preds, target = data()
    pairs = target[:, None].expand_as(preds).contiguous()
    theirs = torchmetrics.PearsonCorrCoef(num_outputs=5)
    theirs.update(preds, pairs)
    for t in (target, pairs):
        ours = PearsonCorrCoef(num_outputs=5)
        ours.update(preds, t)
        torch.testing.assert_close(ours.compute().float(), theirs.compute(), rtol=0, atol=1e-5)
    single, ours = torchmetrics.PearsonCorrCoef(), PearsonCorrCoef()
    single.update(preds[:, 1], target)
    ours.update(preds[:, 1], target)
    assert ours.compute().shape == single.compute().shape == ()
    assert abs(float(ours.compute() - single.compute())) < 1e-5


@pytest.mark.parametrize("shared", [True, False])
def test_masked_rows_may_be_nan(shared):
    preds, target = data()
    target = target if shared else target[:, None] * torch.ones(5)
    mask = torch.arange(600) % 3 > 0
    want = scipy_r(preds[mask], target[mask])
    preds[~mask], target[~mask] = torch.nan, torch.nan
    metric = PearsonCorrCoef(num_outputs=5)
    metric.update(preds, target, mask)
    metric.update(preds, target, torch.zeros(600, dtype=torch.bool))
    np.testing.assert_allclose(metric.compute(), want, rtol=0, atol=1e-12)


def test_forward_reset_merge_and_reduction_over_processes():
    preds, target = data()
    whole = PearsonCorrCoef(num_outputs=5)
    batch_values = [whole(preds[:200], target[:200]), whole(preds[200:], target[200:])]
    np.testing.assert_allclose(
        batch_values[1], scipy_r(preds[200:], target[200:]), rtol=0, atol=1e-12
    )
    want = scipy_r(preds, target)
    np.testing.assert_allclose(whole.compute(), want, rtol=0, atol=1e-12)

    parts = [PearsonCorrCoef(num_outputs=5) for _ in range(3)]
    for part, rows in zip(parts, torch.arange(600).split(250), strict=True):
        part.update(preds[rows], target[rows])
    gathered = PearsonCorrCoef(
        num_outputs=5,
        dist_sync_fn=lambda state, group: [part.moments for part in parts],
        distributed_available_fn=lambda: True,
    )
    gathered.update(preds[:1], target[:1])
    np.testing.assert_allclose(gathered.compute(), want, rtol=0, atol=1e-12)
    parts[0].merge_state(parts[1])
    parts[0].merge_state(parts[2])
    np.testing.assert_allclose(parts[0].compute(), want, rtol=0, atol=1e-12)
    copy = pickle.loads(pickle.dumps(parts[0]))
    assert torch.equal(copy.compute(), parts[0].compute())
    copy.reset()
    assert (copy.moments == 0).all()


def test_constants_and_nonfinite_values_are_nan():
    preds, target = data()
    preds[:, 1], preds[3, 2] = 0.1, torch.inf
    metric = PearsonCorrCoef(num_outputs=5)
    metric.update(preds, target)
    assert metric.compute().isnan().tolist() == [False, True, True, False, False]


def test_errors(monkeypatch):
    metric = PearsonCorrCoef(num_outputs=5)
    preds, target = data(8)
    with pytest.raises(ArgumentError, match="num_outputs: expected at least 1, got 0"):
        PearsonCorrCoef(num_outputs=0)
    with pytest.raises(ArgumentError, match=r"preds: expected \(N, 5\) float32, got \(8, 3\)"):
        metric.update(preds[:, :3], target)
    with pytest.raises(DtypeError, match="preds: expected float32"):
        metric.update(preds.long(), target)
    with pytest.raises(ArgumentError, match=r"target: expected \(8,\) or \(8, 5\), got \(7,\)"):
        metric.update(preds, target[:7])
    with pytest.raises(DtypeError, match=r"mask: expected \(8,\) bool, got \(8,\) int64"):
        metric.update(preds, target, torch.ones(8).long())
    monkeypatch.delitem(sys.modules, "outdim.integrations.torchmetrics")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(BackendError, match=r"install it with `pip install torchmetrics`"):
        import outdim.integrations.torchmetrics  # noqa: F401
