"""Refined front: the transform front, and behind its decoder a network that corrects overlapping spectra.

Frames of the transform do not overlap, and nothing in them is finer than a frame. The network computes at a multiple of
the frame rate, from spectra of the decoded audio and from the latents; what it returns are spectra again, as in a
vocoder (Siuzdak 2023, section 3.1). Its last layer starts at zero: before the first step the codec is that of the
transform front, whose encoder, codes and fingerprint it has, and it goes on from such a codec's weights.

A spectrum is computed when the last of its samples are in a frame whose codes are known. An output sample is complete
with the last spectrum that covers it, `RefinedConfig.delay` samples later.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.config.model import ModelConfig, RefinedConfig
from codecctl.model.causal import CausalSequential, StreamState, prepend_past
from codecctl.model.cosine import table
from codecctl.model.fronts.front import Front
from codecctl.model.fronts.transform import FRONT as TRANSFORM
from codecctl.model.fronts.transform import FrameUnit, TransformDecoder

_KERNEL_SIZE, _EXPANSION = 7, 3  # of the blocks (Liu et al. 2022)
_POWER = 0.4  # of magnitudes, as they are corrected: errors in soft parts weigh more
_QUIET, _REFINED_QUIET = 1e-5, 1e-4  # added to magnitudes: their slope must stay finite at zero
_LARGEST = 8.0  # of the corrected magnitudes that the power law takes up, 45 dB above white noise of full scale
_LEVEL_SCALE, _LEVEL_OFFSET = 0.3, 1.0  # of log magnitudes: speech is near zero then
_PART_SCALE = 2.0  # of real and imaginary parts under the power law


class RefinedDecoder(TransformDecoder):
    """[B, D, T] -> [B, 1, T x hop], `delay` samples late."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.refiner = Refiner(config)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        latents = self.latents(x, state)
        return self.refiner(self.decode(latents, state), latents, state)


class Refiner(nn.Module):
    """Decoded audio [B, 1, T x hop] and the latents [B, D, T] that it was decoded from -> the corrected audio, late."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front = cast(RefinedConfig, config.front)
        self.n_spectra, n_bins = front.spectra_per_frame, front.hop_length // 2 + 1
        width = front.fine_channels
        self.analysis = Analysis(front.hop_length, self.n_spectra)
        self.first = nn.Linear(3 * n_bins + config.latent_width, width)
        self.blocks = CausalSequential(FrameUnit(width, _KERNEL_SIZE, _EXPANSION) for _ in range(front.n_fine_blocks))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.last = nn.Linear(width, 4 * n_bins)
        self.synthesis = Synthesis(front.hop_length, self.n_spectra)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, audio: Tensor, latents: Tensor, state: StreamState | None = None) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            real, imaginary = self.analysis(audio, state)  # [B, T', F]
            magnitude = (real.square() + imaginary.square() + _QUIET**2).sqrt()
            gain = magnitude.pow(_POWER - 1)
            real, imaginary = real * gain, imaginary * gain
            level = _LEVEL_SCALE * magnitude.log() + _LEVEL_OFFSET
            latents = latents.mT.repeat_interleave(self.n_spectra, dim=1)  # [B, T', D]
            features = torch.cat([level, _PART_SCALE * real, _PART_SCALE * imaginary, latents], dim=-1)
        y = self.norm(self.blocks(self.first(features), state).to(self.norm.weight.dtype))
        with torch.autocast(audio.device.type, enabled=False):
            along, across, more_real, more_imaginary = self.last(y).chunk(4, dim=-1)
            along = 1 + along
            refined_real = real * along - imaginary * across + more_real
            refined_imaginary = real * across + imaginary * along + more_imaginary
            # The inverse of the power law.
            magnitude = (refined_real.square() + refined_imaginary.square() + _REFINED_QUIET**2).sqrt()
            gain = magnitude.clamp(max=_LARGEST).pow(1 / _POWER - 1)
            return self.synthesis(refined_real * gain, refined_imaginary * gain, state)


class Analysis(nn.Module):
    """[B, 1, T x hop] -> real and imaginary parts [B, T', F] of spectra of Hann windows that overlap, as long as a
    frame. The first window ends with the first hop."""

    basis: Tensor  # [2F, N]

    def __init__(self, n_window: int, n_overlapping: int) -> None:
        super().__init__()
        self.hop = n_window // n_overlapping
        self.register_buffer("basis", table((n_window + 2, n_window), _analysis, n_window), persistent=False)

    def forward(self, audio: Tensor, state: StreamState | None = None) -> tuple[Tensor, Tensor]:
        n_window = self.basis.shape[1]
        windows = prepend_past(self, audio, n_window - self.hop, state)[:, 0].unfold(-1, n_window, self.hop)
        real, imaginary = F.linear(windows, self.basis.to(windows.dtype)).chunk(2, dim=-1)
        return real, imaginary


class Synthesis(nn.Module):
    """Real and imaginary parts [B, T', F] of spectra of Hann windows that overlap -> [B, 1, T' x hop]: the inverse of
    `Analysis`. The first sample of a spectrum's window is the first of its hop."""

    basis: Tensor  # [N, 2F]

    def __init__(self, n_window: int, n_overlapping: int) -> None:
        super().__init__()
        self.hop, self.n_overlapping = n_window // n_overlapping, n_overlapping
        self.register_buffer("basis", table((n_window, n_window + 2), _synthesis, n_window, self.hop), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor, state: StreamState | None = None) -> Tensor:
        n_frames, n = real.shape[1], self.n_overlapping
        frames = F.linear(torch.cat([real, imaginary], dim=-1), self.basis.to(real.dtype))  # [B, T', N]
        frames = prepend_past(self, frames.mT, n - 1, state).mT
        first = [n - 1 - i for i in range(n)]  # of the windows whose i-th hop sounds
        parts = [frames[:, first[i] : first[i] + n_frames, i * self.hop : (i + 1) * self.hop] for i in range(n)]
        return torch.stack(parts).sum(dim=0).flatten(1)[:, None]


def _analysis(n: int) -> Tensor:
    """[2F, N]: cosines, then sines, under a window of unit energy."""
    spectra = torch.fft.rfft(torch.eye(n, dtype=torch.float64) * _window(n))  # [N, F], a row for each sample
    return torch.cat([spectra.real, spectra.imag], dim=1).mT.contiguous().float()


def _synthesis(n: int, hop: int) -> Tensor:
    """[N, 2F]: after the analysis this gives the signal back."""
    unit = torch.eye(n // 2 + 1, dtype=torch.float64)
    samples = torch.cat([torch.fft.irfft(unit.to(torch.complex128), n), torch.fft.irfft(1j * unit, n)])  # [2F, N]
    return (samples * _window(n) * hop).mT.contiguous().float()


def _window(n: int) -> Tensor:
    """[N], of unit energy, float64."""
    hann = torch.hann_window(n, dtype=torch.float64)
    return hann / hann.norm()


FRONT = Front(
    TRANSFORM.encoder,
    RefinedDecoder,
    fit=TRANSFORM.fit,
    compiled=TRANSFORM.compiled,
    precise_weights=(*TRANSFORM.precise_weights, "decoder.refiner.last.weight"),
)
