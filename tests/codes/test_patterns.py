"""Arrangements of codes, by a small example and by their inverses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.codes import delay, flatten, from_unigrams, n_whole_frames, to_unigrams, undelay, unflatten
from codecctl.errors import UsageError

SIZES = (7, 5, 4)


@pytest.fixture(params=[(), (2,)], ids=["one", "batch"])
def codes(request: pytest.FixtureRequest) -> Tensor:
    """[..., 3, 6]"""
    return torch.stack([torch.randint(size, (*request.param, 6)) for size in SIZES], dim=-2)


def test_delay_starts_each_codebook_one_step_later() -> None:
    assert delay(torch.tensor([[1, 2], [3, 4], [5, 6]]), 9).tolist() == [[1, 2, 9, 9], [9, 3, 4, 9], [9, 9, 5, 6]]


def test_delay_by_given_steps(codes: Tensor) -> None:
    delayed = delay(codes[..., :2], 9, [0, 1, 1])
    assert torch.equal(delayed[..., 1:, 1:], codes[..., 1:, :2])
    assert delayed[..., 0, 2].eq(9).all()
    assert delayed[..., 1:, 0].eq(9).all()
    for delays in ([0, 1, 1], [2, 0, 5], [0, 0, 0]):
        assert torch.equal(undelay(delay(codes, -1, delays), delays), codes)


def test_the_last_steps_hold_the_newest_whole_frame(codes: Tensor) -> None:
    delayed = delay(codes, -1)
    for n_steps in range(3, delayed.shape[-1] + 1):
        steps = delayed[..., :n_steps]
        assert torch.equal(undelay(steps[..., -3:]), undelay(steps)[..., -1:])
        assert torch.equal(undelay(steps[..., -3:]), codes[..., n_steps - 3 : n_steps - 2])


def test_whole_frames_end_at_the_first_entry_of_no_codebook(codes: Tensor) -> None:
    unigrams, end = to_unigrams(codes, SIZES), sum(SIZES)
    assert n_whole_frames(unigrams, SIZES).eq(6).all()
    for k, t, entry in ((0, 4, end), (2, 0, 0), (1, 5, -1)):
        cut = unigrams.clone()
        cut[..., k, t] = entry
        assert n_whole_frames(cut, SIZES).eq(t).all()
        with pytest.raises(UsageError, match="n_whole_frames"):
            from_unigrams(cut, SIZES)
    whole, none = n_whole_frames(torch.stack([unigrams, unigrams.flip(-2)]), SIZES)
    assert whole.eq(6).all()
    assert none.eq(0).all()


def test_codes_as_shards_store_them_are_taken(codes: Tensor) -> None:
    stored = codes.to(torch.uint16)
    assert torch.equal(to_unigrams(stored, SIZES), to_unigrams(codes, SIZES))
    assert torch.equal(from_unigrams(to_unigrams(codes, SIZES).to(torch.uint16), SIZES), codes)


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
    with pytest.raises(UsageError, match="2 steps hold no whole frame of 3 codebooks: 3 do"):
        undelay(codes[..., :2])
    with pytest.raises(UsageError, match=r"17 codes are no whole frames of 3 codebooks; codes\[..., :15\] are"):
        unflatten(flatten(codes)[..., :-1], 3)
    for wrong in ([0, 1], [0, -1, 1]):
        with pytest.raises(UsageError, match="delays must be 3 numbers of steps, 0 or more"):
            delay(codes, 9, wrong)
    with pytest.raises(UsageError, match=r"within the codebook sizes \[7, 5, 4\]"):
        to_unigrams(codes + 7, SIZES)
    with pytest.raises(UsageError, match="of none stands at a codebook's place"):
        from_unigrams(codes, SIZES)
    with pytest.raises(UsageError, match="codes of 3 codebooks, but sizes of 2"):
        to_unigrams(codes, SIZES[:2])
