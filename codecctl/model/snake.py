"""The Snake activation as one operator, `codecctl::snake`, that keeps nothing for the backward pass but its inputs.

In plain torch Snake is five kernels whose intermediate results are all kept; with a float32 `alpha` they are float32
even where the activations are bfloat16. The operator returns the type of its input, computes in float32 or wider, and
computes everything anew in its backward pass. A training on CUDA registers a kernel for each pass
(`codecctl.train.snake_kernels`).
"""

from __future__ import annotations

import uuid
from typing import Any

import torch
from torch import Tensor, nn

TINY = 1e-9  # beside alpha where it divides
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
        y: Tensor = snake_operator(x, self.alpha)
        return y


def snake_formula(x: Tensor, alpha: Tensor) -> Tensor:
    """Snake of [..., C, L] in plain torch, `alpha` [C, 1]: in float32 or wider, returned in the type of `x`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.dtype != wide or alpha.dtype != wide:
        return snake_formula(x.to(wide), alpha.to(wide)).to(x.dtype)
    angle = alpha * x
    if torch.is_grad_enabled():
        return x + angle.sin().square() / (alpha + TINY)
    return torch.addcmul(x, angle.sin_().square_(), 1 / (alpha + TINY))  # few passes, and little new memory


def gradient_formula(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `x` and `alpha`, each in the type of its tensor, from that of Snake's result."""
    wide = torch.promote_types(x.dtype, torch.float32)
    g, x_wide, alpha_wide = gradient.to(wide), x.to(wide), alpha.to(wide)
    divisor = alpha_wide + TINY
    angle = alpha_wide * x_wide
    cosine, sine = angle.cos(), angle.sin_()
    # In place where a tensor is done with: on the CPU each new one costs as much as the arithmetic.
    slope = cosine.mul_(sine).mul_(g)  # times 2 / divisor: the gradient of the angle
    x_gradient = torch.addcmul(g, slope, 2 * alpha_wide / divisor)
    along, across = (part.sum_to_size(alpha.shape) for part in (slope.mul_(x_wide), sine.square_().mul_(g)))
    alpha_gradient = (2 * along - across / divisor) / divisor
    return x_gradient.to(x.dtype), alpha_gradient.to(alpha.dtype)


@torch.library.custom_op(f"{_NAMESPACE}::snake", mutates_args=())
def snake_operator(x: Tensor, alpha: Tensor) -> Tensor:
    return snake_formula(x, alpha.detach())


@torch.library.custom_op(f"{_NAMESPACE}::snake_backward", mutates_args=())
def snake_backward_operator(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return gradient_formula(gradient, x, alpha.detach())


@snake_operator.register_fake
def _(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.empty_like(x)


@snake_backward_operator.register_fake
def _(gradient: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(alpha)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = snake_backward_operator(gradient, *ctx.saved_tensors)
    return gradients


snake_operator.register_autograd(_backward, setup_context=_save_inputs)
