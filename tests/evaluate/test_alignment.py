import numpy as np
import pytest

from codecctl.audio import Audio
from codecctl.evaluate.alignment import align, find_delay


def _speechlike(seed: int) -> Audio:
    """Noise with the falling spectrum and varying level of speech."""
    random = np.random.default_rng(seed)
    noise = np.convolve(random.standard_normal(16000), np.hanning(9), "same")
    return (0.1 * noise * (1 + np.sin(np.arange(16000) / 900))).astype(np.float32)


@pytest.mark.parametrize("delay", [37, 0, -20])
def test_a_whole_delay_is_found_and_removed(delay: int) -> None:
    signal = _speechlike(0)
    moved = np.roll(signal, delay)
    assert find_delay([(signal, moved)], 16000) == delay
    reference, decoded = align(signal, moved, delay)
    inner = slice(50, -50)
    np.testing.assert_array_equal(reference[inner], decoded[inner])


def test_a_delay_of_a_fraction_of_a_sample_is_found_and_removed() -> None:
    signal = _speechlike(1)
    turn = np.exp(-2j * np.pi * np.fft.rfftfreq(16000) * 5.25)
    moved = np.fft.irfft(np.fft.rfft(signal) * turn).astype(np.float32)
    delay = find_delay([(signal, moved)], 16000)
    assert delay == 5.25
    reference, decoded = align(signal, moved, delay)
    assert np.abs(reference - decoded)[100:-100].max() < 1e-4


def test_a_delay_in_noise_is_found_over_several_utterances() -> None:
    random = np.random.default_rng(9)
    pairs = []
    for seed in range(8):
        signal = _speechlike(seed)
        noisy = np.roll(signal, 11) + 2 * signal.std() * random.standard_normal(16000)
        pairs.append((signal, noisy.astype(np.float32)))
    assert abs(find_delay(pairs, 16000) - 11) < 0.5


def test_the_delay_of_uncorrelated_waveforms_is_that_of_their_envelopes() -> None:
    gate = np.repeat(np.random.default_rng(0).random(40) > 0.5, 400)
    noises = [np.random.default_rng(seed).standard_normal(16000) for seed in (1, 2)]
    first, second = (
        (0.1 * noises[0] * gate).astype(np.float32),
        (0.1 * noises[1] * np.roll(gate, 100)).astype(np.float32),
    )
    assert abs(find_delay([(first, second)], 16000) - 100) < 20


def test_the_delay_of_unrelated_signals_is_0() -> None:
    noises = [np.random.default_rng(seed).standard_normal(16000).astype(np.float32) for seed in (1, 2)]
    assert find_delay([(noises[0], noises[1])], 16000) == 0.0
