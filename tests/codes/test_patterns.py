"""Arrangements of codes, by a small example and by their inverses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.codes import delay, flatten, from_unigrams, to_unigrams, undelay, unflatten
from codecctl.errors import UsageError

SIZES = (7, 5, 4)


@pytest.fixture(params=[(), (2,)], ids=["one", "batch"])
def codes(request: pytest.FixtureRequest) -> Tensor:
    """[..., 3, 6]"""
    return torch.stack([torch.randint(size, (*request.param, 6)) for size in SIZES], dim=-2)


def test_delay_starts_each_codebook_one_step_later() -> None:
    assert delay(torch.tensor([[1, 2], [3, 4], [5, 6]]), 9).tolist() == [[1, 2, 9, 9], [9, 3, 4, 9], [9, 9, 5, 6]]


def test_flatten_goes_frame_by_frame() -> None:
    assert flatten(torch.tensor([[1, 2], [3, 4], [5, 6]])).tolist() == [1, 3, 5, 2, 4, 6]


def test_unigrams_of_a_codebook_follow_those_of_the_one_before() -> None:
    codes = torch.tensor([[0, 6], [0, 4], [0, 3]])
    assert to_unigrams(codes, SIZES).tolist() == [[0, 6], [7, 11], [12, 15]]
    assert to_unigrams(codes[:2], SIZES).tolist() == [[0, 6], [7, 11]]


def test_each_has_its_inverse(codes: Tensor) -> None:
    assert torch.equal(undelay(delay(codes, -1)), codes)
    assert torch.equal(unflatten(flatten(codes), 3), codes)
    assert torch.equal(from_unigrams(to_unigrams(codes, SIZES), SIZES), codes)


def test_what_cannot_be_arranged_is_refused(codes: Tensor) -> None:
    with pytest.raises(UsageError, match="2 steps hold no whole frame of 3 codebooks"):
        undelay(codes[..., :2])
    with pytest.raises(UsageError, match="17 codes are no whole frames"):
        unflatten(flatten(codes)[..., :-1], 3)
    with pytest.raises(UsageError, match=r"within the codebook sizes \[7, 5, 4\]"):
        to_unigrams(codes + 7, SIZES)
    with pytest.raises(UsageError, match="another codebook's place"):
        from_unigrams(codes, SIZES)
    with pytest.raises(UsageError, match="codes of 3 codebooks, but sizes of 2"):
        to_unigrams(codes, SIZES[:2])
