"""Latents to samples: the encoder's mirror."""

from __future__ import annotations

from torch import Tensor, nn

from codecctl.config.schema import ModelConfig
from codecctl.model.causal import CausalConv1d, CausalConvTranspose1d, StreamState
from codecctl.model.encoder import ResidualUnit
from codecctl.model.snake import Snake
from codecctl.model.transformer import Transformer


class Decoder(nn.Module):
    """[B, D, T] -> [B, 1, T x hop]"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.output_tanh = config.output_tanh
        self.transformer = Transformer(config.transformer)
        channels = config.base_channels * 2 ** len(config.strides)
        self.first = CausalConv1d(config.transformer.width, channels, 3)
        self.blocks = nn.ModuleList()
        for stride in reversed(config.strides):
            self.blocks.append(DecoderBlock(channels, stride, config.kernel_size, config.dilations))
            channels //= 2
        self.activation = Snake(channels)
        self.last = CausalConv1d(channels, 1, config.kernel_size)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.transformer(x, state)
        x = self.first(x, state)
        for block in self.blocks:
            x = block(x, state)
        x = self.last(self.activation(x), state)
        return x.tanh() if self.output_tanh else x


class DecoderBlock(nn.Module):
    """[B, C, T] -> [B, C / 2, T x stride]"""

    def __init__(self, channels: int, stride: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.activation = Snake(channels)
        self.upsample = CausalConvTranspose1d(channels, channels // 2, stride)
        self.units = nn.ModuleList(ResidualUnit(channels // 2, kernel_size, dilation) for dilation in dilations)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.upsample(self.activation(x), state)
        for unit in self.units:
            x = unit(x, state)
        return x
