"""The L1 distance of feature maps as one operator, `codecctl::l1_sums`, that keeps nothing but its inputs.

The maps of the discriminators are many times the audio. In plain torch their distance is ten kernels, forward and
backward, over float32 copies of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codecctl.model.snake import fastest


def l1_sums(target: Tensor, x: Tensor) -> Tensor:
    """[B, ...] twice -> [2, B] in float32 or wider: sums of |target - x| and of |target|, item by item. Only `x` gets
    a gradient, and only from the first."""
    if torch.compiler.is_compiling():
        return _sums(target, x)
    sums: Tensor = _operator(target, x)
    return sums


def _sums(target: Tensor, x: Tensor) -> Tensor:
    wide, others = torch.promote_types(x.dtype, torch.float32), tuple(range(1, x.dim()))
    target, x = target.detach().to(wide), x.to(wide)
    return torch.stack([(target - x).abs().sum(dim=others), target.abs().sum(dim=others)])


def _gradient(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    """Of `x`, from that of the first sums [B]."""
    return (x - target).sign() * gradient.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


@torch.library.custom_op("codecctl::l1_sums", mutates_args=())
def _operator(target: Tensor, x: Tensor) -> Tensor:
    sums: Tensor = fastest(_sums, x)(target, x)
    return sums


@torch.library.custom_op("codecctl::l1_sums_backward", mutates_args=())
def _operator_backward(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    x_gradient: Tensor = fastest(_gradient, x)(gradient, target, x)
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
