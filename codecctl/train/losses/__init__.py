"""The reconstruction losses: one a file, one row each in `LOSSES`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codecctl.audio.spectrum import Stft
from codecctl.config.schema import LossConfig
from codecctl.train.losses.complex_spectrum import ComplexSpectrum
from codecctl.train.losses.loss import Loss
from codecctl.train.losses.mel import AverageSpectrum, Mel
from codecctl.train.losses.repetition import Repetition
from codecctl.train.losses.spectral import Spectral
from codecctl.train.losses.waveform import Waveform

LOSSES: dict[str, type[Loss]] = {
    "waveform": Waveform,
    "spectral": Spectral,
    "mel": Mel,
    "average_spectrum": AverageSpectrum,
    "complex": ComplexSpectrum,
    "repetition": Repetition,
}


class ReconstructionLosses(nn.Module):
    """Reference and decoded audio [B, 1, L] -> the unweighted losses by name; those of weight zero are left out."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__()
        used = {name: loss(config, sample_rate, hop_length) for name, loss in LOSSES.items() if config.weights[name]}
        windows = sorted({window for loss in used.values() for window in loss.windows})
        self.losses = nn.ModuleDict(used)
        self.stfts = nn.ModuleDict({str(window): Stft(window) for window in windows})

    def forward(self, reference: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        with torch.autocast(reference.device.type, enabled=False):
            reference, decoded = reference[:, 0].float(), decoded[:, 0].float()  # [B, L]
            # The spectra of each window are computed once for all losses.
            spectra = {int(window): (stft(reference), stft(decoded)) for window, stft in self.stfts.items()}
            return {name: loss(reference, decoded, spectra) for name, loss in self.losses.items()}
