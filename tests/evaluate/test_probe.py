import numpy as np
import pytest
import torch

from codecctl.evaluate.probe import SpeakerProber, told_right
from codecctl.model.codec import Codec


def test_apart_speakers_are_told_and_equal_ones_are_not() -> None:
    random = np.random.default_rng(0)
    speakers = ["a", "b"] * 40
    apart = random.standard_normal((80, 5)) + 10 * np.array([[s == "a"] for s in speakers])
    assert told_right(apart, speakers) == 1.0
    assert told_right(random.standard_normal((80, 5)), speakers) == pytest.approx(0.5, abs=0.2)


def test_a_voice_in_the_later_books_alone_is_not_found_in_the_first(codec: Codec) -> None:
    draw = torch.Generator().manual_seed(0)
    prober = SpeakerProber(codec)
    for n in range(24):
        codes = torch.randint(0, 16, (3, 40), generator=draw)
        codes[1] = n % 2  # book 2 names the speaker
        prober.add("ab"[n % 2], codes.numpy().astype(np.uint16))
    prober.add(None, codes.numpy().astype(np.uint16))
    result = prober.result()
    assert result is not None
    assert (result.n_recordings, result.n_speakers, result.chance) == (24, 2, 0.5)
    assert result.all_books > 0.9
    assert result.book_1 < 0.8


def test_one_speaker_is_no_probe(codec: Codec) -> None:
    prober = SpeakerProber(codec)
    for _ in range(3):
        prober.add("a", np.zeros((3, 4), np.uint16))
    assert prober.result() is None
