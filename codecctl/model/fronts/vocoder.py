"""Vocoder front: the codes of the transform front, decoded by a network that ends in a short-time spectrum.

Encoder and latents are those of `transform`: a codec of that front can get this decoder and keeps its codes and its
fingerprint. The network runs at the frame rate, then at a multiple of it, and returns log magnitudes and phases of
overlapping spectra (Siuzdak 2023, section 3.1). It has neither noise nor a pitch predictor: discriminators train it.

A spectrum is computed when the last of its samples are in a frame whose codes are known. An output sample is complete
with the last spectrum that covers it, `VocoderConfig.delay` samples later.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.config.model import ModelConfig, VocoderConfig
from codecctl.model.causal import CausalSequential, StreamState, prepend_past
from codecctl.model.cosine import CosineTransform, LevelPrediction, expand, table
from codecctl.model.fronts.front import Front
from codecctl.model.fronts.transform import FrameUnit, TransformEncoder

_KERNEL_SIZE, _EXPANSION = 7, 3  # of the blocks (Liu et al. 2022)
_START_LEVEL = -4.0  # logarithm of all magnitudes before the first step: soft speech
_COEFFICIENT = 0.62  # that a latent of 1 stands for in the codes of the starter; training corrects it
_MAX_LEVEL = 3.0  # 26 dB above white noise of full scale; keeps the exponential finite


class VocoderDecoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop], `delay` samples late."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front = cast(VocoderConfig, config.front)
        width, fine_width, n_bins = front.channels, front.fine_channels, front.hop_length // 2 + 1
        self.n_low, self.n_spectra = front.low_coefficients, front.spectra_per_frame
        self.level_prediction = LevelPrediction(front)
        self.first = nn.Linear(config.latent_width, width)
        self.blocks = _blocks(width, front.n_blocks)
        self.upsample = nn.Linear(width, self.n_spectra * fine_width)
        self.fine_blocks = _blocks(fine_width, front.n_fine_blocks)
        self.norm = nn.RMSNorm(fine_width, eps=1e-6)
        self.polar = nn.Linear(fine_width, 2 * n_bins)
        self.coded = nn.Linear(2 * self.n_low, self.n_spectra * 2 * n_bins, bias=False)
        self.synthesis = Synthesis(front.hop_length, self.n_spectra)
        sizes = (front.hop_length, self.n_low, self.n_spectra)
        self.coded.weight = nn.Parameter(table(tuple(self.coded.weight.shape), _spectra_of_coefficients, *sizes))
        nn.init.constant_(self.polar.bias[:n_bins], _START_LEVEL)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if x.dtype.itemsize < 4:
            raise NotImplementedError("Fourier transforms need float32")
        latents = self.level_prediction.inverse(x, state)
        features = self.upsample(self.blocks(self.first(latents.mT), state))
        features = features.unflatten(-1, (self.n_spectra, -1)).flatten(1, 2)  # [B, T x n, C]
        level, phase = self.polar(self.norm(self.fine_blocks(features, state))).chunk(2, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            level, phase = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (level, phase))
            return self.synthesis(self._spectra(level.clamp(max=_MAX_LEVEL), phase, latents, state), state)

    def _spectra(self, level: Tensor, phase: Tensor, latents: Tensor, state: StreamState | None) -> Tensor:
        """Log magnitudes and phases [B, T x n, F], and latents [B, D, T] -> complex [B, T x n, F]."""
        return torch.polar(level.exp(), phase) + torch.view_as_complex(self._coded_parts(latents, state))

    def _coded_parts(self, latents: Tensor, state: StreamState | None) -> Tensor:
        """[B, D, T] -> real and imaginary parts [B, T x n, F, 2] of the spectra of the coded coefficients of a frame
        and of the one before.

        They are linear in these, and start as the exact transform: the network need not learn phases that are coded.
        """
        coefficients = expand(latents[:, : self.n_low].to(self.coded.weight.dtype))
        both = prepend_past(self.coded, coefficients, 1, state)
        pairs = torch.cat([both[..., :-1], both[..., 1:]], dim=1).mT
        return self.coded(pairs).unflatten(-1, (self.n_spectra, -1, 2)).flatten(1, 2).contiguous()


class Synthesis(nn.Module):
    """Complex spectra [B, T', F] of Hann windows that overlap -> [B, 1, T' x hop]: the inverse of a short-time Fourier
    transform with a window of unit energy. The first sample of a spectrum's window is the first of its hop."""

    window: Tensor  # [N]

    def __init__(self, n_window: int, n_overlapping: int) -> None:
        super().__init__()
        self.hop, self.n_overlapping = n_window // n_overlapping, n_overlapping
        self.register_buffer("window", table((n_window,), _window, n_window, self.hop), persistent=False)

    def forward(self, spectra: Tensor, state: StreamState | None = None) -> Tensor:
        n_frames, n = spectra.shape[1], self.n_overlapping
        frames = self._frames(spectra)
        frames = frames * self.window.to(frames.dtype)  # [B, T', N]
        frames = prepend_past(self, frames.mT, n - 1, state).mT
        first = [n - 1 - i for i in range(n)]  # of the windows whose i-th hop sounds
        parts = [frames[:, first[i] : first[i] + n_frames, i * self.hop : (i + 1) * self.hop] for i in range(n)]
        return torch.stack(parts).sum(dim=0).flatten(1)[:, None]

    def _frames(self, spectra: Tensor) -> Tensor:
        """[B, T', F] -> [B, T', N]"""
        return torch.fft.irfft(spectra, n=len(self.window))


def _window(n: int, hop: int) -> Tensor:
    """[N]: after an analysis with `_unit_window` this one gives the signal back."""
    return (_unit_window(n) * hop).float()


def _unit_window(n: int) -> Tensor:
    """[N], of unit energy, float64."""
    hann = torch.hann_window(n, dtype=torch.float64)
    return hann / hann.norm()


def _spectra_of_coefficients(n: int, n_low: int, n_spectra: int) -> Tensor:
    """[n_spectra x F x 2, 2 x n_low]: the frame's spectra from the coefficients of the frame before and of its own."""
    cosines = CosineTransform(n).basis[:n_low].double()
    frames = torch.cat([F.pad(cosines, (0, n)), F.pad(cosines, (n, 0))])  # [2 x n_low, 2 x N]
    spectra = torch.fft.rfft(frames.unfold(1, n, n // n_spectra)[:, 1:] * _unit_window(n))
    return (_COEFFICIENT * torch.view_as_real(spectra)).flatten(1).mT.contiguous().float()


def _blocks(width: int, n: int) -> CausalSequential:
    return CausalSequential(FrameUnit(width, _KERNEL_SIZE, _EXPANSION) for _ in range(n))


def _fit(encoder: nn.Module, decoder: nn.Module, audio: Tensor) -> None:
    cast(TransformEncoder, encoder).fit(audio)


FRONT = Front(
    TransformEncoder,
    VocoderDecoder,
    fit=_fit,
    compiled=(FrameUnit,),
    precise_weights=("encoder.network.last.weight", "decoder.polar.weight", "decoder.coded.weight"),
)
