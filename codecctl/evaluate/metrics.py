"""What a decoded signal is worth beside its reference: measures that need nothing but the samples.

All take reference and decoded [..., L] of one length and give [...]. A measure that is not defined, such as the SNR of
silence, is NaN, and means leave it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codecctl.audio.spectrum import MelSpectrogram, Stft


@dataclass(frozen=True)
class Metric:
    """How a metric is to be read."""

    label: str
    kind: str  # of KINDS
    higher_is_better: bool
    digits: int
    meaning: str  # for those who meet it for the first time
    good: float | None = None  # the marks of the guide
    excellent: float | None = None


KINDS = {
    "hearing": "How it sounds beside the original",
    "alone": "How it sounds by itself, as models of listeners say",
    "signal": "How the signal differs",
}

_ALONE = "a model's guess of listeners' opinions, 1 to 5, from the decoded sound alone"

METRICS = {
    "snr_db": Metric("SNR, dB", "signal", True, 1, "power of the original over that of the error", 15, 20),
    "snr_bound_db": Metric(
        "SNR bound, dB", "signal", True, 1, "the best SNR at this bitrate for a Gaussian signal of these spectra"
    ),
    "snr_bound_even_db": Metric(
        "SNR bound, even bits, dB", "signal", True, 1, "the same with as many bits for each frame, as the codec sends"
    ),
    "si_sdr_db": Metric("SI-SDR, dB", "signal", True, 1, "SNR after the best gain, so that loudness is free", 15, 20),
    "mel_distance": Metric(
        "mel distance",
        "signal",
        False,
        3,
        "mean difference of log-mel magnitudes (natural log), over six windows",
    ),
    "log_spectral_distance_db": Metric(
        "log-spectral, dB", "signal", False, 2, "difference of power spectra, root mean square over frequencies"
    ),
    "pesq_wb": Metric(
        "PESQ-WB", "hearing", True, 2, "ITU-T P.862.2, a model of listeners' opinions: 1 (bad) to 4.64 (a copy)"
    ),
    "stoi": Metric("STOI", "hearing", True, 3, "intelligibility: envelopes in bands beside the original's, to 1"),
    "estoi": Metric("ESTOI", "hearing", True, 3, "the same, sharper where the noise comes and goes"),
    "visqol": Metric(
        "ViSQOL",
        "hearing",
        True,
        2,
        "likeness of spectrograms in speech mode, 1 to 5; by its level a copy has 4.3 to 4.9",
    ),
    "dnsmos_overall": Metric("DNSMOS overall", "alone", True, 2, f"DNSMOS P.835: {_ALONE}"),
    "dnsmos_speech": Metric("DNSMOS speech", "alone", True, 2, "of the speech in it"),
    "dnsmos_background": Metric("DNSMOS background", "alone", True, 2, "of the background, 5 is none that disturbs"),
    "dnsmos_p808": Metric("DNSMOS P.808", "alone", True, 2, f"an earlier model: {_ALONE}"),
    "distillmos": Metric("DistillMOS", "alone", True, 2, _ALONE),
    "speaker_similarity": Metric(
        "speaker similarity", "hearing", True, 3, "cosine of a speaker encoder's vectors of original and decoded, to 1"
    ),
    "wer": Metric("word error rate", "hearing", False, 3, "share of the words that a recogniser gets wrong"),
    "cer": Metric("letter error rate", "hearing", False, 3, "the same of letters, for languages without word gaps"),
}

BOUNDS = ("snr_bound_db", "snr_bound_even_db")  # say something of the recordings and the bitrate, not of the system

_SILENCE = 1e-9  # mean square, -90 dB below full scale: a reference this quiet has no meaningful ratio
_CEILING_DB = 120.0  # of ratios: more than the samples' own precision
_MEL_FLOOR = 1e-5
_MEL_SCALES = ((64, 10), (128, 20), (256, 40), (512, 80), (1024, 80), (2048, 80))  # window in samples at 16 kHz, bands


def snr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """Signal power over error power."""
    return _ratio_db(reference.square().mean(dim=-1), (reference - decoded).square().mean(dim=-1), reference)


def si_sdr_db(reference: Tensor, decoded: Tensor) -> Tensor:
    """The same after the best gain, without means (Le Roux et al. 2019, eq. 3)."""
    reference = reference - reference.mean(dim=-1, keepdim=True)
    decoded = decoded - decoded.mean(dim=-1, keepdim=True)
    gain = (reference * decoded).sum(dim=-1, keepdim=True) / reference.square().sum(dim=-1, keepdim=True).clamp(
        min=1e-30
    )
    target = gain * reference
    return _ratio_db(target.square().mean(dim=-1), (target - decoded).square().mean(dim=-1), reference)


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
    (Gray & Markel 1976). 32 ms windows; 60 dB below the loudest frame both are taken as equal."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.stft = Stft(_window(512, sample_rate))

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """[B, L] twice -> [B]"""
        powers = [_power(self.stft(signal)) for signal in (reference, decoded)]  # [B, F, T']
        level = powers[0].mean(dim=1)  # [B, T']
        loudest = level.amax(dim=-1, keepdim=True)
        floor = loudest[..., None] * 1e-6
        difference = 10 * torch.log10((powers[0] + floor) / (powers[1] + floor))
        active = level > loudest * 1e-4
        per_frame = difference.square().mean(dim=1).sqrt()
        mean: Tensor = (per_frame.nan_to_num() * active).sum(dim=-1) / active.sum(dim=-1)  # 0 / 0 = NaN on silence
        return mean


def nan_mean(values: Tensor) -> float:
    """The mean of what is defined; NaN if nothing is."""
    defined = values[~values.isnan()]
    return float(defined.double().mean()) if len(defined) else math.nan


def _window(samples_at_16_khz: int, sample_rate: int) -> int:
    return 4 * round(samples_at_16_khz * sample_rate / 64000)


def _ratio_db(signal: Tensor, error: Tensor, reference: Tensor) -> Tensor:
    floor = signal.clamp(min=_SILENCE) * 10 ** (-_CEILING_DB / 10)
    ratio = 10 * torch.log10(signal.clamp(min=1e-30) / torch.maximum(error, floor))
    return ratio.clamp(min=-_CEILING_DB).masked_fill(reference.square().mean(dim=-1) < _SILENCE, math.nan)


class _LogMel(MelSpectrogram):
    def forward(self, audio: Tensor) -> Tensor:
        magnitudes = _power(self.stft(audio)).sqrt()
        return (self.filters.to(magnitudes.dtype) @ magnitudes).clamp(min=_MEL_FLOOR).log()


def _power(spectra: Tensor) -> Tensor:
    """Of complex values: three times as fast as by `abs`, whose care for overflow and gradients nobody needs here."""
    return torch.addcmul(spectra.real.square(), spectra.imag, spectra.imag)
