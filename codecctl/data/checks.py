"""What `prepare` measures of a recording, block by block, and which recordings it turns away."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codecctl.audio.files import STRETCH, Audio
from codecctl.config.schema import DataConfig
from codecctl.data.manifest import SAMPLE_RATE

_FULL_SCALE = 0.999  # a sample at or beyond this counts as clipped
_FLAT, _FLAT_LEAST = 3, 0.01  # so many equal samples at the recording's own peak are a flat top, if it is not all faint
_WINDOW = np.hanning(513)[:512].astype(np.float32)
_FRAMES_A_BLOCK = 24
_BAND = 4  # spectral bins, 125 Hz
_SILENCE_DB = -70.0
_OFFSET = 0.02  # of full scale
_TONE_BINS, _TONE_SHARE, _TONE_FRAMES = 8, 0.99, 0.95  # two lines of a windowed spectrum hold nearly all
# Notes hold their partials where speech glides: two windows of 96 ms, one behind the other, have the same spectrum.
_LONG, _STEP = 384, 4  # samples of such a window, at 16 kHz / _STEP
_LONG_WINDOW = np.hanning(_LONG + 1)[:_LONG].astype(np.float32)
_LOWEST_LINE = 10  # spectral line, 104 Hz: the mains' own lies below
_PAIRS_A_BLOCK, _FEWEST_PAIRS = 12, 8
_ALIKE, _LOUD = 0.93, 0.01  # cosine between two spectra; energy beside the loudest window's
# Of 9,900 recordings of speech (6.3 h, 25 languages) none had more than 0.45; chords and slow runs of notes have 0.67
# and more, fast runs and strong vibrato less: what is not certain passes.
_MUSIC_SHARE = 0.6
_FLOOR_DB = -60.0  # a band this far below the strongest one is silent


class Measurement:
    """Level, clipping, offset, bandwidth, tonality and stillness of one recording, in constant memory."""

    def __init__(self) -> None:
        self.n_samples = 0  # at 16 kHz
        self._n_source = self._n_clipped = 0
        self._tops = (_FlatTop(), _FlatTop())
        self._sum = self._squares = 0.0
        self._power = np.zeros(len(_WINDOW) // 2)
        self._n_heard = self._n_tonal = 0
        self._n_pairs = self._n_still = 0

    def add_source(self, block: Audio, lows: Audio, highs: Audio) -> None:
        """`[C, L]` as it stands in the file, and the extremes of each `STRETCH` of it: clipping shows before resampling
        smears it."""
        self._n_source += block.size
        lowest, highest = float(lows.min()), float(highs.max())
        if max(highest, -lowest) >= _FULL_SCALE:
            self._n_clipped += int(np.count_nonzero(np.abs(block) >= _FULL_SCALE))
        below, above = self._tops
        below.add(block, lowest, lows)
        above.add(block, highest, highs)

    def add(self, samples: Audio) -> None:
        """`[L]`, the same sound as it will be kept."""
        if not len(samples):
            return
        self.n_samples += len(samples)
        self._sum += float(samples.sum())
        self._squares += float(np.einsum("i,i", samples, samples))  # a BLAS would sum by its number of threads
        if self._n_heard and len(samples) < len(_WINDOW):
            return  # the resampler's last drops tell nothing of the spectrum
        spectrum = np.fft.rfft(_spread(samples, len(_WINDOW), _FRAMES_A_BLOCK) * _WINDOW)[:, 1:]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        self._power += power.sum(axis=0)
        self._count_tonal(power[::3])
        if len(samples) >= 2 * _LONG * _STEP:
            self._count_still(samples)

    def _count_tonal(self, power: NDArray[np.float32]) -> None:
        total = power.sum(axis=1)
        heard = total > total.max() / 1000
        strongest = np.partition(power[heard], -_TONE_BINS, axis=1)[:, -_TONE_BINS:].sum(axis=1)
        self._n_heard += len(strongest)
        self._n_tonal += int(np.count_nonzero(strongest > _TONE_SHARE * total[heard]))

    def _count_still(self, samples: Audio) -> None:
        pairs = _spread(samples, 2 * _LONG * _STEP, _PAIRS_A_BLOCK)
        n_pairs, n_still = _still(pairs[::3])
        if 2 * n_still >= n_pairs:  # worth a closer look
            n_pairs, n_still = _still(pairs)
        self._n_pairs += n_pairs
        self._n_still += n_still

    @property
    def seconds(self) -> float:
        return self.n_samples / SAMPLE_RATE

    @property
    def level_db(self) -> float:
        """RMS below full scale, at least -120."""
        return 10 * math.log10(max(self._squares / max(self.n_samples, 1), 1e-12))

    @property
    def loudness_db(self) -> float:
        """As `level_db`, the offset left out."""
        variance = self._squares / max(self.n_samples, 1) - self.offset**2
        return 10 * math.log10(max(variance, 1e-12))

    @property
    def is_tone(self) -> bool:
        """One or two lines at every moment: a beep, a dial tone, a test signal, a whistle; no voice is so pure."""
        return self._n_tonal > _TONE_FRAMES * max(self._n_heard, 1)

    @property
    def is_music(self) -> bool:
        """Most of its moments go on as they are for a fifth of a second: held notes, a drone, a melody without words.
        Told are the certain cases alone; singing, drums, and music under speech are not."""
        return self._n_pairs >= _FEWEST_PAIRS and self._n_still > _MUSIC_SHARE * self._n_pairs

    @property
    def offset(self) -> float:
        """The mean of the samples: DC."""
        return self._sum / max(self.n_samples, 1)

    @property
    def clipping(self) -> float:
        """Share of the source's samples at full scale, or in flat tops where it was made quieter after clipping."""
        n_flat = sum(top.n_samples for top in self._tops if top.n_runs > 1)
        return max(self._n_clipped, n_flat) / max(self._n_source, 1)

    @property
    def bandwidth_hz(self) -> float:
        """Up to where there is sound: the top of the highest band not 60 dB below the strongest one."""
        bands = self._power.reshape(-1, _BAND).sum(axis=1)
        heard = np.flatnonzero(bands > bands.max() * 10 ** (_FLOOR_DB / 10))
        return 0.0 if not len(heard) else float((heard[-1] + 1) * _BAND * SAMPLE_RATE / len(_WINDOW))


class _FlatTop:
    """Runs of equal samples at one side's extreme: what clipping leaves, whatever the gain after it."""

    def __init__(self) -> None:
        self._extreme = _FLAT_LEAST
        self.n_samples = self.n_runs = 0

    def add(self, block: Audio, extreme: float, extremes: Audio) -> None:
        """`[C, L]`, its extreme on this side, and that of each stretch. What an earlier block with a smaller one had
        does not count."""
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


def _still(pairs: Audio) -> tuple[int, int]:
    """`[N, 2 x 1536]` at 16 kHz -> of how many both halves are loud, and in how many of these they sound the same."""
    parts = pairs.reshape(-1, 2, _LONG, _STEP)
    slow = parts[..., 0] + parts[..., 1] + parts[..., 2] + parts[..., 3]  # [N, 2, 384] at 4 kHz
    lines = np.abs(np.fft.rfft(slow * _LONG_WINDOW)[..., _LOWEST_LINE:])
    energy = np.einsum("npf,npf->np", lines, lines)
    loud = energy.min(axis=1) > _LOUD * energy.max()
    alike = np.einsum("nf,nf->n", lines[:, 0], lines[:, 1]) > _ALIKE * np.sqrt(energy.prod(axis=1))
    return int(np.count_nonzero(loud)), int(np.count_nonzero(loud & alike))


def _spread(samples: Audio, n_window: int, n_most: int) -> Audio:
    """`[L]` -> `[N, n_window]`: windows spread over the block, about n_most of them."""
    if len(samples) < n_window:
        samples = np.pad(samples, (0, n_window - len(samples)))
    hop = max(n_window, len(samples) // n_most)
    return samples[: len(samples) // hop * hop].reshape(-1, hop)[:, :n_window]


def find_fault(measured: Measurement, config: DataConfig) -> str | None:
    """Why the recording is of no use, or None. What stands before a bracket is the kind that the report counts.

    Narrow bandwidth is no fault: it stands in the manifest, and training can filter on it.
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
