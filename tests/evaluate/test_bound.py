import math

import numpy as np
import pytest

from codecctl.evaluate.bound import fill_water, fill_water_evenly, snr_bounds_db

_SECONDS = 10


@pytest.mark.parametrize("bits_per_sample", [0.253, 1.0, 2.0])
def test_the_bound_of_white_noise_is_6_db_per_bit(bits_per_sample: float) -> None:
    noise = np.random.default_rng(0).standard_normal(16000 * _SECONDS).astype(np.float32)
    exact = 20 * math.log10(2) * bits_per_sample
    for bound in snr_bounds_db(noise, 16000, bits_per_sample * len(noise)):
        assert exact < bound < exact + 0.5  # short-time spectra scatter, which the bound exploits a little


@pytest.mark.parametrize("bits_per_sample", [0.253, 1.0, 2.0])
def test_the_bound_of_autoregressive_noise_is_its_rate_distortion_function(bits_per_sample: float) -> None:
    drive = np.random.default_rng(1).standard_normal(16000 * _SECONDS)
    noise = np.convolve(drive, 0.9 ** np.arange(200))[: len(drive)].astype(np.float32)
    spectrum = 1 / np.abs(1 - 0.9 * np.exp(-1j * np.linspace(0, np.pi, 50_001))) ** 2
    exact = fill_water(spectrum, bits_per_sample * len(spectrum))
    for bound in snr_bounds_db(noise, 16000, bits_per_sample * len(noise)):
        assert exact < bound < exact + 0.5


def test_water_filling_of_two_coefficients_by_hand() -> None:
    # 1 bit: the larger falls from 16 to 4 before the smaller, of 1, gets any bit.
    # 3 bits: the water level is 0.5 for both: 2.5 bits on the one, 0.5 on the other.
    exact = [10 * math.log10(17 / 5), 10 * math.log10(17 / 1)]
    assert [fill_water(np.array([16.0, 1.0]), bits) for bits in (1.0, 3.0)] == pytest.approx(exact)


def test_evenly_spent_bits_give_a_lower_bound() -> None:
    loud_and_quiet = np.array([[16.0, 1.0], [0.25, 0.25]])
    # 1 bit a row: 16 falls to 4 and 1 stays; then half a bit each on 0.25, which halves it.
    assert fill_water_evenly(loud_and_quiet, 1.0) == pytest.approx(10 * math.log10(17.5 / 5.25))
    assert fill_water(loud_and_quiet, 2.0) == pytest.approx(10 * math.log10(17.5 / 2.5))


def test_the_gain_of_autoregressive_noise_at_high_rates_is_the_prediction_gain() -> None:
    spectrum = 1 / np.abs(1 - 0.9 * np.exp(-1j * np.linspace(0, np.pi, 50_001))) ** 2
    prediction_gain = 10 * math.log10(1 / (1 - 0.81))
    gain = fill_water(spectrum, 6 * len(spectrum))
    assert gain == pytest.approx(6 * 20 * math.log10(2) + prediction_gain, abs=0.01)


def test_the_bound_is_undefined_for_silence_and_0_db_for_no_bits() -> None:
    assert np.isnan(snr_bounds_db(np.zeros(16000, np.float32), 16000, 4000)).all()
    assert fill_water(np.array([3.0, 2.0]), 0.0) == pytest.approx(0.0)


@pytest.mark.parametrize("n_bits", [81, 81_000])
def test_the_bounds_of_one_sample_are_finite(n_bits: int) -> None:
    free, even = snr_bounds_db(np.ones(1, np.float32), 16000, n_bits)
    assert 0 < even <= free <= 120
