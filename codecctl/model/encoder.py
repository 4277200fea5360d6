"""Samples to latents: strided causal convolutions, then a transformer."""

from __future__ import annotations

from torch import Tensor, nn

from codecctl.config.schema import ModelConfig
from codecctl.model.causal import CausalConv1d, StreamState
from codecctl.model.snake import Snake
from codecctl.model.transformer import Transformer


class Encoder(nn.Module):
    """[B, 1, T x hop] -> [B, D, T]"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.base_channels
        self.first = CausalConv1d(1, channels, config.kernel_size)
        self.blocks = nn.ModuleList()
        for stride in config.strides:
            self.blocks.append(EncoderBlock(channels, stride, config.kernel_size, config.dilations))
            channels *= 2
        self.activation = Snake(channels)
        self.last = CausalConv1d(channels, config.transformer.width, 3)
        self.transformer = Transformer(config.transformer)
        self.norm = nn.RMSNorm(config.transformer.width, eps=1e-6, elementwise_affine=False)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.first(x, state)
        for block in self.blocks:
            x = block(x, state)
        x = self.transformer(self.last(self.activation(x), state), state)
        latents: Tensor = self.norm(x.mT).mT
        return latents


class EncoderBlock(nn.Module):
    """[B, C, L] -> [B, 2C, L / stride]"""

    def __init__(self, channels: int, stride: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(channels, kernel_size, dilation) for dilation in dilations)
        self.activation = Snake(channels)
        self.downsample = CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        for unit in self.units:
            x = unit(x, state)
        y: Tensor = self.downsample(self.activation(x), state)
        return y


class ResidualUnit(nn.Module):
    """[B, C, L] -> [B, C, L], a dilated convolution and a mix of channels beside the identity."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.first_activation = Snake(channels)
        self.dilated = CausalConv1d(channels, channels, kernel_size, dilation=dilation)
        self.second_activation = Snake(channels)
        self.mix = CausalConv1d(channels, channels, 1)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y: Tensor = self.dilated(self.first_activation(x), state)
        y = self.mix(self.second_activation(y), state)
        return x + y
