"""Transform coding without learned weights: a cosine transform, band levels, their prediction, and noise."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from codecctl.config.model import TransformConfig
from codecctl.model.causal import StreamState, prepend_past

_COMPRESSION = 0.7  # exponent of the power law
_QUIET = 1e-5  # a coefficient far below one step of 16 bits: the slope of the power law must stay finite at zero
_LEVEL_WEIGHT = 2.6  # of the band levels against the low coefficients, in the distance that the codebooks minimise
_NEGLIGIBLE = 1e-8  # share of a level that is lost in the rounding of float32
_NOISE_GAIN = 0.7  # -3 dB: noise that is a little too soft disturbs less than noise that is a little too loud
_NOISE_FRAMES = 127  # after which the noise repeats


class CosineTransform(nn.Module):
    """Frames of samples [B, T, N] -> their orthonormal DCT-II coefficients [B, T, N], and those under a power law."""

    basis: Tensor  # [N, N], row k is the k-th cosine
    scale: Tensor  # [N] what a coefficient is divided by after the power law

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("basis", table((n, n), _cosines, n), persistent=False)
        self.register_buffer("scale", torch.ones(n))

    def forward(self, frames: Tensor) -> Tensor:
        return frames @ self.basis.to(frames.dtype).mT

    def inverse(self, coefficients: Tensor) -> Tensor:
        return coefficients @ self.basis.to(coefficients.dtype)

    def compress(self, coefficients: Tensor) -> Tensor:
        return _power(coefficients, _COMPRESSION) / self.scale

    def expand(self, compressed: Tensor) -> Tensor:
        """The inverse of `compress`."""
        return expand(compressed * self.scale)

    def fit(self, coefficients: Tensor) -> None:
        """[M, N]: scale every compressed coefficient to a variance near 1, loud ones a little above."""
        compressed = _power(coefficients, _COMPRESSION)
        scale = compressed.std(dim=0).clamp(min=_QUIET).sqrt()
        self.scale.copy_(scale * (compressed / scale).std())


class ParametricCoder(nn.Module):
    """Coefficients [B, T, N] -> latents [B, T, D]: the lowest coefficients under the power law, then the logarithms of
    the levels of bands above, whose edges are spaced evenly in logarithmic frequency.

    The bands may begin among the low coefficients. There the waveform is coded where it is loud; where the codebooks
    code nothing of it, the level remains.
    """

    band_means: Tensor  # [n_bands, N] means over each band
    interpolation: Tensor  # [n_bands, N] of levels between the centres of bands
    has_noise: Tensor  # [N] 1 where a band covers the coefficient
    low_scale: Tensor  # []
    level_mean: Tensor  # [n_bands]
    level_scale: Tensor  # []

    def __init__(self, config: TransformConfig) -> None:
        super().__init__()
        self.n_low = config.low_coefficients
        first, n, n_bands = config.first_band, config.hop_length, config.high_bands
        self.register_buffer("band_means", table((n_bands, n), _band_means, first, n, n_bands), persistent=False)
        self.register_buffer("interpolation", table((n_bands, n), _interpolation, first, n, n_bands), persistent=False)
        self.register_buffer("has_noise", table((n,), _from_on, first, n), persistent=False)
        self.register_buffer("low_scale", torch.ones(()))
        self.register_buffer("level_mean", torch.zeros(config.high_bands))
        self.register_buffer("level_scale", torch.ones(()))

    def forward(self, coefficients: Tensor) -> Tensor:
        low = _power(coefficients[..., : self.n_low], _COMPRESSION) / self.low_scale
        return torch.cat([low, (self._levels(coefficients) - self.level_mean) / self.level_scale], dim=-1)

    def inverse(self, latents: Tensor, noise: Tensor) -> Tensor:
        """[B, T, D] and noise of unit variance [T, N] -> [B, T, N]: the low coefficients, and in each band noise of the
        level that they leave over."""
        low, levels = latents.tensor_split([self.n_low], dim=-1)
        low = expand(low * self.low_scale)
        levels = ((levels * self.level_scale + self.level_mean) @ self.interpolation.to(levels.dtype)).exp()
        coded = nn.functional.pad(low, (0, levels.shape[-1] - self.n_low))  # [B, T, N]
        missing = (levels.square() - coded.square()).clamp(min=_QUIET**2).sqrt()
        return coded + _NOISE_GAIN * missing * noise * self.has_noise.to(levels.dtype)

    def fit(self, coefficients: Tensor) -> None:
        """[M, N]: unit variance of all low coefficients together, so that the codebooks spend more on louder ones."""
        self.low_scale.copy_(_power(coefficients[:, : self.n_low], _COMPRESSION).std())
        levels = self._levels(coefficients)
        self.level_mean.copy_(levels.mean(dim=0))
        self.level_scale.copy_(levels.std() / _LEVEL_WEIGHT)

    def _levels(self, coefficients: Tensor) -> Tensor:
        """Logarithm of the root mean square of each band, down to -70 dB of full scale."""
        return 0.5 * torch.log(coefficients.square() @ self.band_means.to(coefficients.dtype).mT + 1e-7)


class LevelPrediction(nn.Module):
    """Latents [B, D, T] -> the same, with a share of the previous frame's level subtracted from each band level.

    Levels change slowly, so the difference costs fewer bits. The prediction is open-loop (it does not use what the
    codebooks chose), so `inverse` accumulates their errors: with a share of about half the correlation it accumulates
    less than is saved (half-whitening, Jayant and Noll 1984, chapter 7).
    """

    def __init__(self, config: TransformConfig) -> None:
        super().__init__()
        self.n_low, self.share = config.low_coefficients, config.level_prediction
        self.n_past = math.ceil(math.log(_NEGLIGIBLE) / math.log(self.share)) if self.share else 0

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        low, levels = x.tensor_split([self.n_low], dim=1)
        before = prepend_past(self, levels, 1, state)[..., :-1]
        return torch.cat([low, levels - self.share * before], dim=1)

    def inverse(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """A decaying sum over the past: the effect of a damaged frame fades."""
        low, levels = x.tensor_split([self.n_low], dim=1)
        past = prepend_past(self, levels, self.n_past, state)
        decay = self.share ** torch.arange(self.n_past, -1, -1, device=x.device, dtype=x.dtype)
        return torch.cat([low, past.unfold(-1, self.n_past + 1, 1) @ decay], dim=1)


class Noise(nn.Module):
    """Noise of unit variance [T, N], always the same: a function of the frame's number in its stream."""

    rows: Tensor  # [_NOISE_FRAMES, N]

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("rows", table((_NOISE_FRAMES, n), _noise, n))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """For frames [B, T, D] -> [T, N], in a stream [B, T, N]."""
        numbers = torch.arange(x.shape[1], device=x.device)
        if state is not None:
            first = state.past.get(self, numbers.new_zeros(len(x)))
            state.past[self] = (first + x.shape[1]) % len(self.rows)
            numbers = first[:, None] + numbers
        return self.rows[numbers % len(self.rows)].to(x.dtype)


def with_fixed_scale(x: Tensor) -> Tensor:
    """x itself, with the gradient of x divided by its root mean square: no gradient along x.

    Codebooks shrink what they code, the more so the coarser they code it, so a decoder's gradient asks the encoder for
    larger latents; the codebooks follow, and the low coefficients grow at the expense of the bands for as long as the
    encoder learns.
    """
    scale = (x.square().mean() + _QUIET**2).sqrt()
    return x * (scale.detach() / scale)


def table(shape: tuple[int, ...], make: Callable[..., Tensor], *sizes: int) -> Tensor:
    """A table, computed on the CPU. On the meta device, where only shapes are compared, nothing is computed: that would
    take the table's memory, and there torch imports its compiler for arithmetic."""
    device = torch.get_default_device()
    if device.type == "meta":
        return torch.empty(shape)
    with torch.device("cpu"):
        return make(*sizes).to(device)


def _cosines(n: int) -> Tensor:
    """[N, N], row k is the k-th cosine of the orthonormal DCT-II."""
    place = torch.arange(n, dtype=torch.float64)
    basis = math.sqrt(2 / n) * torch.cos(math.pi / n * (place + 0.5) * place[:, None])
    basis[0] /= math.sqrt(2)
    return basis.float()


def _band_edges(first: int, n: int, n_bands: int) -> list[tuple[int, int]]:
    """First coefficient of each band from `first` on, and the one after its last."""
    edges = [first]
    for i in range(1, n_bands + 1):
        even = round(first * (n / first) ** (i / n_bands))
        edges.append(min(max(even, edges[-1] + 1), n - n_bands + i))
    return list(itertools.pairwise(edges))


def _band_means(first: int, n: int, n_bands: int) -> Tensor:
    """[n_bands, N]: the mean over each band."""
    means = torch.zeros(n_bands, n)
    for i, (low, high) in enumerate(_band_edges(first, n, n_bands)):
        means[i, low:high] = 1 / (high - low)
    return means


def _interpolation(first: int, n: int, n_bands: int) -> Tensor:
    """[n_bands, N]: linear interpolation between the centres of the bands, constant beyond the outer ones."""
    weights = torch.zeros(n_bands, n)
    centres = [(low + high - 1) / 2 for low, high in _band_edges(first, n, n_bands)]
    for k in range(n):
        above = bisect.bisect_right(centres, k)
        if above in (0, n_bands):
            weights[max(above - 1, 0), k] = 1
        else:
            share = (k - centres[above - 1]) / (centres[above] - centres[above - 1])
            weights[above - 1, k], weights[above, k] = 1 - share, share
    return weights


def _noise(n: int) -> Tensor:
    """[_NOISE_FRAMES, N]"""
    return torch.randn(_NOISE_FRAMES, n, generator=torch.Generator().manual_seed(0))


def _from_on(first: int, n: int) -> Tensor:
    """[N]: 0 before `first`, then 1."""
    return (torch.arange(n) >= first).float()


def expand(compressed: Tensor) -> Tensor:
    """The inverse of the power law of coefficients, but for their scale."""
    return _power(compressed, 1 / _COMPRESSION)


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent, its slope bounded at zero."""
    return x * (x.square() + _QUIET**2).pow((exponent - 1) / 2)
