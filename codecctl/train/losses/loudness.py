"""Loudness in critical bands, as PESQ measures it.

After the psychoacoustic model of PESQ (Rix et al. 2001; ITU-T P.862, section 10.2), as a loss: bands are even in Bark
(Traunmüller 1990), the threshold of hearing is a formula (Terhardt 1979), spectra overlap by three quarters, and
levels and colours are not equalised, so that the codec learns to keep both.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import Loss, Spectra

_WINDOW = 512  # samples: 32 ms at 16 kHz, as in PESQ

_N_BANDS = 49
_LOWEST_HZ = 90.0
_SPEECH_HZ = (325.0, 3250.0)  # the level of speech is measured in this band
_LISTENING_DB = 76.0  # sound pressure
_THRESHOLD_DB = -9.0  # relative to Terhardt's: PESQ's tables are that much more sensitive
_SONE = 0.187  # PESQ's scale of loudness
_DEAD_ZONE = 0.25  # of the softer one's loudness: a smaller difference is inaudible
_ADDED = (3.0, 12.0)  # a band this many times too strong counts once more, and as often, up to the second
_AUDIBLE = 50.0  # power below which no band counts as too strong
_SYMMETRIC, _ASYMMETRIC = 0.1, 0.0309  # points of PESQ's raw score for either disturbance
_MOST = 45.0  # of a frame's disturbance
_SYLLABLE = 80  # frames of a hop of 128: 0.64 s
_TINY = 1e-6


class Loudness(Loss):
    """In points of PESQ's raw score: 0 where nothing audible differs, 1 to 2 for codecs of low rates."""

    windows = (_WINDOW,)

    bands: Tensor  # [bands, F] share of each spectral line
    threshold: Tensor  # [bands, 1] power
    exponent: Tensor  # [bands, 1] of Zwicker's law
    speech: Tensor  # [F]

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        hertz = np.linspace(0, sample_rate / 2, _WINDOW // 2 + 1)
        edges = np.linspace(_bark(hertz[1]), _bark(hertz[-1]), _N_BANDS + 1)
        lower, upper = (_bark((hertz + sign * hertz[1] / 2).clip(0)) for sign in (-1, 1))
        overlap = np.minimum(upper, edges[1:, None]) - np.maximum(lower, edges[:-1, None])
        middle = (edges[1:] + edges[:-1]) / 2
        self.width = float(edges[1] - edges[0])  # Bark
        constants = {
            "bands": overlap.clip(0) / (upper - lower) * (hertz > _LOWEST_HZ),
            "threshold": 10 ** ((_quiet_threshold_db(_hertz(middle)) + _THRESHOLD_DB) / 10)[:, None],
            "exponent": 0.23 * (6 / (middle + 2)).clip(1, 2)[:, None] ** 0.15,
            "speech": (hertz > _SPEECH_HZ[0]) & (hertz < _SPEECH_HZ[1]),
        }
        for name, values in constants.items():
            # From a list: a dispatch mode then makes a tensor of its own.
            self.register_buffer(name, torch.tensor(values.astype(np.float32).tolist()), persistent=False)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        power, decoded_power = (self._power(spectrum) for spectrum in spectra[_WINDOW])
        loudness, decoded_loudness = self._loudness(power), self._loudness(decoded_power)
        difference = (decoded_loudness - loudness).abs()
        difference = (difference - _DEAD_ZONE * torch.minimum(loudness, decoded_loudness)).clamp(min=0)
        with torch.no_grad():  # a weight: added sound disturbs more than missing sound
            ratio = ((decoded_power + _AUDIBLE) / (power + _AUDIBLE)).pow(1.2)
            added = torch.where(ratio < _ADDED[0], 0, ratio.clamp(max=_ADDED[1]))
        n_bark = self.width * _N_BANDS
        symmetric = n_bark**0.5 * self.width * _root(difference.square().sum(dim=1), 2)
        asymmetric = self.width * (difference * added).sum(dim=1)
        return (_SYMMETRIC * _over_time(symmetric) + _ASYMMETRIC * _over_time(asymmetric)).mean()

    def _power(self, spectrum: Tensor) -> Tensor:
        """Complex [B, F, T'] -> [B, bands, T'], scaled to the listening level."""
        power = spectrum.real.square() + spectrum.imag.square()
        level = (self.speech @ power).mean(dim=-1).clamp(min=_TINY)  # [B]
        return self.bands @ (power / level[:, None, None] * 10 ** (_LISTENING_DB / 10))

    def _loudness(self, power: Tensor) -> Tensor:
        """[B, bands, T'] -> the same in sone a Bark (Zwicker's law)."""
        above = (0.5 + 0.5 * power / self.threshold).pow(self.exponent) - 1
        return _SONE * ((2 * self.threshold).pow(self.exponent) * above).clamp(min=0)


def _over_time(disturbance: Tensor) -> Tensor:
    """[B, T'] -> [B]: the mean of powers of 6 within each 0.64 s, the mean square over these."""
    n = min(_SYLLABLE, disturbance.shape[1])
    stretches = disturbance.clamp(max=_MOST).unfold(1, n, max(n // 2, 1))
    return _root(_root(stretches.pow(6).mean(dim=-1), 6).square().mean(dim=1), 2)


def _root(x: Tensor, degree: int) -> Tensor:
    """Zero at zero, where its slope stays finite."""
    return (x + _TINY).pow(1 / degree) - _TINY ** (1 / degree)


def _bark(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 26.81 * hertz / (1960 + hertz) - 0.53


def _hertz(bark: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1960 * (bark + 0.53) / (26.28 - bark)


def _quiet_threshold_db(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    khz = hertz / 1000
    return np.asarray(3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4)
