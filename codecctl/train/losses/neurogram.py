"""Patterns of levels over time and critical bands, as ViSQOL compares them.

After NSIM (Hines and Harte 2012) on the spectrograms of ViSQOL (Hines et al. 2015), as a loss: the pattern is compared
neighbourhood by neighbourhood. Contrast counts, as in the measure of images that NSIM comes from (Wang et al. 2004,
eq. 13); levels do not: they are left to other losses.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import Loss, Spectra

_WINDOW_SECONDS = 0.08

_N_BANDS, _LOWEST_HZ = 21, 50.0
_EAR_Q, _LEAST_HZ = 9.26449, 24.7  # of the ear's filters: bandwidth = frequency / _EAR_Q + _LEAST_HZ (Glasberg, Moore)
_NEIGHBOURS = (0.1068, 0.7864, 0.1068)  # a Gaussian over three bands and three frames
_SMALL = 1e-3  # variance of log power below which a pattern counts as flat
_FLOOR = 1e-7  # power
_AUDIBLE = 1e-4  # of the loudest moment's power: softer ones are pauses


class Neurogram(Loss):
    """0 for the same pattern, 1 for an unrelated one; pauses do not count."""

    bands: Tensor  # [bands, F] gammatone filters' power responses
    neighbours: Tensor  # [1, 1, 3, 3]

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        window = round(_WINDOW_SECONDS * sample_rate)
        self.windows = (window,)
        hertz = np.linspace(0, sample_rate / 2, window // 2 + 1)
        offset = _EAR_Q * _LEAST_HZ
        step = math.log((sample_rate / 2 + offset) / (_LOWEST_HZ + offset)) / _N_BANDS
        middle = (_LOWEST_HZ + offset) * np.exp(step * np.arange(_N_BANDS)) - offset
        width = 1.019 * (middle / _EAR_Q + _LEAST_HZ)
        response = (1 + np.square((hertz - middle[:, None]) / width[:, None])) ** -4
        bands = response / response.sum(axis=1, keepdims=True)
        # From lists: a dispatch mode then makes tensors of its own.
        self.register_buffer("bands", torch.tensor(bands.astype(np.float32).tolist()), persistent=False)
        neighbours = torch.tensor(np.outer(_NEIGHBOURS, _NEIGHBOURS)[None, None].astype(np.float32).tolist())
        self.register_buffer("neighbours", neighbours, persistent=False)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        (power, a), (_, b) = (self._levels(spectrum) for spectrum in spectra[self.windows[0]])
        a_mean, b_mean = self._around(a), self._around(b)
        variances = self._around(a.square()) - a_mean.square() + self._around(b.square()) - b_mean.square()
        covariance = self._around(a * b) - a_mean * b_mean
        same = (2 * covariance + _SMALL) / (variances + _SMALL)  # [B, bands, T'], 1 at most
        audible = power >= _AUDIBLE * power.amax(dim=1, keepdim=True)  # [B, T']
        return 1 - (same.mean(dim=1) * audible).sum() / audible.sum()

    def _levels(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, T'] -> power [B, T'], and its logarithm in each band [B, bands, T']."""
        power = spectrum.real.square() + spectrum.imag.square()
        return power.sum(dim=1), (self.bands @ power).clamp(min=_FLOOR).log()

    def _around(self, x: Tensor) -> Tensor:
        """[B, bands, T'] -> the same, means over each neighbourhood."""
        return F.conv2d(F.pad(x[:, None], (1, 1, 1, 1), mode="replicate"), self.neighbours)[:, 0]
