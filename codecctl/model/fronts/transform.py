"""Transform front: a cosine-transform codec with learned corrections, for small training budgets.

Each frame is transformed alone, so the delay is one frame. 81 bits cannot carry 320 coefficients: the latents are the
lowest coefficients, under a power law that reduces their dynamic range, and the levels of bands above them; the decoder
fills the bands with noise of those levels. Networks on both sides add corrections, and their last layers start at zero:
before the first step the codec is a parametric coder with fitted codebooks, and training is spent on what a transform
lacks, such as prediction across frames, harmonics in the upper bands and smooth frame edges.

Both sides compute in float32 under autocast: a transform in bfloat16 would add noise 50 dB below the signal.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from codecctl.config.model import ModelConfig, TransformConfig
from codecctl.model.causal import StreamState, prepend_past
from codecctl.model.cosine import CosineTransform, LevelPrediction, Noise, ParametricCoder, with_fixed_scale
from codecctl.model.fronts.front import Front
from codecctl.model.pitch import LongTermPrediction
from codecctl.model.snake import Snake
from codecctl.model.transformer import Transformer

_PITCH_PERIODS = (0.002, 0.025)  # seconds: voices from 40 to 500 Hz
_LAYER_SCALE = 0.1  # of every residual branch: these networks are shallow and trained briefly
_FEW_FRAMES = 4  # of a stream; the convolution of torch takes five times as long as the arithmetic then
_KERNEL_SIZE = 5  # frames


class TransformEncoder(nn.Module):
    """[B, 1, T x hop] -> [B, D, T]"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front = cast(TransformConfig, config.front)
        self.transform = CosineTransform(front.hop_length)
        self.coder = ParametricCoder(front)
        self.network = FrameNetwork(config, front.hop_length, config.latent_width)
        self.level_prediction = LevelPrediction(front)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            coefficients = self.transform(self._frames(x))
            y = self.coder(coefficients) + self.network(self.transform.compress(coefficients), state)
            if self.training:
                low, levels = y.tensor_split([self.coder.n_low], dim=-1)
                y = torch.cat([with_fixed_scale(low), with_fixed_scale(levels)], dim=-1)
            return self.level_prediction(y.mT, state)  # [B, D, T]

    @torch.no_grad()
    def fit(self, audio: Tensor) -> None:
        """Scale coefficients and band levels to those of [B, 1, T x hop]."""
        coefficients = self.transform(self._frames(audio)).flatten(0, 1)
        self.transform.fit(coefficients)
        self.coder.fit(coefficients)

    def _frames(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, len(self.transform.scale))  # [B, T, N]


class TransformDecoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop] in two passes: the second mixes, in every coefficient, what the first one decoded
    with the same one and two pitch periods before."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front = cast(TransformConfig, config.front)
        n = front.hop_length
        self.transform = CosineTransform(n)
        self.level_prediction = LevelPrediction(front)
        self.coder = ParametricCoder(front)
        self.noise = Noise(n)
        self.network = FrameNetwork(config, config.latent_width, 2 * n)
        self.pitch_prediction = LongTermPrediction(n, *(round(config.sample_rate * t) for t in _PITCH_PERIODS))
        self.mixer = Mixer(config.transformer.width, n)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.decode(self.latents(x, state), state)

    def latents(self, x: Tensor, state: StreamState | None) -> Tensor:
        """[B, D, T] -> the same, with levels that are not predicted."""
        with torch.autocast(x.device.type, enabled=False):
            return self.level_prediction.inverse(x, state)

    def decode(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        """Latents [B, D, T] whose levels are not predicted -> [B, 1, T x hop]."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.mT  # [B, T, D]
            features = self.network.features(latents, state)  # [B, T, inner]
            first = self.first_pass(latents, features, state)
            coefficients = self.second_pass(first, features, state)
            return self.transform.inverse(coefficients).flatten(1)[:, None]  # [B, 1, L]

    def first_pass(self, latents: Tensor, features: Tensor, state: StreamState | None) -> Tensor:
        """[B, T, D], [B, T, inner] -> coefficients [B, T, N]: the parametric coder's, corrected by the network."""
        filled = self.coder.inverse(latents, self.noise(latents, state))
        gain, offset = self.network.last(features).chunk(2, dim=-1)
        return self.transform.expand((1 + gain) * self.transform.compress(filled) + offset)

    def second_pass(self, first: Tensor, features: Tensor, state: StreamState | None) -> Tensor:
        """Coefficients of the first pass -> those of the second, both [B, T, N]."""
        before, long_before, fit = self.pitch_prediction(self.transform.inverse(first).flatten(1), state)
        sources = [first, self.transform(before), self.transform(long_before)]
        mixed = self.mixer([self.transform.compress(source) for source in sources], features, fit, state)
        return self.transform.expand(mixed)


class Mixer(nn.Module):
    """Three sources of compressed coefficients, [B, T, N] each -> the first, plus the network's gain for each source
    times that source, plus its offset."""

    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.first = nn.Linear(width + 3 * n + 1, width)
        self.unit = FrameUnit(width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.last = _zero_initialised(nn.Linear(width, 4 * n))

    def forward(self, sources: list[Tensor], features: Tensor, fit: Tensor, state: StreamState | None) -> Tensor:
        """`features` [B, T, inner]; `fit` [B, T, 1] says how far the pitch prediction can be trusted."""
        y = self.unit(self.first(torch.cat([features, *sources, fit], dim=-1)), state)
        *gains, offset = self.last(self.norm(y)).chunk(4, dim=-1)
        return sources[0] + offset + sum(gain * source for gain, source in zip(gains, sources, strict=True))


class FrameNetwork(nn.Module):
    """[B, T, D] -> [B, T, D']: a causal convolution, a transformer and a convolution again, all at the frame rate."""

    def __init__(self, config: ModelConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        width = config.transformer.width
        self.first = nn.Linear(n_in, width)
        self.unit_before = FrameUnit(width)
        self.transformer = Transformer(config.transformer, _LAYER_SCALE)
        self.unit_after = FrameUnit(width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.last = _zero_initialised(nn.Linear(width, n_out))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.last(self.features(x, state))

    def features(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, T, D] -> [B, T, inner], the input of the last layer."""
        x = self.unit_before(self.first(x), state)
        x = self.transformer(x.mT, state).mT
        return self.norm(self.unit_after(x, state))


class FrameUnit(nn.Module):
    """[B, T, D] -> [B, T, D]: a convolution within each channel, then a mix of all, beside the identity (Liu et al.
    2022, figure 4, with Snake)."""

    def __init__(self, width: int, kernel_size: int = _KERNEL_SIZE, expansion: int = 2) -> None:
        super().__init__()
        self.n_past = kernel_size - 1
        self.convolution = nn.Conv1d(width, width, kernel_size, groups=width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, expansion * width)
        self.activation = Snake(expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = prepend_past(self, x.mT, self.n_past, state)  # [B, D, past + T]
        if state is None or x.shape[1] > _FEW_FRAMES:
            y = self.convolution(y)
        else:
            taps = y.unfold(-1, self.n_past + 1, 1) * self.convolution.weight  # [B, D, T, k]
            y = taps.sum(dim=-1) + self.convolution.get_parameter("bias")[:, None]
        y = y.mT
        y = self.norm(y.to(self.norm.weight.dtype))  # under autocast the fused norm takes no half-precision input
        y = self.contract(self.activation(self.expand(y).mT).mT)
        return x + self.scale * y


def _zero_initialised(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _fit(encoder: nn.Module, decoder: nn.Module, audio: Tensor) -> None:
    encoder, decoder = cast(TransformEncoder, encoder), cast(TransformDecoder, decoder)
    encoder.fit(audio)
    decoder.transform.load_state_dict(encoder.transform.state_dict())
    decoder.coder.load_state_dict(encoder.coder.state_dict())


FRONT = Front(
    TransformEncoder,
    TransformDecoder,
    fit=_fit,
    compiled=(FrameUnit,),
    precise_weights=(
        "encoder.network.last.weight",
        "decoder.network.last.weight",
        "decoder.mixer.first.weight",
        "decoder.mixer.last.weight",
    ),
)
