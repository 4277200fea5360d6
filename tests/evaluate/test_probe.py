import math

import numpy as np
import pytest
import torch

from codecctl.evaluate.probe import ContentProber, SpeakerProber, envelope, latents_of, told_right
from codecctl.model.codec import Codec


def test_apart_speakers_are_told_and_equal_ones_are_not() -> None:
    random = np.random.default_rng(0)
    speakers = ["a", "b"] * 40
    apart = random.standard_normal((80, 5)) + 10 * np.array([[s == "a"] for s in speakers])
    assert told_right(apart, speakers) == 1.0
    assert told_right(random.standard_normal((80, 5)), speakers) == pytest.approx(0.5, abs=0.2)


def test_a_voice_in_the_later_books_alone_is_not_found_in_the_first(codec: Codec) -> None:
    draw = torch.Generator().manual_seed(0)
    prober = SpeakerProber()
    for n in range(24):
        codes = torch.randint(0, 16, (3, 40), generator=draw)
        codes[1] = n % 2  # book 2 names the speaker
        latents = latents_of(codec, codes.numpy().astype(np.uint16))
        prober.add("ab"[n % 2], latents)
    prober.add(None, latents)
    result = prober.result()
    assert result is not None
    assert (result.n_recordings, result.n_speakers, result.chance) == (24, 2, 0.5)
    assert result.all_books > 0.9
    assert result.book_1 < 0.8


def test_one_speaker_is_no_probe() -> None:
    prober = SpeakerProber()
    for _ in range(3):
        prober.add("a", torch.zeros(2, 5, 4))
    assert prober.result() is None


def test_content_is_found_in_the_books_that_hold_it_as_far_as_they_do() -> None:
    """Book 1: three of four wanted values with as much noise again, which leaves half of the variance; all: all."""
    draw = torch.Generator().manual_seed(0)
    prober = ContentProber()
    mixing = torch.randn(6, 4, generator=draw)
    for _ in range(8):
        wanted = torch.randn(4, 500, generator=draw)
        known = torch.stack([wanted[:3] + torch.randn(3, 500, generator=draw), torch.zeros(3, 500)])
        latents = torch.stack([known.flatten(0, 1), mixing @ wanted])  # [2, 6, T]
        prober.add(latents + 5, (32 * wanted).round().clamp(-127, 127).to(torch.int8).numpy())
    result = prober.result()
    assert result is not None
    assert result.n_recordings == 8
    assert result.book_1 == pytest.approx(3 / 4 * 0.5, abs=0.03)
    assert result.all_books == pytest.approx(1, abs=0.03)


def test_codes_that_have_nothing_to_do_with_the_sound_tell_nothing_of_it() -> None:
    draw = torch.Generator().manual_seed(0)
    prober = ContentProber()
    for _ in range(4):
        prober.add(torch.randn(2, 8, 400, generator=draw), torch.randint(-60, 60, (12, 400), generator=draw).numpy())
    result = prober.result()
    assert result is not None
    assert max(result.book_1, result.all_books) < 0.02


def test_the_envelope_of_a_tilt_that_swings_lies_in_its_first_coefficient_at_the_frame_it_is_in() -> None:
    hop, n_frames = 320, 100
    noise = np.random.default_rng(0).standard_normal((n_frames, hop)).astype(np.float32)
    bright = np.diff(noise, axis=1, prepend=0)
    swings = np.sign(np.sin(2 * math.pi * np.arange(n_frames) / 20 + 0.1))
    audio = np.where(swings[:, None] > 0, noise.cumsum(axis=1) * 0.1, bright).astype(np.float32).ravel()
    found = envelope(audio, 16000, hop)
    assert found.shape == (12, n_frames)
    assert np.corrcoef(found[0], swings)[0, 1] > 0.95
    np.testing.assert_allclose(found, envelope(0.1 * audio, 16000, hop), atol=1)  # the level is no content
    assert not envelope(np.zeros(1000, np.float32), 16000, hop).any()
