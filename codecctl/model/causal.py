"""Causal convolutions whose whole-signal pass and chunk-by-chunk pass are one piece of code.

A layer that looks back prepends its past: zeros at the start of a signal, the end of the last chunk within a stream.
The past lives in a `StreamState` that the caller owns, so one model serves any number of streams at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class StreamState:
    """What a causal network remembers between two chunks of one stream. A new one stands at the stream's start;
    the layers write into it. One state serves one network (encode or decode) and one batch size."""

    def __init__(self) -> None:
        self.past: dict[nn.Module, Tensor] = {}


class CausalConv1d(nn.Module):
    """[B, C, L] -> [B, C', L / stride]: output t sees the input up to sample (t + 1) x stride - 1, and not beyond."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.n_past = (kernel_size - 1) * dilation + 1 - stride
        self.conv = weight_norm(nn.Conv1d(n_in, n_out, kernel_size, stride, dilation=dilation))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y: Tensor = self.conv(prepend_past(self, x, self.n_past, state))
        return y


class CausalConvTranspose1d(nn.Module):
    """[B, C, T] -> [B, C', T x stride]: each output sample sees its own frame and the one before."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = weight_norm(nn.ConvTranspose1d(n_in, n_out, 2 * stride, stride))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.conv(prepend_past(self, x, 1, state))  # [B, C', (T + 2) x stride]
        # The first `stride` samples belong to the past frame and went out with it; the last still lack the next frame.
        return x[..., self.stride : -self.stride]


def prepend_past(layer: nn.Module, x: Tensor, n_past: int, state: StreamState | None) -> Tensor:
    """[B, C, L] -> [B, C, n_past + L], and `layer`'s past in `state` moves on to the end of `x`."""
    past = state.past.get(layer) if state is not None else None
    x = F.pad(x, (n_past, 0)) if past is None else torch.cat([past, x], dim=-1)
    if state is not None:
        state.past[layer] = x[..., x.shape[-1] - n_past :].clone()  # a view would keep the whole chunk alive
    return x
