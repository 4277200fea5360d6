"""Causal convolutions whose whole-signal pass and chunk-by-chunk pass are one piece of code.

A layer that looks back prepends its past: zeros at the start of a signal, the end of the last chunk within a stream.
The past lives in a `StreamState` that the caller owns, so one model serves any number of streams at once.

A chunk of a few frames is convolved as a matrix product, with one row for each output sample: at these sizes the
convolutions of torch are two to six times slower.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_LARGEST_PRODUCT = 2**19  # values of its rows; beyond that writing them costs more than the convolution saves


class StreamState:
    """What a causal network remembers between two chunks of one stream. A new one stands at the stream's start;
    the layers write into it. One state serves one network (encode or decode) and one batch size.

    `past` has a tensor with the batch first for each layer that looks back; zeros stand for the start of a stream.
    """

    def __init__(self) -> None:
        self.past: dict[nn.Module, Tensor] = {}

    def reset(self, item: int) -> None:
        """A new stream starts in this item of the batch."""
        for past in self.past.values():
            past[item] = 0


class CausalSequential(nn.ModuleList):
    """Layers of `forward(x, state)`, each of which gets the output of the one before and the same stream state."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        for layer in self:
            x = layer(x, state)
        return x


class CausalConv1d(nn.Module):
    """[B, C, L] -> [B, C', L / stride]: output t sees the input up to sample (t + 1) x stride - 1, and not beyond."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.n_past = (kernel_size - 1) * dilation + 1 - stride
        self.conv = weight_norm(nn.Conv1d(n_in, n_out, kernel_size, stride, dilation=dilation))
        self.product: nn.Module | None = None  # of `matrix`, in another arithmetic
        self.short_product: nn.Module | None = None  # of `matrix` and a few frames

    @property
    def matrix(self) -> Tensor:
        """[C', k x C], of the product with one row for each output sample."""
        return self.conv.weight.mT.flatten(1)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        n_out = x.shape[-1] // self.stride
        x = prepend_past(self, x, self.n_past, state)
        kernel_size = self.n_past + self.stride  # in samples of the input, gaps included
        is_long = n_out * x.shape[1] * self.conv.kernel_size[0] > _LARGEST_PRODUCT
        if state is None or (is_long and self.product is None):
            return self.conv(x)
        rows = x.mT
        if kernel_size > 1:
            taps = rows.contiguous().unfold(1, kernel_size, self.stride)[..., :: self.dilation].mT  # [B, L', k, C]
            rows = taps.flatten(2)
        product = self.product or self.short_product
        y = F.linear(rows, self.matrix, self.conv.bias) if product is None else product(rows, self.conv.bias)
        return y.mT


class CausalConvTranspose1d(nn.Module):
    """[B, C, T] -> [B, C', T x stride]: each output sample sees its own frame and the one before."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = weight_norm(nn.ConvTranspose1d(n_in, n_out, 2 * stride, stride))
        self.product: nn.Module | None = None  # of `matrix`, in another arithmetic
        self.short_product: nn.Module | None = None  # of `matrix` and a few frames

    @property
    def matrix(self) -> Tensor:
        """[2 x stride x C', C], of the product with one row for each input sample."""
        return self.conv.weight.mT.flatten(1).mT

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = prepend_past(self, x, 1, state)
        is_long = x.shape[-1] * len(self.conv.weight[0]) * 2 * self.stride > _LARGEST_PRODUCT
        if state is None or (is_long and self.product is None):
            x = self.conv(x)  # [B, C', (T + 2) x stride]
            # The first `stride` samples belong to the past frame and went out with it; the last still lack the next
            # frame.
            return x[..., self.stride : -self.stride]
        product = self.product or self.short_product
        spread = F.linear(x.mT, self.matrix) if product is None else product(x.mT)
        spread = spread.unflatten(-1, (2, self.stride, -1))  # [B, T + 1, 2, s, C']
        assert self.conv.bias is not None
        return (spread[:, 1:, 0] + spread[:, :-1, 1] + self.conv.bias).flatten(1, 2).mT


def prepend_past(layer: nn.Module, x: Tensor, n_past: int, state: StreamState | None) -> Tensor:
    """[B, C, L] -> [B, C, n_past + L], and `layer`'s past in `state` moves on to the end of `x`."""
    if not n_past:
        return x
    past = state.past.get(layer) if state is not None else None
    if past is None:
        x = F.pad(x, (n_past, 0))
    elif x.stride(1) == 1:  # as the matrix products leave it
        x = torch.cat([past.mT, x.mT], dim=1).mT
    else:
        x = torch.cat([past, x], dim=-1)
    if state is not None:
        past = x[..., -n_past:]
        state.past[layer] = past.clone() if x.shape[-1] > 2 * n_past else past  # a view of a long chunk keeps it alive
    return x


def in_blocks(
    run: Callable[[Tensor, StreamState | None], Tensor], x: Tensor, state: StreamState | None, size: int
) -> Tensor:
    """`run(x, state)` of causal layers for [B, C, L]. On the CPU, where no gradient is needed, a whole signal goes
    through in blocks [B, C, `size`]: their activations stay in the processor's cache."""
    is_plain = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if state is not None or not is_plain or x.shape[-1] <= size:
        return run(x, state)
    state = StreamState()
    return torch.cat([run(block, state) for block in torch.split(x, size, dim=-1)], dim=-1)


def with_channels_last(weight: Tensor) -> Tensor:
    """[N, M, k], the same values, in memory in the order N, k, M: the matrix of the product is then a view of it."""
    return weight.mT.contiguous().mT
