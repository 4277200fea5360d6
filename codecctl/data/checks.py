"""What `prepare` measures of a recording, block by block, and which recordings it turns away."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codecctl.audio.files import Audio
from codecctl.config.schema import DataConfig
from codecctl.data.manifest import SAMPLE_RATE

_FULL_SCALE = 0.999  # a sample at or beyond this counts as clipped
_WINDOW = np.hanning(513)[:512].astype(np.float32)
_FRAMES_A_BLOCK = 24
_BAND = 4  # spectral bins, 125 Hz
_SILENCE_DB = -70.0
_OFFSET = 0.02  # of full scale
_TONE_BINS, _TONE_SHARE, _TONE_FRAMES = 8, 0.99, 0.95  # two lines of a windowed spectrum hold nearly all
_FLOOR_DB = -60.0  # a band this far below the strongest one is silent


class Measurement:
    """Level, clipping, offset, bandwidth and tonality of one recording, in constant memory."""

    def __init__(self) -> None:
        self.n_samples = 0  # at 16 kHz
        self._n_source = self._n_clipped = 0
        self._sum = self._squares = 0.0
        self._power = np.zeros(len(_WINDOW) // 2)
        self._n_heard = self._n_tonal = 0

    def add_source(self, block: Audio, peak: float) -> None:
        """`[C, L]` as it stands in the file, and its largest magnitude: clipping shows before resampling smears it."""
        self._n_source += block.size
        if peak >= _FULL_SCALE:
            self._n_clipped += int(np.count_nonzero(np.abs(block) >= _FULL_SCALE))

    def add(self, samples: Audio) -> None:
        """`[L]`, the same sound as it will be kept."""
        if not len(samples):
            return
        self.n_samples += len(samples)
        self._sum += float(samples.sum())
        self._squares += float(np.einsum("i,i", samples, samples))
        if self._n_heard and len(samples) < len(_WINDOW):
            return  # the resampler's last drops tell nothing of the spectrum
        spectrum = np.fft.rfft(_frames(samples) * _WINDOW)[:, 1:]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        self._power += power.sum(axis=0)
        self._count_tonal(power[::3])

    def _count_tonal(self, power: NDArray[np.float32]) -> None:
        total = power.sum(axis=1)
        heard = total > total.max() / 1000
        strongest = np.partition(power[heard], -_TONE_BINS, axis=1)[:, -_TONE_BINS:].sum(axis=1)
        self._n_heard += len(strongest)
        self._n_tonal += int(np.count_nonzero(strongest > _TONE_SHARE * total[heard]))

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
    def offset(self) -> float:
        """The mean of the samples: DC."""
        return self._sum / max(self.n_samples, 1)

    @property
    def clipping(self) -> float:
        """Share of the source's samples at full scale."""
        return self._n_clipped / max(self._n_source, 1)

    @property
    def bandwidth_hz(self) -> float:
        """Up to where there is sound: the top of the highest band not 60 dB below the strongest one."""
        bands = self._power.reshape(-1, _BAND).sum(axis=1)
        heard = np.flatnonzero(bands > bands.max() * 10 ** (_FLOOR_DB / 10))
        return 0.0 if not len(heard) else float((heard[-1] + 1) * _BAND * SAMPLE_RATE / len(_WINDOW))


def _frames(samples: Audio) -> Audio:
    """`[L]` -> `[N, 512]`: some tens of windows spread over the block."""
    n_window = len(_WINDOW)
    if len(samples) < n_window:
        samples = np.pad(samples, (0, n_window - len(samples)))
    hop = max(n_window, len(samples) // _FRAMES_A_BLOCK)
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
    return None
