"""The L1 distance of feature maps as one operator, `codecctl::l1_means`, that keeps nothing but its inputs.

The maps of the discriminators are many times the audio. In plain torch their distance is ten kernels, forward and
backward, over float32 copies of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codecctl.model.snake import fastest


def l1_means(target: Tensor, x: Tensor) -> Tensor:
    """[B, ...] twice -> [2, B] in float32 or wider: means of |target - x| and of |target|, item by item. Only `x` gets
    a gradient, and only from the first."""
    if torch.compiler.is_compiling():
        return _means(target.flatten(1), x.flatten(1))
    means: Tensor = _operator(target, x)
    return means


def _rows(like: Tensor, *maps: Tensor) -> list[Tensor]:
    """Each map [B, ...] -> [B, N] in the order of `like` in memory, so that one kernel serves all of them.

    Not as views, from which the compiler would find the shapes of the maps: `data` shares the memory alone."""
    channels_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return [(m.permute(0, 2, 3, 1) if channels_last else m).flatten(1).data for m in maps]


def _means(target: Tensor, x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    target, x = target.detach().to(wide), x.to(wide)
    return torch.stack([(target - x).abs().mean(dim=1), target.abs().mean(dim=1)])


def _gradient(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    """Of `x` [B, N], from that of the first means [B]."""
    return (x - target).sign() * (gradient / x.shape[1]).to(x.dtype)[:, None]


@torch.library.custom_op("codecctl::l1_means", mutates_args=())
def _operator(target: Tensor, x: Tensor) -> Tensor:
    means: Tensor = fastest(_means, x)(*_rows(x, target, x))
    return means


@torch.library.custom_op("codecctl::l1_means_backward", mutates_args=())
def _operator_backward(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    x_gradient = torch.empty_like(x)
    (rows,) = _rows(x, x_gradient)
    rows.copy_(fastest(_gradient, x)(gradient, *_rows(x, target, x)))
    return x_gradient


@_operator.register_fake
def _(target: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(2, len(x), dtype=torch.promote_types(x.dtype, torch.float32))


@_operator_backward.register_fake
def _(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    x_gradient: Tensor = _operator_backward(gradient[0], *ctx.saved_tensors)
    return None, x_gradient


_operator.register_autograd(_backward, setup_context=_save_inputs)
