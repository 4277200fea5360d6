"""The Snake activation as one operator, `codecctl::snake`, that keeps nothing for the backward pass but its inputs.

In plain torch Snake is five kernels whose intermediate results are all kept; with a float32 `alpha` they are float32
even where the activations are bfloat16. The operator returns the type of its input, computes in float32 or wider, and
computes everything anew in its backward pass. On CUDA both passes are kernels that `torch.compile` makes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_TINY = 1e-9  # beside alpha where it divides
# An exported model brings a copy of this module. Of two operators of one name torch destroys the first, though it is in
# use.
_NAMESPACE = "codecctl" if __name__.startswith("codecctl.") else f"codecctl_{uuid.uuid4().hex}"


class Snake(nn.Module):
    """[..., C, L] -> the same, x + sin(alpha x)^2 / alpha with a learned alpha for each channel (Ziyin et al. 2020,
    eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and (x.requires_grad or self.alpha.requires_grad)
        # Without a gradient the operator saves nothing, and dispatching it costs a stream's single frames more than
        # the formula does. A compiler fuses the formula with what is around it, but cannot look into an operator.
        if not needs_gradient or torch.compiler.is_compiling():
            return snake_formula(x, self.alpha)
        y: Tensor = _snake(x, self.alpha)
        return y


def snake_formula(x: Tensor, alpha: Tensor) -> Tensor:
    """Snake of [..., C, L] in plain torch, `alpha` [C, 1]: in float32 or wider, returned in the type of `x`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.dtype != wide or alpha.dtype != wide:
        return snake_formula(x.to(wide), alpha.to(wide)).to(x.dtype)
    angle = alpha * x
    if torch.is_grad_enabled():
        return x + angle.sin().square() / (alpha + _TINY)
    return torch.addcmul(x, angle.sin_().square_(), 1 / (alpha + _TINY))  # few passes, and little new memory


def _gradient_formula(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and `alpha`, each in the type of its tensor, from that of Snake's result."""
    wide = torch.promote_types(x.dtype, torch.float32)
    g, x_wide, alpha_wide = gradient.to(wide), x.to(wide), alpha.to(wide)
    divisor = alpha_wide + _TINY
    angle = alpha_wide * x_wide
    cosine, sine = angle.cos(), angle.sin_()
    # In place where a tensor is done with: on the CPU each new one costs as much as the arithmetic.
    slope = cosine.mul_(sine).mul_(g)  # times 2 / divisor: the gradient of the angle
    x_gradient = torch.addcmul(g, slope, 2 * alpha_wide / divisor)
    along, across = (part.sum_to_size(alpha.shape) for part in (slope.mul_(x_wide), sine.square_().mul_(g)))
    alpha_gradient = (2 * along - across / divisor) / divisor
    return x_gradient.to(x.dtype), alpha_gradient.to(alpha.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::snake", mutates_args=())
def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    y: Tensor = fastest(snake_formula, x)(x, alpha.detach())
    return y


@torch.library.custom_op(f"{_NAMESPACE}::snake_backward", mutates_args=())
def _snake_backward(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = fastest(_gradient_formula, x)(gradient, x, alpha.detach())
    return gradients


@_snake.register_fake
def _(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.empty_like(x)


@_snake_backward.register_fake
def _(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(alpha)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = _snake_backward(gradient, *ctx.saved_tensors)
    return gradients


_snake.register_autograd(_backward, setup_context=_save_inputs)


def fastest(formula: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The formula in plain torch as the device of `x` computes it fastest: on CUDA as one compiled kernel."""
    return _compiled(formula) if x.is_cuda else formula


@cache
def _compiled(formula: Callable[..., Any]) -> Callable[..., Any]:
    # For all shapes at once: one that is made for a shape would be made anew for each layer. The compiler takes the
    # shape of a Parameter for constant, so what is compiled gets plain tensors.
    return torch.compile(formula, dynamic=True)
