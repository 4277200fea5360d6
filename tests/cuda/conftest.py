"""What the tests of a card are given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

# Not the fastest algorithm of each convolution: finding it takes most of a minute for each config.
torch.backends.cudnn.benchmark_limit = 1


@pytest.fixture
def crops(speech: Tensor) -> Tensor:
    """[4, 1, L]: a second of speech each."""
    return speech[..., : 4 * 16000].reshape(4, 1, 16000)
