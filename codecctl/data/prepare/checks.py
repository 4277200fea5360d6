"""What `prepare` measures of a recording, block by block, and why it rejects one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.audio.files import STRETCH
from codecctl.config.schema import DataConfig
from codecctl.data import SAMPLE_RATE

_FULL_SCALE = 0.999  # a sample at or beyond this counts as clipped
_FLAT, _FLAT_LEAST = 3, 0.01  # equal samples at the recording's own peak that make a flat top, and its least level
_WINDOW = np.hanning(513)[:512].astype(np.float32)
_FRAMES_A_BLOCK = 24
_BAND = 4  # spectral bins, 125 Hz
_SILENCE_DB = -70.0
_OFFSET = 0.02  # of full scale
_TONE_BINS, _TONE_SHARE, _TONE_FRAMES = 8, 0.99, 0.95  # two lines of a windowed spectrum have nearly all energy
# The partials of notes are steady where those of speech glide: two adjacent windows of 96 ms have the same spectrum.
_LONG, _STEP = 384, 4  # samples of such a window, at 16 kHz / _STEP
_LONG_WINDOW = np.hanning(_LONG + 1)[:_LONG].astype(np.float32)
_LOWEST_LINE = 10  # spectral line, 104 Hz, above the hum of the mains
_PAIRS_A_BLOCK, _FEWEST_PAIRS = 12, 8
_ALIKE, _LOUD = 0.93, 0.01  # cosine between two spectra; energy relative to the loudest window's
# Of 9,900 recordings of speech (6.3 h, 25 languages) none had more than 0.45; chords and slow runs of notes have 0.67
# and more. Fast runs and strong vibrato have less and are not rejected.
_MUSIC_SHARE = 0.6
_FLOOR_DB = -60.0  # of a silent band, relative to the strongest one


class Measurement:
    """Level, clipping, offset, bandwidth, tonality and steadiness of one recording, in constant memory."""

    def __init__(self) -> None:
        self.n_samples = 0  # at 16 kHz
        self._n_source = self._n_clipped = 0
        self._tops = (_FlatTop(), _FlatTop())
        self._sum = self._squares = 0.0
        self._power = np.zeros(len(_WINDOW) // 2)
        self._n_heard = self._n_tonal = 0
        self._n_pairs = self._n_steady = 0

    def add_source(self, block: Audio, lows: Audio, highs: Audio) -> None:
        """`[C, L]` as in the file, and the extremes of each `STRETCH` of it: resampling would hide the clipping."""
        self._n_source += block.size
        lowest, highest = float(lows.min()), float(highs.max())
        if max(highest, -lowest) >= _FULL_SCALE:
            self._n_clipped += int(np.count_nonzero(np.abs(block) >= _FULL_SCALE))
        below, above = self._tops
        below.add(block, lowest, lows)
        above.add(block, highest, highs)

    def add(self, samples: Audio) -> None:
        """`[L]`, the same audio as it will be stored."""
        if not len(samples):
            return
        self.n_samples += len(samples)
        self._sum += float(samples.sum())
        self._squares += float(np.einsum("i,i", samples, samples))  # a BLAS would sum by its number of threads
        if self._n_heard and len(samples) < len(_WINDOW):
            return  # too few samples for a spectrum, at the end of the resampler
        spectrum = np.fft.rfft(_spread(samples, len(_WINDOW), _FRAMES_A_BLOCK) * _WINDOW)[:, 1:]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        self._power += power.sum(axis=0)
        self._count_tonal(power[::3])
        if len(samples) >= 2 * _LONG * _STEP:
            self._count_steady(samples)

    def _count_tonal(self, power: NDArray[np.float32]) -> None:
        total = power.sum(axis=1)
        loud = total > total.max() / 1000
        strongest = np.partition(power[loud], -_TONE_BINS, axis=1)[:, -_TONE_BINS:].sum(axis=1)
        self._n_heard += len(strongest)
        self._n_tonal += int(np.count_nonzero(strongest > _TONE_SHARE * total[loud]))

    def _count_steady(self, samples: Audio) -> None:
        pairs = _spread(samples, 2 * _LONG * _STEP, _PAIRS_A_BLOCK)
        n_pairs, n_steady = _steady(pairs[::3])
        if 2 * n_steady >= n_pairs:  # worth a closer look
            n_pairs, n_steady = _steady(pairs)
        self._n_pairs += n_pairs
        self._n_steady += n_steady

    @property
    def seconds(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def level_db(self) -> float:
        """RMS below full scale, at least -120."""
        return 10 * math.log10(max(self._squares / max(self.n_samples, 1), 1e-12))

    @property
    def loudness_db(self) -> float:
        """As `level_db`, without the offset."""
        variance = self._squares / max(self.n_samples, 1) - self.offset**2
        return 10 * math.log10(max(variance, 1e-12))

    @property
    def is_tone(self) -> bool:
        """One or two spectral lines in nearly all frames: a beep, a dial tone, a test signal, a whistle."""
        return self._n_tonal > _TONE_FRAMES * max(self._n_heard, 1)

    @property
    def is_music(self) -> bool:
        """Most frames are steady for a fifth of a second: held notes, a drone, a melody without words. Only clear cases
        are detected; not singing, drums, or music under speech."""
        return self._n_pairs >= _FEWEST_PAIRS and self._n_steady > _MUSIC_SHARE * self._n_pairs

    @property
    def offset(self) -> float:
        """The mean of the samples: DC."""
        return self._sum / max(self.n_samples, 1)

    @property
    def clipping(self) -> float:
        """Share of the source's samples at full scale, or in flat tops if it was made quieter after clipping."""
        n_flat = sum(top.n_samples for top in self._tops if top.n_runs > 1)
        return max(self._n_clipped, n_flat) / max(self._n_source, 1)

    @property
    def bandwidth_hz(self) -> float:
        """The top of the highest band that is not 60 dB below the strongest one."""
        bands = self._power.reshape(-1, _BAND).sum(axis=1)
        loud = np.flatnonzero(bands > bands.max() * 10 ** (_FLOOR_DB / 10))
        return 0.0 if not len(loud) else float((loud[-1] + 1) * _BAND * SAMPLE_RATE / len(_WINDOW))


class _FlatTop:
    """Runs of equal samples at the extreme of one polarity, which clipping leaves, whatever the gain after it."""

    def __init__(self) -> None:
        self._extreme = _FLAT_LEAST
        self.n_samples = self.n_runs = 0

    def add(self, block: Audio, extreme: float, extremes: Audio) -> None:
        """`[C, L]`, its extreme of this polarity, and that of each `STRETCH`. A larger extreme than before restarts the
        count."""
        if abs(extreme) < self._extreme:
            return
        if abs(extreme) > self._extreme:
            self._extreme, self.n_samples, self.n_runs = abs(extreme), 0, 0
        starts = STRETCH * np.flatnonzero(extremes == np.float32(extreme))
        for channel in block:
            tops = [start + np.flatnonzero(channel[start : start + STRETCH] == np.float32(extreme)) for start in starts]
            places = np.concatenate(tops)
            if len(places) >= _FLAT:
                ends = np.flatnonzero(np.diff(places, append=len(channel) + 1) > 1)
                lengths = np.diff(ends, prepend=-1)
                flat = lengths[lengths >= _FLAT]
                self.n_samples += int(flat.sum())
                self.n_runs += len(flat)


def _steady(pairs: Audio) -> tuple[int, int]:
    """`[N, 2 x 1536]` at 16 kHz -> number of pairs with two loud halves, and of those with equal spectra."""
    parts = pairs.reshape(-1, 2, _LONG, _STEP)
    slow = parts[..., 0] + parts[..., 1] + parts[..., 2] + parts[..., 3]  # [N, 2, 384] at 4 kHz
    lines = np.abs(np.fft.rfft(slow * _LONG_WINDOW)[..., _LOWEST_LINE:])
    energy = np.einsum("npf,npf->np", lines, lines)
    loud = energy.min(axis=1) > _LOUD * energy.max()
    alike = np.einsum("nf,nf->n", lines[:, 0], lines[:, 1]) > _ALIKE * np.sqrt(energy.prod(axis=1))
    return int(np.count_nonzero(loud)), int(np.count_nonzero(loud & alike))


def _spread(samples: Audio, n_window: int, n_most: int) -> Audio:
    """`[L]` -> `[N, n_window]`: about n_most windows, evenly spread over the block."""
    if len(samples) < n_window:
        samples = np.pad(samples, (0, n_window - len(samples)))
    hop = max(n_window, len(samples) // n_most)
    return samples[: len(samples) // hop * hop].reshape(-1, hop)[:, :n_window]


def find_fault(measured: Measurement, config: DataConfig) -> str | None:
    """Why the recording is rejected, or None. The report counts by what precedes the bracket.

    Narrow bandwidth is no fault: it is in the manifest, and training can filter by it.
    """
    offset, loudness = abs(measured.offset), 10 ** (measured.loudness_db / 20)
    if measured.seconds < config.min_seconds:
        return f"too short ({measured.seconds:.2f} s; data.min_seconds is {config.min_seconds:g})"
    if measured.loudness_db < _SILENCE_DB:
        return f"silent ({measured.loudness_db:.0f} dB)"
    if measured.clipping > config.max_clipping:
        return f"clipped ({measured.clipping:.1%} of the samples; data.max_clipping is {config.max_clipping:g})"
    if offset > max(_OFFSET, loudness / 2):
        return f"DC offset ({offset:.3f} of full scale under a signal of {loudness:.3f})"
    if measured.is_tone:
        return "tone or beep"
    if measured.is_music:
        return "music or held notes"
    return None
