"""L1 of the samples."""

from __future__ import annotations

from torch import Tensor

from codecctl.train.losses.loss import Loss, Spectra


class Waveform(Loss):
    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        return (reference - decoded).abs().mean()
