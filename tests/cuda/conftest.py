"""What the tests of a card are given."""

from __future__ import annotations

import pytest
from torch import Tensor


@pytest.fixture
def crops(speech: Tensor) -> Tensor:
    """[4, 1, L]: a second of speech each."""
    return speech[..., : 4 * 16000].reshape(4, 1, 16000)
