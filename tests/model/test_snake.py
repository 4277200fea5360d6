"""Snake: the operator against the formula, what it keeps, and its types."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from codecctl.model import snake
from codecctl.model.snake import Snake, snake_formula

ROUNDING = {torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}


def snake_of(dtype: torch.dtype = torch.float32) -> Snake:
    """Of three channels with different frequencies."""
    snake = Snake(3)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([[0.3], [1.0], [4.0]]))
    return snake.double() if dtype == torch.float64 else snake


def activations(dtype: torch.dtype = torch.float32) -> Tensor:
    """[2, 3, 50]"""
    drawn = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_operator_equals_formula_within_rounding(dtype: torch.dtype, is_transposed: bool) -> None:
    snake, x = snake_of(dtype), activations(dtype)
    expected_in = x.detach().double().requires_grad_()
    alpha = snake.alpha.detach().double().requires_grad_()
    expected = snake_formula(expected_in, alpha)
    expected.cos().sum().backward()
    y = snake(x.mT.contiguous().mT if is_transposed else x)
    y.double().cos().sum().backward()
    assert y.dtype == x.dtype
    assert snake.alpha.grad is not None
    assert snake.alpha.grad.dtype == snake.alpha.dtype
    tolerance = ROUNDING[dtype]
    pairs = [(y, expected), (x.grad, expected_in.grad), (snake.alpha.grad / 100, alpha.grad / 100)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_gradients_of_operator_are_its_derivatives() -> None:
    snake = snake_of(torch.float64)
    assert torch.autograd.gradcheck(lambda x, alpha: torch.func.functional_call(snake, {"alpha": alpha}, (x,)),
                                    (activations(torch.float64), snake.alpha))  # fmt: skip


def test_operator_keeps_its_inputs_alone() -> None:
    kept: list[Tensor] = []
    snake, x = snake_of(), activations(torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        snake(x)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), snake.alpha.data_ptr()}


def test_result_without_gradient_is_that_with_gradient() -> None:
    for dtype in ROUNDING:
        snake, x = snake_of(dtype), activations(dtype)
        with torch.no_grad():
            plain = snake(x)
        assert torch.equal(plain, snake(x).detach())


def test_frozen_alpha_passes_the_gradient_on() -> None:
    snake, x = snake_of().requires_grad_(False), activations()
    snake(x).sum().backward()
    assert snake.alpha.grad is None
    assert x.grad is not None
    assert x.grad.abs().gt(0).any()


def test_a_copy_of_the_module_has_an_operator_of_its_own() -> None:
    """As in a folder that was exported for transformers; the package's operator must stay what it is."""
    spec = importlib.util.spec_from_file_location("copy_of_snake", snake.__file__)
    assert spec is not None
    assert spec.loader is not None
    for _ in range(2):  # two exported folders
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        assert copy._NAMESPACE != snake._NAMESPACE == "codecctl"
        x = torch.randn(1, 3, 5, requires_grad=True)
        gradients = [torch.autograd.grad(made(3)(x).square().sum(), x)[0] for made in (Snake, copy.Snake)]
        assert torch.equal(*gradients)
