"""The same waveform frame after frame in the upper band, which sounds like a buzz.

Codes that hold only levels leave the waveform free. A decoder that gives equal levels equal waveforms has low spectral
losses: windows longer than a frame measure the right levels, shorter ones see one frame at a time.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from codecctl.audio.spectrum import Stft
from codecctl.config.schema import LossConfig
from codecctl.train.losses.loss import Loss, Spectra

_OCTAVES_HZ = (1000, 2000, 4000, 8000)
_FRAMES_APART = 8
_SILENCE = 1e-4  # of the reference's mean power: a softer frame is similar to no other
_PLACE_WINDOW = 64  # samples; places are a hop apart
_PLACE_OCTAVES_HZ = _OCTAVES_HZ[1:]  # below, so short a window contains lower frequencies, too
_FLOOR = 1e-8  # power, -80 dB of full scale


class Repetition(Loss):
    """The sum of two differences between reference and decoded samples, each the mean over octaves; 0 for the same
    samples, close to 0 for two noises.

    Similarity of frames, from 1 kHz up: the mean square of the correlation of each two at most 8 frames apart;
    1 for noise against one waveform over and over. Distribution of power within a frame, from 2 kHz up: the share
    of each place, over an even share, averaged over the frames of a crop. A frame has a multiple of 16 samples.
    """

    def __init__(self, config: LossConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__(config, sample_rate, hop_length)
        self.stft = Stft(_PLACE_WINDOW)
        self.hop_length = hop_length
        self.bands = _slices(_OCTAVES_HZ, sample_rate, hop_length)
        self.place_bands = _slices(_PLACE_OCTAVES_HZ, sample_rate, _PLACE_WINDOW)

    def forward(self, reference: Tensor, decoded: Tensor, spectra: Spectra) -> Tensor:
        # Whole frames: the padding is silent in both.
        a, b = (F.pad(x, (0, -x.shape[-1] % self.hop_length)) for x in (reference, decoded))
        return self._alike(a, b) + (self._places(a) - self._places(b)).abs().mean()

    def _alike(self, reference: Tensor, decoded: Tensor) -> Tensor:
        """[B, n x hop_length] twice -> the difference in similarity of their frames."""
        n_frames = reference.shape[-1] // self.hop_length
        frames = [x.reshape(-1, n_frames, self.hop_length) for x in (reference, decoded)]
        spectra = [torch.view_as_real(torch.fft.rfft(each)) for each in frames]
        near = torch.ones(n_frames, n_frames, device=reference.device).triu(1).tril(_FRAMES_APART)
        distances = []
        for band in self.bands:
            bins = [each[:, :, band].flatten(2) for each in spectra]  # [B, T, 2F]
            silence = _SILENCE * bins[0].square().sum(dim=2, keepdim=True).mean(dim=1, keepdim=True) + _FLOOR
            alike = [(_correlations(each, silence).square() * near).sum(dim=(1, 2)) for each in bins]
            distances.append((alike[0] - alike[1]).abs().mean() / near.sum().clamp(min=1))
        return torch.stack(distances).mean()

    def _places(self, signal: Tensor) -> Tensor:
        """[B, n x hop_length] -> [octaves, B, places]"""
        power = torch.view_as_real(self.stft(signal)).square().sum(dim=3)[:, :, :-1]  # [B, F, T x places]
        n_places = self.hop_length // self.stft.hop_length
        octaves = torch.stack([power[:, band].sum(dim=1) for band in self.place_bands])
        frames = octaves.reshape(*octaves.shape[:2], -1, n_places)
        return (frames / (frames.mean(dim=3, keepdim=True) + _FLOOR)).mean(dim=2)


def _correlations(frames: Tensor, silence: Tensor) -> Tensor:
    """[B, T, N] and a power [B, 1, 1] -> [B, T, T], of each frame with each."""
    frames = frames * (frames.square().sum(dim=2, keepdim=True) + silence).rsqrt()
    return frames @ frames.transpose(1, 2)


def _slices(edges_hz: tuple[int, ...], sample_rate: int, window: int) -> list[slice]:
    """The bins of each band."""
    edges = [hz * window // sample_rate for hz in edges_hz]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]
