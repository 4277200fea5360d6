"""Multi-scale STFT magnitudes, linear and logarithmic."""

from __future__ import annotations

import torch
from torch import Tensor

from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import QUIET, Loss, Spectra, log_distance, magnitude, mean


class Spectral(Loss):
    """Spectral convergence plus log-magnitude L1 (Yamamoto et al. 2020, eqs. 4 and 5), mean over the windows."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.windows = config.spectral_windows

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        return mean([_distance(*spectra[window]) for window in self.windows])


def _distance(reference: Tensor, decoded: Tensor) -> Tensor:
    """Complex [B, F, T'] twice."""
    reference, decoded = magnitude(reference), magnitude(decoded)
    # A ratio for each item, not for the batch: then the mean of two half batches is that of the whole.
    error, norm = (torch.linalg.vector_norm(x, dim=(1, 2)) for x in (reference - decoded, reference))
    quiet = QUIET * (reference.shape[1] * reference.shape[2]) ** 0.5  # near silence any error is many times the signal
    return (error / norm.clamp(min=quiet)).mean() + log_distance(reference, decoded)
