"""Short-time Fourier and mel spectra as modules, for losses and metrics."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


class Stft(nn.Module):
    """Complex short-time spectra with a Hann window of unit energy and a hop of a quarter of it.

    The unit energy makes magnitudes of different windows comparable: white noise of RMS r has r in every bin.
    Frames are centred on multiples of the hop, and the signal is padded with zeros, so that any length from one sample
    up has a spectrum. Computes in float32 even under autocast, and in float64 for float64 input.
    """

    window: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        self.n_window = window
        self.hop_length = window // 4
        hann = torch.hann_window(window, dtype=torch.float64)
        self.register_buffer("window", hann / hann.norm(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """[B, C, L] or [B, L] -> complex [B (x C), F, T'], F = window / 2 + 1, T' = 1 + L // hop."""
        with torch.autocast(audio.device.type, enabled=False):
            audio = audio if audio.dtype == torch.float64 else audio.float()
            audio = F.pad(audio.flatten(0, -2), (self.n_window // 2, self.n_window // 2))  # [B x C, L + window]
            window = self.window.to(audio.dtype)
            return torch.stft(audio, self.n_window, self.hop_length, window=window, center=False, return_complex=True)


class MelSpectrogram(nn.Module):
    """Magnitudes of `Stft` in mel bands, each a mean over its triangle (Slaney, Auditory Toolbox, 1998)."""

    filters: Tensor

    def __init__(self, sample_rate: int, window: int, n_mels: int) -> None:
        super().__init__()
        self.stft = Stft(window)
        # Converted from a list, so that it also works under a fake tensor mode and on the default device.
        filters = torch.tensor(mel_filters(sample_rate, window // 2 + 1, n_mels).tolist(), dtype=torch.float64)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """[B, C, L] or [B, L] -> [B (x C), n_mels, T']"""
        spectrum: Tensor = self.stft(audio)
        return self.bands(spectrum)

    def bands(self, spectrum: Tensor) -> Tensor:
        """Complex [B, F, T'] of `stft` -> [B, n_mels, T']"""
        with torch.autocast(spectrum.device.type, enabled=False):
            magnitudes = spectrum.abs()
            return self.filters.to(magnitudes.dtype) @ magnitudes


def mel_filters(sample_rate: int, n_frequencies: int, n_mels: int) -> NDArray[np.float64]:
    """[n_mels, F]: triangles of unit area, their corners evenly spaced on Slaney's mel scale from 0 to Nyquist."""
    # Linear below 1 kHz with 3 mel per 200 Hz, logarithmic above with 27 mel per factor of 6.4.
    nyquist = sample_rate / 2
    most = nyquist * 0.015 if nyquist < 1000 else 15 + 27 * math.log(nyquist / 1000) / math.log(6.4)
    mels = np.linspace(0.0, most, n_mels + 2)
    corners = np.where(mels < 15, mels / 0.015, 1000 * 6.4 ** ((mels - 15) / 27))
    frequencies = np.linspace(0.0, nyquist, n_frequencies)
    bin_hz = frequencies[1]
    triples = zip(corners[:-2], corners[1:-1], corners[2:], strict=True)
    return np.stack(
        [np.interp(frequencies, [low, mid, high], [0.0, 2 * bin_hz / (high - low), 0.0]) for low, mid, high in triples]
    )
