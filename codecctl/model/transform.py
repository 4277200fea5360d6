"""The front for small budgets: what mathematics gives for nothing, around which networks learn the rest.

A cosine transform of each frame alone, so the delay is one frame. 81 bits cannot carry 320 coefficients: the latents
are the lowest ones, under a power law that flattens their dynamics, and above them only the levels of bands; the
decoder fills the bands with noise of those levels. Networks on both sides add to all of it, and their last layers start
at zero: before the first step the codec is a parametric coder with fitted books, and every hour of training goes into
what a transform does not give, such as prediction across frames, harmonics in the upper bands and smooth edges.
"""

from __future__ import annotations

import itertools
import math

import torch
from einops import rearrange
from torch import Tensor, nn

from codecctl.config.schema import ModelConfig
from codecctl.model.causal import StreamState, prepend_past
from codecctl.model.pitch import LongTermPrediction
from codecctl.model.snake import Snake
from codecctl.model.transformer import Transformer

_QUIET = 1e-5  # a coefficient: far below one step of 16 bits, where the slope of a power law must stay finite
_PITCH_PERIODS = (0.002, 0.025)  # seconds: voices from 40 to 500 Hz
_LAYER_SCALE = 0.1  # of every branch: these networks are shallow, and their budget is small
_BAND_WEIGHT = 2.6  # of the bands' levels against the low coefficients, in the distance that the books keep small
_FORGOTTEN = 1e-8  # share of a level that is lost in the rounding of float32
_NOISE_LEVEL = 0.7  # of its band, -3 dB: a little too soft is heard less than a little too loud
_NOISE_FRAMES = 127  # after which the noise repeats itself


class TransformEncoder(nn.Module):
    """[B, 1, T x hop] -> [B, D, T]"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = CosineTransform(config.hop_length, config.compression)
        self.outline = Outline(config)
        self.network = FrameNetwork(config, config.hop_length, config.latent_width)
        self.changes = LevelChanges(config)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        coefficients = self.transform(self._frames(x))
        y: Tensor = self.outline(coefficients) + self.network(self.transform.compress(coefficients), state)
        if self.training:
            low, bands = y.tensor_split([self.outline.n_low], dim=-1)
            y = torch.cat([_of_fixed_scale(low), _of_fixed_scale(bands)], dim=-1)
        latents: Tensor = self.changes(y.mT, state)  # [B, D, T]
        return latents

    @torch.no_grad()
    def fit(self, audio: Tensor) -> None:
        """Scale coefficients and band levels of [B, 1, T x hop] to what the books and the networks like."""
        coefficients = self.transform(self._frames(audio)).flatten(0, 1)
        self.transform.fit(coefficients)
        self.outline.fit(coefficients)

    def shrink_low(self, factor: float) -> None:
        """Divide the low coefficients' latents by `factor`."""
        self.outline.low_scale *= factor
        self.network.last.weight[: self.outline.n_low] /= factor
        self.network.last.bias[: self.outline.n_low] /= factor

    def _frames(self, x: Tensor) -> Tensor:
        return rearrange(x, "b 1 (t n) -> b t n", n=self.transform.block)


class TransformDecoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop], in two passes: the second one has what the first decoded, one and two pitch periods
    before, and weighs all three in every coefficient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block, inner = config.hop_length, config.transformer.width
        self.transform = CosineTransform(block, config.compression)
        self.changes = LevelChanges(config)
        self.outline = Outline(config)
        self.noise = Noise(block)
        self.network = FrameNetwork(config, config.latent_width, 2 * block)
        self.prediction = LongTermPrediction(block, *(round(config.sample_rate * t) for t in _PITCH_PERIODS))
        self.refine_first = nn.Linear(inner + 3 * block + 1, inner)
        self.refine_units = _units(config)
        self.refine_norm = nn.RMSNorm(inner, eps=1e-6)
        self.refine_last = _silent(nn.Linear(inner, 4 * block))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        latents = self.changes.inverse(x, state).mT  # [B, T, D]
        filled = self.outline.inverse(latents, self.noise(latents, state))
        features = self.network.features(latents, state)  # [B, T, inner]
        gain, more = self.network.last(features).chunk(2, dim=-1)
        first = self.transform.expand((1 + gain) * self.transform.compress(filled) + more)
        before, long_before, fit = self.prediction(self.transform.inverse(first).flatten(1), state)
        parts = [first, self.transform(before), self.transform(long_before)]
        parts = [self.transform.compress(part) for part in parts]
        y = self.refine_first(torch.cat([features, *parts, fit], dim=-1))
        for unit in self.refine_units:
            y = unit(y, state)
        *gains, more = self.refine_last(self.refine_norm(y)).chunk(4, dim=-1)
        mixed = parts[0] + more + sum(gain * part for gain, part in zip(gains, parts, strict=True))
        return self.transform.inverse(self.transform.expand(mixed)).flatten(1)[:, None]  # [B, 1, L]

    def shrink_low(self, factor: float) -> None:
        """Expect the low coefficients' latents divided by `factor`."""
        self.outline.low_scale *= factor
        self.network.first.weight[:, : self.outline.n_low] *= factor

    def fit(self, encoder: TransformEncoder) -> None:
        """Take over what the encoder was fitted to."""
        self.transform.load_state_dict(encoder.transform.state_dict())
        self.outline.load_state_dict(encoder.outline.state_dict())


class CosineTransform(nn.Module):
    """Frames of samples [B, T, N] -> their orthonormal DCT-II coefficients [B, T, N], and those under a power law."""

    basis: Tensor  # [N, N], row k is the k-th cosine
    scale: Tensor  # [N] what a coefficient is divided by after the power law

    def __init__(self, block: int, exponent: float) -> None:
        super().__init__()
        self.block, self.exponent = block, exponent
        n = torch.arange(block, dtype=torch.float64)
        basis = math.sqrt(2 / block) * torch.cos(math.pi / block * (n + 0.5) * n[:, None])
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("scale", torch.ones(block))

    def forward(self, frames: Tensor) -> Tensor:
        return frames @ self.basis.to(frames.dtype).mT

    def inverse(self, coefficients: Tensor) -> Tensor:
        return coefficients @ self.basis.to(coefficients.dtype)

    def compress(self, coefficients: Tensor) -> Tensor:
        return _power(coefficients, self.exponent) / self.scale

    def expand(self, compressed: Tensor) -> Tensor:
        """The inverse of `compress`."""
        return _power(compressed * self.scale, 1 / self.exponent)

    def fit(self, coefficients: Tensor) -> None:
        """[N', N]: bring every compressed coefficient about to a variance of 1, the loud ones a little above."""
        compressed = _power(coefficients, self.exponent)
        scale = compressed.std(dim=0).clamp(min=_QUIET).sqrt()
        self.scale.copy_(scale * (compressed / scale).std())


class Outline(nn.Module):
    """Coefficients [B, T, N] -> latents [B, T, D]: the lowest coefficients under the power law, then the logarithms of
    the levels of bands above, whose edges are spaced evenly in logarithmic frequency.

    The bands may begin among the coefficients: where a voice is loud there its waveform is coded, and where it is not
    the books leave it out and the level alone remains.
    """

    bands: Tensor  # [n_bands, N] means over each band
    slopes: Tensor  # [n_bands, N] interpolates levels between the middles of bands
    low_scale: Tensor  # []
    band_mean: Tensor  # [n_bands]
    band_scale: Tensor  # []

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_low, self.exponent, block = config.low_coefficients, config.compression, config.hop_length
        self.first_band = self.n_low if config.first_band is None else config.first_band
        bands, slopes = _bands(self.first_band, block, config.high_bands)
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("low_scale", torch.ones(()))
        self.register_buffer("band_mean", torch.zeros(config.high_bands))
        self.register_buffer("band_scale", torch.ones(()))

    def forward(self, coefficients: Tensor) -> Tensor:
        low = _power(coefficients[..., : self.n_low], self.exponent) / self.low_scale
        return torch.cat([low, (self._levels(coefficients) - self.band_mean) / self.band_scale], dim=-1)

    def inverse(self, latents: Tensor, noise: Tensor) -> Tensor:
        """[B, T, D] and noise of unit variance [T, N] -> [B, T, N], in the bands noise of what their levels say beyond
        the low coefficients."""
        low = _power(latents[..., : self.n_low] * self.low_scale, 1 / self.exponent)
        levels = latents[..., self.n_low :] * self.band_scale + self.band_mean
        levels = (levels @ self.slopes.to(levels.dtype)).exp()
        alone, both = low.tensor_split([self.first_band], dim=-1)
        missing = (levels[..., self.first_band : self.n_low].square() - both.square()).clamp(min=_QUIET**2).sqrt()
        both = both + _NOISE_LEVEL * missing * noise[..., self.first_band : self.n_low]
        high = _NOISE_LEVEL * levels * noise
        return torch.cat([alone, both, high[..., self.n_low :]], dim=-1)

    def fit(self, coefficients: Tensor) -> None:
        """[N', N]: unit variance for the low coefficients in all, so that the books spend more on the louder ones."""
        self.low_scale.copy_(_power(coefficients[:, : self.n_low], self.exponent).std())
        levels = self._levels(coefficients)
        self.band_mean.copy_(levels.mean(dim=0))
        self.band_scale.copy_(levels.std() / _BAND_WEIGHT)

    def _levels(self, coefficients: Tensor) -> Tensor:
        """Logarithm of the root mean square of each band, down to -70 dB of full scale."""
        return 0.5 * torch.log(coefficients.square() @ self.bands.to(coefficients.dtype).mT + 1e-7)


class LevelChanges(nn.Module):
    """Latents [B, D, T] -> the same, from each band's level a share of the one before taken away; and back.

    Levels change slowly, and bits are better spent on what is new. Nothing of what the books chose is fed back, so the
    way back adds up their errors: with a share of about half the correlation, less than is saved (half-whitening,
    Jayant and Noll 1984, chapter 7).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_low, self.share = config.low_coefficients, config.level_prediction
        self.n_past = math.ceil(math.log(_FORGOTTEN) / math.log(self.share)) if self.share else 0

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        low, levels = x.tensor_split([self.n_low], dim=1)
        before = prepend_past(self, levels, 1, state)[..., :-1]
        return torch.cat([low, levels - self.share * before], dim=1)

    def inverse(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """A sum over the past that fades: a damaged frame is soon forgotten."""
        low, levels = x.tensor_split([self.n_low], dim=1)
        past = prepend_past(self, levels, self.n_past, state)
        fading = self.share ** torch.arange(self.n_past, -1, -1, device=x.device, dtype=x.dtype)
        return torch.cat([low, past.unfold(-1, self.n_past + 1, 1) @ fading], dim=1)


class Noise(nn.Module):
    """Noise of unit variance for each frame [T, N], always the same: a function of the frame's number in its stream."""

    rows: Tensor  # [_NOISE_FRAMES, N]

    def __init__(self, block: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.randn(_NOISE_FRAMES, block, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        first = 0
        if state is not None:
            first = int(state.past.get(self, torch.zeros(())))
            state.past[self] = torch.tensor((first + x.shape[1]) % len(self.rows))
        numbers = (first + torch.arange(x.shape[1], device=x.device)) % len(self.rows)
        return self.rows[numbers].to(x.dtype)


class FrameNetwork(nn.Module):
    """[B, T, D] -> [B, T, D']: causal convolutions, a transformer and convolutions again, all at the frame rate."""

    def __init__(self, config: ModelConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        inner = config.transformer.width
        self.first = nn.Linear(n_in, inner)
        self.units_before = _units(config)
        self.transformer = Transformer(config.transformer)
        for name, scale in self.transformer.named_parameters():
            if name.endswith("_scale"):
                nn.init.constant_(scale, _LAYER_SCALE)
        self.units_after = _units(config)
        self.norm = nn.RMSNorm(inner, eps=1e-6)
        self.last = _silent(nn.Linear(inner, n_out))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y: Tensor = self.last(self.features(x, state))
        return y

    def features(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, T, D] -> [B, T, inner], what the last layer looks at."""
        x = self.first(x)
        for unit in self.units_before:
            x = unit(x, state)
        x = self.transformer(x.mT, state).mT
        for unit in self.units_after:
            x = unit(x, state)
        y: Tensor = self.norm(x)
        return y


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


def _units(config: ModelConfig) -> nn.ModuleList:
    return nn.ModuleList(FrameUnit(config.transformer.width, config.kernel_size, d) for d in config.dilations)


def _bands(first: int, block: int, n_bands: int) -> tuple[Tensor, Tensor]:
    """Means over the bands from `first` on, and what interpolates between their middles, both [n_bands, N]."""
    edges = [first]
    for i in range(1, n_bands + 1):
        even = round(first * (block / first) ** (i / n_bands))
        edges.append(min(max(even, edges[-1] + 1), block - n_bands + i))
    bands, slopes = torch.zeros(2, n_bands, block)
    middles = [(low + high - 1) / 2 for low, high in itertools.pairwise(edges)]
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        bands[i, low:high] = 1 / (high - low)
    for k in range(block):
        above = sum(middle <= k for middle in middles)
        if above in (0, n_bands):
            slopes[max(above - 1, 0), k] = 1
        else:
            share = (k - middles[above - 1]) / (middles[above] - middles[above - 1])
            slopes[above - 1, k], slopes[above, k] = 1 - share, share
    return bands, slopes


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent, its slope bounded at zero."""
    return x * (x.square() + _QUIET**2).pow((exponent - 1) / 2)


def _of_fixed_scale(x: Tensor) -> Tensor:
    """x itself, with the gradient that dividing by its root mean square would have: none along x.

    Books shrink what they code, more so what they code coarsely, so every decoder asks its encoder for more of it; the
    books follow, and the low coefficients grow at the cost of the bands for as long as the encoder learns.
    """
    scale = (x.square().mean() + _QUIET**2).sqrt()
    return x * (scale.detach() / scale)


def _silent(layer: nn.Linear) -> nn.Linear:
    """The layer with nothing to say at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
