"""What a reconstruction is judged by while training. Each term is level-aware or level-free on purpose: levels of real
corpora differ by 40 dB, and magnitudes alone leave the phase, and so the waveform, free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codecctl.audio.spectrum import MelSpectrogram, Stft
from codecctl.config.schema import LossConfig

_FLOOR = 1e-5  # of magnitudes, under their logarithm
_QUIET = 1e-2  # RMS magnitude, -40 dB of full scale


class ReconstructionLosses(nn.Module):
    """Reference and decoded [B, 1, L] -> the unweighted losses by name, those of weight zero left out.

    waveform: L1 of the samples. spectral: spectral convergence plus log-magnitude L1 (Yamamoto et al. 2020, eqs. 4
    and 5), mean over the windows. mel: log-mel L1, mean over the windows (Kumar et al. 2023, section 3.4).
    """

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.stfts = nn.ModuleList(Stft(window) for window in config.spectral_windows)
        self.mels = nn.ModuleList(
            MelSpectrogram(sample_rate, window, n_mels)
            for window, n_mels in zip(config.mel_windows, config.mel_bins, strict=True)
        )

    def forward(self, reference: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        with torch.autocast(reference.device.type, enabled=False):
            reference, decoded = reference[:, 0].float(), decoded[:, 0].float()  # [B, L]
            losses = {}
            if self.config.waveform_weight:
                losses["waveform"] = (reference - decoded).abs().mean()
            if self.config.spectral_weight:
                losses["spectral"] = _mean([_spectral(stft(reference), stft(decoded)) for stft in self.stfts])
            if self.config.mel_weight:
                losses["mel"] = _mean([_log_distance(mel(reference), mel(decoded)) for mel in self.mels])
            return losses


def _spectral(reference: Tensor, decoded: Tensor) -> Tensor:
    """Complex [B, F, T'] twice -> spectral convergence + log-magnitude L1."""
    reference, decoded = _magnitude(reference), _magnitude(decoded)
    # A ratio for each item, not for the batch: then the mean of two half batches is that of the whole.
    error, norm = (torch.linalg.vector_norm(x, dim=(1, 2)) for x in (reference - decoded, reference))
    quiet = _QUIET * (reference.shape[1] * reference.shape[2]) ** 0.5  # near silence any error is many times the signal
    convergence: Tensor = (error / norm.clamp(min=quiet)).mean()
    return convergence + _log_distance(reference, decoded)


def _magnitude(spectrum: Tensor) -> Tensor:
    # The floor sits under the root: its gradient is infinite at zero, and silence is common.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_FLOOR**2).sqrt()


def _log_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    return (reference.clamp(min=_FLOOR).log() - decoded.clamp(min=_FLOOR).log()).abs().mean()


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
