"""The interface of a reconstruction loss, and what several of them compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from codecctl.config.schema import LossConfig

Spectra = Mapping[int, tuple[Tensor, Tensor]]
"""Window -> complex spectra [B, F, T'] of reference and decoded samples, by `Stft(window)`."""

FLOOR = 1e-5  # of magnitudes, under their logarithm
QUIET = 1e-2  # RMS magnitude, -40 dB of full scale


class Loss(nn.Module):
    """Reference and decoded samples [B, L] and their spectra -> a loss [], the mean over the batch."""

    windows: Sequence[int] = ()
    """The windows, in samples, whose spectra it needs."""

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        """`hop_length`: samples of a frame of the codec."""
        super().__init__()

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        raise NotImplementedError


def magnitude(spectrum: Tensor) -> Tensor:
    # The floor sits under the root: its gradient is infinite at zero, and silence is common.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=FLOOR**2).sqrt()


def log_distance(reference: Tensor, decoded: Tensor) -> Tensor:
    """Mean L1 of the logarithms."""
    return (reference.clamp(min=FLOOR).log() - decoded.clamp(min=FLOOR).log()).abs().mean()


def mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([*losses]).mean()
