"""Snake's operator on CUDA: a Triton kernel for each pass.

What `torch.compile` makes of the formulas for any shape divides to find each element's channel, and took 4 to 9 times
as long on an H200 as its memory needs to move the activations: 78 of the 358 ms of a production step.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from codecctl.model.snake import TINY, gradient_formula, snake_backward_operator, snake_formula, snake_operator

_TILE = 2048  # activations that a program computes
_NARROW = 64  # channels of a tile where they are next to each other in memory
_TYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _sine_and_cosine(angle):
    """Of float32 angles, both with the sign of the cosine of the next multiple of pi: right in products of two of them.

    Within 3e-7 up to angles of 1e4. The functions of the CUDA library, made for all angles, would take longer than the
    memory.
    """
    n = tl.floor(angle * 0.3183098861837907 + 0.5)
    # pi in three parts, of which the first two have few digits: their multiples are exact.
    r = angle - n * 3.140625 - n * 0.0009675025939941406 - n * 1.5099580252808664e-07  # within half of pi
    s = r * r
    # Polynomials of the least largest error there.
    sine = r * (1 + s * (-0.16666657 + s * (0.008333017 + s * (-0.00019806615 + s * 2.6000542e-06))))
    cosine = 1 + s * (-0.49999932 + s * (0.04166399 + s * (-0.0013855927 + s * 2.3194382e-05)))
    return sine, cosine


@triton.jit
def _tile(
    x, alpha, n_channels, n_samples, x_item, x_channel, x_sample, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr
):  # fmt: skip
    """What a program computes, of programs (tiles of samples, tiles of channels, items): the number of its item, its
    channels [CHANNELS, 1] and samples [1, SAMPLES], which of both exist, and alpha and x there in float32."""
    item = tl.program_id(2).to(tl.int64)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[:, None]
    samples = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)[None, :]
    exists = (channels < n_channels) & (samples < n_samples)
    a = tl.load(alpha + channels, channels < n_channels, other=1.0).to(tl.float32)
    v = tl.load(x + item * x_item + channels * x_channel + samples * x_sample, exists, other=0.0).to(tl.float32)
    return item, channels, samples, exists, a, v


@triton.jit
def _forward(
    x, alpha, y, n_channels, n_samples, x_item, x_channel, x_sample, y_item, y_channel, y_sample,
    TINY: tl.constexpr, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    item, channels, samples, exists, a, v = _tile(
        x, alpha, n_channels, n_samples, x_item, x_channel, x_sample, CHANNELS, SAMPLES
    )
    sine, _ = _sine_and_cosine(a * v)
    result = v + sine * sine / (a + TINY)
    tl.store(y + item * y_item + channels * y_channel + samples * y_sample, result, exists)


@triton.jit
def _backward(
    gradient, x, alpha, x_gradient, alpha_parts, n_channels, n_samples, n_tiles,
    g_item, g_channel, g_sample, x_item, x_channel, x_sample, y_item, y_channel, y_sample,
    TINY: tl.constexpr, CHANNELS: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """`alpha_parts` [items, tiles of samples, channels] gets the gradient of alpha from each tile."""
    item, channels, samples, exists, a, v = _tile(
        x, alpha, n_channels, n_samples, x_item, x_channel, x_sample, CHANNELS, SAMPLES
    )
    g = tl.load(gradient + item * g_item + channels * g_channel + samples * g_sample, exists, other=0.0).to(tl.float32)
    sine, cosine = _sine_and_cosine(a * v)
    per_divisor = 1 / (a + TINY)
    slope = g * sine * cosine
    result = g + 2 * a * per_divisor * slope
    tl.store(x_gradient + item * y_item + channels * y_channel + samples * y_sample, result, exists)
    part = tl.sum(2 * slope * v - g * sine * sine * per_divisor, axis=1, keep_dims=True) * per_divisor
    place = (item * n_tiles + tl.program_id(0)) * n_channels + channels
    tl.store(alpha_parts + place, part, channels < n_channels)


@cache
def use_snake_kernels() -> None:
    """From now on, in this process."""
    snake_operator.register_kernel("cuda")(snake)
    snake_backward_operator.register_kernel("cuda")(snake_backward)


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """Snake of [B, C, L] in any layout; of another shape or in float64 by the formula."""
    if not _is_for_kernels(x):
        return snake_formula(x, alpha)
    y = torch.empty_like(x)
    channels, samples, grid = _tiles(x)
    sizes = (*x.shape[1:], *x.stride(), *y.stride())
    _forward[grid](x, alpha.contiguous(), y, *sizes, TINY=TINY, CHANNELS=channels, SAMPLES=samples)
    return y


def snake_backward(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and alpha, the latter summed in a fixed order."""
    if not _is_for_kernels(x):
        return gradient_formula(gradient, x, alpha)
    x_gradient = torch.empty_like(x)
    channels, samples, grid = _tiles(x)
    parts = torch.empty(len(x), grid[0], x.shape[1], dtype=torch.float32, device=x.device)
    sizes = (*x.shape[1:], grid[0], *gradient.stride(), *x.stride(), *x_gradient.stride())
    tensors = (gradient, x, alpha.contiguous(), x_gradient, parts)
    _backward[grid](*tensors, *sizes, TINY=TINY, CHANNELS=channels, SAMPLES=samples)
    return x_gradient, parts.sum(dim=(0, 1)).reshape(alpha.shape).to(alpha.dtype)


def _is_for_kernels(x: Tensor) -> bool:
    return x.dim() == 3 and x.dtype in _TYPES


def _tiles(x: Tensor) -> tuple[int, int, tuple[int, int, int]]:
    """Channels and samples of a tile, long in the direction in which memory runs, and the programs."""
    n_items, n_channels, n_samples = x.shape
    channels = min(_NARROW, triton.next_power_of_2(n_channels)) if x.stride(1) == 1 != x.stride(2) else 1
    samples = min(_TILE // channels, triton.next_power_of_2(n_samples))
    return channels, samples, (triton.cdiv(n_samples, samples), triton.cdiv(n_channels, channels), n_items)
