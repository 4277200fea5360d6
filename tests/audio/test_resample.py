"""The resampler keeps length, time and sound, and does not care how the input was cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecctl.audio.files import to_mono
from codecctl.audio.resample import Resampler, resample, resampled_length

RATES = [8000, 11_025, 16_000, 22_050, 44_100, 48_000]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(RATES),
    st.sampled_from([16_000, 24_000]),
    st.lists(st.integers(0, 3000), min_size=1),
    st.integers(1, 2),
)
def test_in_blocks_as_whole(from_rate: int, to_rate: int, cuts: list[int], n_channels: int) -> None:
    audio = np.random.default_rng(1).uniform(-1, 1, (n_channels, sum(cuts))).astype(np.float32)
    resampler = Resampler(from_rate, to_rate, n_channels)
    blocks = [resampler.push(block) for block in np.split(audio, np.cumsum(cuts)[:-1], axis=1)]
    streamed = np.concatenate([*blocks, resampler.flush()], axis=1)
    assert streamed.shape == (n_channels, math.ceil(sum(cuts) * to_rate / from_rate))
    np.testing.assert_allclose(streamed, resample(audio, from_rate, to_rate), atol=1e-6)


def test_length_is_exact_where_floats_are_not() -> None:
    assert resampled_length(1, 48_000, 16_000) == 1
    assert resampled_length(3 * 10**15, 48_000, 16_000) == 10**15


@pytest.mark.parametrize("from_rate", [8000, 22_050, 48_000])
def test_a_tone_stays_in_place(from_rate: int) -> None:
    def tone(rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)[None]

    middle = np.s_[:, 2000:-2000]
    np.testing.assert_allclose(resample(tone(from_rate), from_rate, 16_000)[middle], tone(16_000)[middle], atol=2e-4)


def test_nothing_folds_back() -> None:
    above = np.sin(2 * np.pi * 10_000 * np.arange(48_000) / 48_000).astype(np.float32)[None]
    assert np.abs(resample(above, 48_000, 16_000)[:, 1000:-1000]).max() < 1e-4


def test_mono_is_the_mean() -> None:
    np.testing.assert_allclose(to_mono(np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)), [[0.5, -0.5]])
