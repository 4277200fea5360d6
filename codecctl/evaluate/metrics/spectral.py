"""Distances of spectra: log-mel over several windows, and log-spectral."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codecctl.audio.spectrum import MelSpectrogram, Stft
from codecctl.evaluate.metrics.metric import SignalMetric

_MEL_FLOOR = 1e-5
_MEL_SCALES = ((64, 10), (128, 20), (256, 40), (512, 80), (1024, 80), (2048, 80))  # window in samples at 16 kHz, bands


class MelDistance(nn.Module):
    """Mean absolute difference of log-mel magnitudes (natural log), mean over six windows from 4 to 128 ms."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.log_mels = nn.ModuleList(
            _LogMel(sample_rate, _window(window, sample_rate), n_mels) for window, n_mels in _MEL_SCALES
        )

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """[B, L] twice -> [B]"""
        distances = [(log_mel(reference) - log_mel(decoded)).abs().mean(dim=(1, 2)) for log_mel in self.log_mels]
        return torch.stack(distances).mean(dim=0)


class LogSpectralDistance(nn.Module):
    """RMS over frequencies of the difference of power spectra in dB, mean over the frames within 40 dB of the loudest
    (Gray & Markel 1976). 32 ms windows; what lies 60 dB below the loudest frame counts as equal."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.stft = Stft(_window(512, sample_rate))

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """[B, L] twice -> [B]; NaN for silence."""
        powers = [_power(self.stft(signal)) for signal in (reference, decoded)]  # [B, F, T']
        level = powers[0].mean(dim=1)  # [B, T']
        loudest = level.amax(dim=-1, keepdim=True)
        floor = loudest[..., None] * 1e-6
        difference = 10 * torch.log10((powers[0] + floor) / (powers[1] + floor))
        active = level > loudest * 1e-4
        per_frame = difference.square().mean(dim=1).sqrt()
        return (per_frame * active).sum(dim=-1) / active.sum(dim=-1)  # 0 / 0 = NaN for silence


def _window(samples_at_16_khz: int, sample_rate: int) -> int:
    return 4 * round(samples_at_16_khz * sample_rate / 64000)


class _LogMel(MelSpectrogram):
    def forward(self, audio: Tensor) -> Tensor:
        magnitudes = _power(self.stft(audio)).sqrt()
        return (self.filters.to(magnitudes.dtype) @ magnitudes).clamp(min=_MEL_FLOOR).log()


def _power(spectra: Tensor) -> Tensor:
    """Squared magnitudes; three times as fast as `abs().square()`, which guards against overflow."""
    return torch.addcmul(spectra.real.square(), spectra.imag, spectra.imag)


MEL_DISTANCE = SignalMetric(
    name="mel_distance",
    label="mel distance",
    higher_is_better=False,
    digits=3,
    meaning="mean difference of log-mel magnitudes (natural log), over six windows",
    make=lambda sample_rate, device: MelDistance(sample_rate).to(device),
)
LOG_SPECTRAL_DISTANCE = SignalMetric(
    name="log_spectral_distance_db",
    label="log-spectral, dB",
    higher_is_better=False,
    meaning="difference of power spectra, root mean square over frequencies",
    make=lambda sample_rate, device: LogSpectralDistance(sample_rate).to(device),
)
