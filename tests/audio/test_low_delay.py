"""Live audio is resampled as audio of files, but for the last milliseconds, and comes out at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecctl.audio.low_delay import LowDelayResampler, can_resample
from codecctl.audio.resample import resample

RATES = st.sampled_from([(8000, 16_000), (48_000, 16_000), (44_100, 16_000), (16_000, 8000), (22_050, 24_000)])


def tone(hertz: float, rate: int, n_samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(n_samples) / rate).astype(np.float32)[None]


def through(resampler: LowDelayResampler, blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*(resampler.push(block) for block in blocks), resampler.flush()], axis=1)


@settings(deadline=None, max_examples=40)
@given(RATES, st.lists(st.integers(0, 2000), min_size=1, max_size=8))
def test_blocks_do_not_change_the_output(rates: tuple[int, int], cuts: list[int]) -> None:
    audio = np.random.default_rng(1).uniform(-1, 1, (1, sum(cuts))).astype(np.float32)
    whole = through(LowDelayResampler(*rates), [audio])
    blocks = through(LowDelayResampler(*rates), np.split(audio, np.cumsum(cuts)[:-1], axis=1))
    assert blocks.shape == whole.shape == resample(audio, *rates).shape
    np.testing.assert_allclose(blocks, whole, atol=2e-6)


@pytest.mark.parametrize("rates", [(8000, 16_000), (48_000, 16_000), (44_100, 16_000), (16_000, 8000)])
def test_a_tone_stays_in_place(rates: tuple[int, int]) -> None:
    out = through(LowDelayResampler(*rates), [tone(1000, rates[0], rates[0])])
    np.testing.assert_allclose(out[:, 500:-500], tone(1000, rates[1], rates[1])[:, 500:-500], atol=1e-3)


def test_nothing_folds_back() -> None:
    out = through(LowDelayResampler(48_000, 16_000), [tone(8300, 48_000, 48_000)])
    assert np.abs(out[:, 500:-500]).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_each_block_gives_all_but_the_last_milliseconds(rate: int) -> None:
    resampler, n = LowDelayResampler(rate, 16_000), rate // 50
    n_out = 0
    for number in range(1, 20):
        n_out += resampler.push(np.zeros((1, n), np.float32)).shape[1]
        assert number * 0.02 - n_out / 16_000 <= resampler.lag_seconds + 1 / 16_000
    assert resampler.lag_seconds < 0.005


def test_rates_without_a_common_factor_are_too_much() -> None:
    assert not can_resample(44_101, 16_000)
    assert can_resample(44_100, 16_000)
