import math

import numpy as np
import pytest
import torch

from codecctl.evaluate.probe import ContentProber, SpeakerProber, envelope, identification_rate, latents_of
from codecctl.model.codec import Codec


def test_separate_speakers_are_identified_and_equal_ones_are_not() -> None:
    random = np.random.default_rng(0)
    speakers = ["a", "b"] * 40
    apart = random.standard_normal((80, 5)) + 10 * np.array([[s == "a"] for s in speakers])
    assert identification_rate(apart, speakers) == 1.0
    assert identification_rate(random.standard_normal((80, 5)), speakers) == pytest.approx(0.5, abs=0.2)


def test_a_voice_in_later_codebooks_only_is_not_found_in_the_first(codec: Codec) -> None:
    draw = torch.Generator().manual_seed(0)
    prober = SpeakerProber()
    for n in range(24):
        codes = torch.randint(0, 16, (3, 40), generator=draw)
        codes[1] = n % 2  # the second codebook names the speaker
        latents = latents_of(codec, codes.numpy().astype(np.uint16))
        prober.add("ab"[n % 2], latents)
    prober.add(None, latents)
    result = prober.result()
    assert result is not None
    assert (result.n_utterances, result.n_speakers, result.chance) == (24, 2, 0.5)
    assert result.all_codebooks > 0.9
    assert result.first_codebook < 0.8


def test_the_speaker_probe_needs_two_speakers() -> None:
    prober = SpeakerProber()
    for _ in range(3):
        prober.add("a", torch.zeros(2, 5, 4))
    assert prober.result() is None


def test_content_is_explained_by_the_codebooks_that_hold_it() -> None:
    """First codebook: three of four targets with noise of the same power, so half of their variance; all: all."""
    draw = torch.Generator().manual_seed(0)
    prober = ContentProber()
    mixing = torch.randn(6, 4, generator=draw)
    for _ in range(8):
        targets = torch.randn(4, 500, generator=draw)
        known = torch.stack([targets[:3] + torch.randn(3, 500, generator=draw), torch.zeros(3, 500)])
        latents = torch.stack([known.flatten(0, 1), mixing @ targets])  # [2, 6, T]
        prober.add(latents + 5, (32 * targets).round().clamp(-127, 127).to(torch.int8).numpy())
    result = prober.result()
    assert result is not None
    assert result.n_utterances == 8
    assert result.first_codebook == pytest.approx(3 / 4 * 0.5, abs=0.03)
    assert result.all_codebooks == pytest.approx(1, abs=0.03)


def test_codes_independent_of_the_sound_explain_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    prober = ContentProber()
    for _ in range(4):
        prober.add(torch.randn(2, 8, 400, generator=draw), torch.randint(-60, 60, (12, 400), generator=draw).numpy())
    result = prober.result()
    assert result is not None
    assert max(result.first_codebook, result.all_codebooks) < 0.02


def test_the_first_envelope_coefficient_follows_the_spectral_tilt_of_each_frame() -> None:
    hop, n_frames = 320, 100
    noise = np.random.default_rng(0).standard_normal((n_frames, hop)).astype(np.float32)
    bright = np.diff(noise, axis=1, prepend=0)
    swings = np.sign(np.sin(2 * math.pi * np.arange(n_frames) / 20 + 0.1))
    audio = np.where(swings[:, None] > 0, noise.cumsum(axis=1) * 0.1, bright).astype(np.float32).ravel()
    found = envelope(audio, 16000, hop)
    assert found.shape == (12, n_frames)
    assert np.corrcoef(found[0], swings)[0, 1] > 0.95
    np.testing.assert_allclose(found, envelope(0.1 * audio, 16000, hop), atol=1)  # the level does not matter
    assert not envelope(np.zeros(1000, np.float32), 16000, hop).any()
