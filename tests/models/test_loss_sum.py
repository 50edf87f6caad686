"""The loss of all tokens at once, and its gradient, are those of cross-entropy."""

import pytest
import torch
from outdim.models import Predictor
from outdim.models.loss_sum import loss_sum
from tiny import VOCAB, tiny_model
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("cells", [1, 7 * VOCAB, 1 << 24])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])  # plain, and with a soft cap
def test_loss_and_gradient(family, cells):
    model = tiny_model(family, head="CausalLM").double()
    predictor = Predictor(model)
    states = torch.randn(23, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(23)
    parts, whole = (states.clone().requires_grad_() for _ in range(2))
    found = loss_sum(predictor.logits, parts, targets, VOCAB, cells=cells)
    expected = cross_entropy(predictor.logits(whole, slice(0, VOCAB)), targets, reduction="sum")
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_of_no_token():
    states = torch.zeros(0, 4, requires_grad=True)
    found = loss_sum(lambda s, c: s, states, torch.zeros(0, dtype=torch.int64), 4)
    found.backward()
    assert found == 0
    assert states.grad.shape == (0, 4)
