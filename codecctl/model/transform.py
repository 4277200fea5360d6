"""The front for small budgets: a cosine transform that mathematics gives, around which networks learn the rest.

Each frame of `hop_length` samples is a block of its own: an orthonormal DCT-II turns it into as many coefficients, a
power law flattens their dynamics, and those are the latents. Networks on both sides add to them, and their last layers
start at zero: before the first step the codec is a transform coder with fitted books, and every hour of training goes
into what a transform does not give, such as prediction across frames and the filling of what the bits cannot carry.
Blocks do not overlap, so the delay is one frame; the decoder's network sees the frames before and smooths the edges.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from codecctl.config.schema import ModelConfig
from codecctl.model.causal import StreamState, prepend_past
from codecctl.model.encoder import Snake
from codecctl.model.pitch import LongTermPrediction
from codecctl.model.transformer import Transformer

_QUIET = 1e-5  # a coefficient: far below one step of 16 bits, where the slope of a power law must stay finite
_PITCH_PERIODS = (0.002, 0.025)  # seconds: voices from 40 to 500 Hz
_LAYER_SCALE = 0.1  # of every branch: these networks are shallow, and their budget is small


class TransformEncoder(nn.Module):
    """[B, 1, T x hop] -> [B, D, T], D = hop"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = CompandedTransform(config.hop_length, config.compression)
        self.network = FrameNetwork(config, config.hop_length)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        latents = self.transform.from_frames(self._frames(x)).mT
        y: Tensor = latents + self.network(latents, state)
        return y

    @torch.no_grad()
    def fit(self, audio: Tensor) -> None:
        """Scale the coefficients of [B, 1, T x hop] to what the books and the networks like."""
        self.transform.fit(self._frames(audio))

    def _frames(self, x: Tensor) -> Tensor:
        return rearrange(x, "b 1 (t n) -> b t n", n=len(self.transform.scale))


class TransformDecoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop], in two passes: the second one has what the first decoded, one and two pitch periods
    before, and weighs all three in every coefficient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block, inner = config.hop_length, config.transformer.width
        self.transform = CompandedTransform(block, config.compression)
        self.network = FrameNetwork(config, block)
        self.prediction = LongTermPrediction(block, *(round(config.sample_rate * t) for t in _PITCH_PERIODS))
        self.refine_first = nn.Linear(inner + 3 * block + 1, inner)
        self.refine_units = _units(config)
        self.refine_norm = nn.RMSNorm(inner, eps=1e-6)
        self.refine_last = _silent(nn.Linear(inner, 4 * block))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        features = self.network.features(x, state)  # [B, T, D]
        frames = self.transform.to_frames(x.mT + self.network.last(features))  # [B, T, hop]
        before, long_before, fit = self.prediction(frames.flatten(1), state)
        parts = [self.transform.from_frames(part) for part in (frames, before, long_before)]
        y = self.refine_first(torch.cat([features, *parts, fit], dim=-1))
        for unit in self.refine_units:
            y = unit(y, state)
        *gains, more = self.refine_last(self.refine_norm(y)).chunk(4, dim=-1)
        gains[0] = 1 + gains[0]
        mixed = more + sum(gain * part for gain, part in zip(gains, parts, strict=True))
        return self.transform.to_frames(mixed).flatten(1)[:, None]  # [B, 1, L]


class CompandedTransform(nn.Module):
    """Frames of samples [B, T, N] <-> their DCT-II coefficients under a power law [B, T, N]."""

    basis: Tensor  # [N, N], row k is the k-th cosine
    scale: Tensor  # [N] what a coefficient is divided by after the power law

    def __init__(self, block: int, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent
        n = torch.arange(block, dtype=torch.float64)
        basis = math.sqrt(2 / block) * torch.cos(math.pi / block * (n + 0.5) * n[:, None])
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("scale", torch.ones(block))

    def from_frames(self, frames: Tensor) -> Tensor:
        y: Tensor = _power(frames @ self.basis.to(frames.dtype).mT, self.exponent) / self.scale
        return y

    def to_frames(self, coefficients: Tensor) -> Tensor:
        """The inverse of `from_frames`."""
        return _power(coefficients * self.scale, 1 / self.exponent) @ self.basis.to(coefficients.dtype)

    def fit(self, frames: Tensor) -> None:
        """The scale of each coefficient is the root of its deviation: halfway between bits for the loud ones, which
        the error of the waveform wants, and bits for all alike. One factor for all brings the variance to 1."""
        flat = _power(frames @ self.basis.mT, self.exponent).flatten(0, 1)  # [B x T, N]
        scale = flat.std(dim=0).clamp(min=_QUIET).sqrt()
        self.scale.copy_(scale * (flat / scale).std())


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent, its slope bounded at zero."""
    return x * (x.square() + _QUIET**2).pow((exponent - 1) / 2)


def _silent(layer: nn.Linear) -> nn.Linear:
    """The layer with nothing to say at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class FrameNetwork(nn.Module):
    """[B, D, T] -> [B, D, T]: causal convolutions, a transformer and convolutions again, all at the frame rate."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        inner = config.transformer.width
        self.first = nn.Linear(width, inner)
        self.units_before = _units(config)
        self.transformer = Transformer(config.transformer)
        for name, scale in self.transformer.named_parameters():
            if name.endswith("_scale"):
                nn.init.constant_(scale, _LAYER_SCALE)
        self.units_after = _units(config)
        self.norm = nn.RMSNorm(inner, eps=1e-6)
        self.last = _silent(nn.Linear(inner, width))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y: Tensor = self.last(self.features(x, state))
        return y.mT  # [B, D, T]

    def features(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, D, T] -> [B, T, inner], what the last layer looks at."""
        x = self.first(x.mT)
        for unit in self.units_before:
            x = unit(x, state)
        x = self.transformer(x.mT, state).mT
        for unit in self.units_after:
            x = unit(x, state)
        y: Tensor = self.norm(x)
        return y


def _units(config: ModelConfig) -> nn.ModuleList:
    return nn.ModuleList(FrameUnit(config.transformer.width, config.kernel_size, d) for d in config.dilations)


class FrameUnit(nn.Module):
    """[B, T, D] -> [B, T, D]: a convolution within each channel, then a mix of all, beside the identity (Liu et al.
    2022, figure 4, with Snake)."""

    def __init__(self, width: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.n_past = (kernel_size - 1) * dilation
        self.convolution = nn.Conv1d(width, width, kernel_size, dilation=dilation, groups=width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 2 * width)
        self.activation = Snake(2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.convolution(prepend_past(self, x.mT, self.n_past, state)).mT
        y = self.contract(self.activation(self.expand(self.norm(y)).mT).mT)
        z: Tensor = x + self.scale * y
        return z
