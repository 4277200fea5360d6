"""How much louder or softer speech sounds than it should, in each critical band: what ears and PESQ judge by.

After the psychoacoustic model of PESQ (Rix et al. 2001; ITU-T P.862, section 10.2), as a loss: bands are even in Bark
(Traunmüller 1990), the threshold of hearing is a formula (Terhardt 1979), spectra overlap by three quarters, and
nothing makes up for a wrong level or colour, so that the codec learns to keep both.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WINDOW = 512
"""Samples of the spectra: 32 ms at 16 kHz, as in PESQ."""

_N_BANDS = 49
_LOWEST_HZ = 90.0
_SPEECH_HZ = (325.0, 3250.0)  # speech is brought to the listening level by what it has here
_LISTENING_DB = 76.0  # sound pressure
_THRESHOLD_DB = -9.0  # against Terhardt's: PESQ's tables hear that much more
_SONE = 0.187  # PESQ's scale of loudness
_DEAD_ZONE = 0.25  # of the softer one's loudness: a difference below it is not heard
_ADDED = (3.0, 12.0)  # a band this many times too strong counts once more, and as often, up to the second
_AUDIBLE = 50.0  # power under which nothing is too strong
_SYMMETRIC, _ASYMMETRIC = 0.1, 0.0309  # points of PESQ's raw score for either disturbance
_MOST = 45.0  # of a frame's disturbance
_SYLLABLE = 80  # frames of a hop of 128: 0.64 s, within which the worst moments count most
_TINY = 1e-6


class LoudnessDistance(nn.Module):
    """Complex spectra of reference and decoded speech, [B, 257, T'] of `Stft(512)` -> a mean over the batch, in points
    of PESQ's raw score: 0 for what sounds the same, 1 to 2 for codecs of low rates."""

    bands: Tensor  # [bands, F] share of each spectral line
    threshold: Tensor  # [bands, 1] power
    exponent: Tensor  # [bands, 1] of Zwicker's law
    speech: Tensor  # [F]

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        hertz = np.linspace(0, sample_rate / 2, WINDOW // 2 + 1)
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
            # By way of a list: under a fake tensor mode too this makes a tensor of that mode.
            self.register_buffer(name, torch.tensor(values.astype(np.float32).tolist()), persistent=False)

    def forward(self, reference: Tensor, decoded: Tensor) -> Tensor:
        wanted, heard = self._power(reference), self._power(decoded)
        loudness, heard_loudness = self._loudness(wanted), self._loudness(heard)
        difference = (heard_loudness - loudness).abs()
        difference = (difference - _DEAD_ZONE * torch.minimum(loudness, heard_loudness)).clamp(min=0)
        with torch.no_grad():  # a weight: what was added disturbs more than what is missing
            ratio = ((heard + _AUDIBLE) / (wanted + _AUDIBLE)).pow(1.2)
            added = torch.where(ratio < _ADDED[0], 0, ratio.clamp(max=_ADDED[1]))
        n_bark = self.width * _N_BANDS
        symmetric = n_bark**0.5 * self.width * _root(difference.square().sum(dim=1), 2)
        asymmetric = self.width * (difference * added).sum(dim=1)
        return (_SYMMETRIC * _over_time(symmetric) + _ASYMMETRIC * _over_time(asymmetric)).mean()

    def _power(self, spectrum: Tensor) -> Tensor:
        """Complex [B, F, T'] -> [B, bands, T'], as speech at the listening level would have it."""
        power = spectrum.real.square() + spectrum.imag.square()
        level = (self.speech @ power).mean(dim=-1).clamp(min=_TINY)  # [B]
        return self.bands @ (power / level[:, None, None] * 10 ** (_LISTENING_DB / 10))

    def _loudness(self, power: Tensor) -> Tensor:
        """[B, bands, T'] -> the same in sone a Bark (Zwicker's law)."""
        above = (0.5 + 0.5 * power / self.threshold).pow(self.exponent) - 1
        return _SONE * ((2 * self.threshold).pow(self.exponent) * above).clamp(min=0)


def _over_time(disturbance: Tensor) -> Tensor:
    """[B, T'] -> [B]: within a stretch the worst moments count most, over the stretches the mean square."""
    n = min(_SYLLABLE, disturbance.shape[1])
    stretches = disturbance.clamp(max=_MOST).unfold(1, n, max(n // 2, 1))
    return _root(_root(stretches.pow(6).mean(dim=-1), 6).square().mean(dim=1), 2)


def _root(x: Tensor, degree: int) -> Tensor:
    """Zero at zero, where its slope stays finite."""
    root: Tensor = (x + _TINY).pow(1 / degree) - _TINY ** (1 / degree)
    return root


def _bark(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 26.81 * hertz / (1960 + hertz) - 0.53


def _hertz(bark: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1960 * (bark + 0.53) / (26.28 - bark)


def _quiet_threshold_db(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    khz = hertz / 1000
    return np.asarray(3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4)
