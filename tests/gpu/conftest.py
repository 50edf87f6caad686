"""The device of the tests here, which need one."""

import pytest
import torch


@pytest.fixture
def device():
    return torch.device("cuda", torch.cuda.current_device())
