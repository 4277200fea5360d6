"""Strided front: learned causal convolutions that change the rate, with a transformer at the frame rate."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from codecctl.config.model import ModelConfig, StridedConfig
from codecctl.model.causal import CausalConv1d, CausalConvTranspose1d, CausalSequential, StreamState, in_blocks
from codecctl.model.fronts.front import Front
from codecctl.model.snake import Snake
from codecctl.model.transformer import Transformer

_BLOCK_FRAMES = 50  # of a whole signal that go through the convolutions at once


class StridedEncoder(nn.Module):
    """[B, 1, T x hop] -> [B, D, T]"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front, width = cast(StridedConfig, config.front), config.transformer.width
        channels = front.base_channels
        self.hop_length = config.hop_length
        self.first = CausalConv1d(1, channels, front.kernel_size)
        self.blocks = CausalSequential()
        for stride in front.strides:
            self.blocks.append(EncoderBlock(channels, stride, front))
            channels *= 2
        self.activation = Snake(channels)
        self.last = CausalConv1d(channels, width, 3)
        self.transformer = Transformer(config.transformer)
        self.norm = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = in_blocks(self._convolve, x, state, _BLOCK_FRAMES * self.hop_length)
        return self.norm(self.transformer(x, state).mT).mT

    def _convolve(self, x: Tensor, state: StreamState | None) -> Tensor:
        return self.last(self.activation(self.blocks(self.first(x, state), state)), state)


class StridedDecoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop], the mirror of `StridedEncoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        front, width = cast(StridedConfig, config.front), config.transformer.width
        channels = front.base_channels * 2 ** len(front.strides)
        self.transformer = Transformer(config.transformer)
        self.first = CausalConv1d(width, channels, 3)
        self.blocks = CausalSequential()
        for stride in reversed(front.strides):
            self.blocks.append(DecoderBlock(channels, stride, front))
            channels //= 2
        self.activation = Snake(channels)
        self.last = CausalConv1d(channels, 1, front.kernel_size)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return in_blocks(self._convolve, self.transformer(x, state), state, _BLOCK_FRAMES)

    def _convolve(self, x: Tensor, state: StreamState | None) -> Tensor:
        x = self.activation(self.blocks(self.first(x, state), state))
        return self.last(x, state).tanh()


class EncoderBlock(nn.Module):
    """[B, C, L] -> [B, 2C, L / stride]"""

    def __init__(self, channels: int, stride: int, front: StridedConfig) -> None:
        super().__init__()
        self.units = _units(channels, front)
        self.activation = Snake(channels)
        self.downsample = CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.downsample(self.activation(self.units(x, state)), state)


class DecoderBlock(nn.Module):
    """[B, C, T] -> [B, C / 2, T x stride]"""

    def __init__(self, channels: int, stride: int, front: StridedConfig) -> None:
        super().__init__()
        self.activation = Snake(channels)
        self.upsample = CausalConvTranspose1d(channels, channels // 2, stride)
        self.units = _units(channels // 2, front)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.units(self.upsample(self.activation(x), state), state)


class ResidualUnit(nn.Module):
    """[B, C, L] -> [B, C, L], a dilated convolution and a 1 x 1 convolution beside the identity."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.first_activation = Snake(channels)
        self.dilated = CausalConv1d(channels, channels, kernel_size, dilation=dilation)
        self.second_activation = Snake(channels)
        self.mix = CausalConv1d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.dilated(self.first_activation(x), state)
        y = self.mix(self.second_activation(y), state)
        return x + y


def _units(channels: int, front: StridedConfig) -> CausalSequential:
    return CausalSequential(ResidualUnit(channels, front.kernel_size, dilation) for dilation in front.dilations)


FRONT = Front(StridedEncoder, StridedDecoder, peak=1.0, compiled=(ResidualUnit,))  # tanh
