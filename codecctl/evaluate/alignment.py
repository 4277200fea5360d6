"""The delay of a codec: estimated over several utterances and removed, so that it does not count as distortion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
from numpy.typing import NDArray

from codecctl.audio import Audio

_LONGEST_SECONDS = 0.1  # longer delays are not searched for
_FINENESS = 16  # steps per sample
_SURE = 0.3  # least correlation of a peak that counts
_CLEARLY = 1.05  # correlations of envelopes are broad: the peak must exceed that at delay 0 by this factor
_ENVELOPE_SECONDS = 0.01
_NEAR = 4  # samples around the whole-sample peak within which the fraction is searched for

Signal = NDArray[np.float64]


def find_delay(pairs: Sequence[tuple[Audio, Audio]], sample_rate: int) -> float:
    """The delay in samples, with its fraction, of the second signal [L] of each pair relative to the first.

    One delay for all pairs, at the peak of the sum of their correlations. Where the waveforms hardly correlate, the
    envelopes decide; where those do not correlate either, the delay is 0.
    """
    n_longest = round(_LONGEST_SECONDS * sample_rate)
    waves = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    correlation = _mean_correlation(waves, n_longest)
    if correlation.max() >= _SURE:
        return _refine(correlation, n_longest)
    envelopes = [(_envelope(a, sample_rate), _envelope(b, sample_rate)) for a, b in waves]
    correlation = _mean_correlation(envelopes, n_longest)
    sure = correlation.max() >= max(_SURE, _CLEARLY * correlation[n_longest])
    return float(np.argmax(correlation) - n_longest) if sure else 0.0


def align(reference: Audio, decoded: Audio, delay: float) -> tuple[Audio, Audio]:
    """Both [L], `decoded` advanced by `delay` samples and both cut to where they overlap."""
    whole = int(np.floor(delay))
    if delay - whole > 1e-6:
        decoded = _advance(decoded, delay - whole)
    if whole >= 0:
        decoded = decoded[whole:]
    else:
        reference = reference[-whole:]
    n = min(len(reference), len(decoded))
    return reference[:n], decoded[:n]


def _mean_correlation(pairs: Sequence[tuple[Signal, Signal]], n_longest: int) -> Signal:
    """[2 n_longest + 1]: normalised correlation at the delays -n_longest .. n_longest."""
    return sum((_correlation(a, b, n_longest) for a, b in pairs), np.zeros(2 * n_longest + 1)) / len(pairs)


def _correlation(a: Signal, b: Signal, n_longest: int) -> Signal:
    n_fft = 1 << int(np.ceil(np.log2(len(a) + len(b) + 2 * n_longest)))
    product = np.fft.irfft(np.conj(np.fft.rfft(a, n_fft)) * np.fft.rfft(b, n_fft), n_fft)
    scale = np.sqrt((a @ a) * (b @ b)) + 1e-12
    return np.concatenate([product[-n_longest:], product[: n_longest + 1]]) / scale


def _refine(correlation: Signal, n_longest: int) -> float:
    """The peak between samples, by band-limited interpolation of the correlation."""
    peak = int(np.argmax(correlation))
    fine = soxr.resample(correlation, 1, _FINENESS, quality="VHQ")
    first = max(0, (peak - _NEAR) * _FINENESS)
    place = first + int(np.argmax(fine[first : (peak + _NEAR) * _FINENESS + 1]))
    return place / _FINENESS - n_longest


def _envelope(signal: Signal, sample_rate: int) -> Signal:
    window = np.hanning(round(_ENVELOPE_SECONDS * sample_rate) | 1)
    smooth = np.convolve(np.abs(signal), window / window.sum(), "same")
    return smooth - smooth.mean()


def _advance(signal: Audio, fraction: float) -> Audio:
    """Advance by less than a sample, with linear phase."""
    n_fft = len(signal) + 512
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(n_fft) * fraction)
    return np.fft.irfft(np.fft.rfft(signal, n_fft) * turn, n_fft)[: len(signal)].astype(np.float32)
