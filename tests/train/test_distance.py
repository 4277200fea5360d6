"""The L1 distance of feature maps: the operator against its equation, what it keeps, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codecctl.train.discriminators import l1_means


def maps(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two of [3, 2, 4, 5]; of the second a gradient is wanted."""
    generator = torch.Generator().manual_seed(0)
    target, x = (torch.randn(3, 2, 4, 5, generator=generator).to(dtype) for _ in range(2))
    return target, x.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_means_and_gradient_are_those_of_plain_torch(dtype: torch.dtype) -> None:
    target, x = maps(dtype)
    weights = torch.tensor([1.0, 2.0, -3.0])
    means = l1_means(target, x)
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (means[0] * weights).sum().backward()
    plain = x.detach().double().requires_grad_()
    expected = torch.stack([(target.double() - plain).abs().mean((1, 2, 3)), target.double().abs().mean((1, 2, 3))])
    (expected[0] * weights).sum().backward()
    torch.testing.assert_close(means.double(), expected, rtol=1e-6, atol=0)
    assert x.grad is not None
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad, plain.grad.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_gradient_is_the_derivative() -> None:
    target, x = maps(torch.float64)
    assert torch.autograd.gradcheck(lambda x: l1_means(target, x)[0], (x,))


def test_nothing_is_kept_but_the_maps() -> None:
    kept: list[Tensor] = []
    target, x = maps(torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        l1_means(target, x)
    assert {tensor.data_ptr() for tensor in kept} == {target.data_ptr(), x.data_ptr()}
