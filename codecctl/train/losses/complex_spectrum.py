"""Complex spectra under a power law."""

from __future__ import annotations

import math

from torch import Tensor

from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import QUIET, Loss, Spectra, magnitude

_WINDOW = 512  # samples
_POWER = 0.3  # close to how loudness grows with magnitude
_KNEE = 3e-3  # of an item's RMS magnitude, -50 dB: below it the power law is linear


class ComplexSpectrum(Loss):
    """Squared error of spectra whose magnitudes went through a power law, with and without their phases, half and half
    (Braun and Tashev 2020, eq. 7), up to `complex_below_hz`: the ear follows phases up to some 1.5 kHz.

    Relative to the item's level: speech at -40 dB counts like speech at -20 dB.
    """

    windows = (_WINDOW,)

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        hertz = config.complex_below_hz
        self._n_bins = _WINDOW // 2 + 1 if hertz is None else math.ceil(hertz * _WINDOW / sample_rate)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        reference, decoded = (spectrum[:, : self._n_bins] for spectrum in spectra[_WINDOW])
        level = reference.abs().square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=QUIET**2)
        (a, a_magnitude), (b, b_magnitude) = _compressed(reference / level), _compressed(decoded / level)
        difference = a - b
        with_phase = difference.real.square() + difference.imag.square()
        return (0.5 * with_phase + 0.5 * (a_magnitude - b_magnitude).square()).mean()


def _compressed(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """The spectrum and its magnitude under the power law."""
    size = magnitude(spectrum)
    gain = (size + _KNEE).pow(_POWER - 1)
    return spectrum * gain, size * gain
