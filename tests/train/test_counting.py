"""What the counter says of single operations, whose bytes are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codecctl.train.counting import Amount, Counter

SIZE = 4 * 6 * 8  # bytes of the tensors below


@torch.library.custom_op("codecctl_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@torch.library.custom_op("codecctl_test::double_backward", mutates_args=())
def double_backward(gradient: Tensor) -> Tensor:
    return gradient * 2


double.register_fake(torch.empty_like)
double_backward.register_fake(torch.empty_like)
double.register_autograd(lambda ctx, gradient: double_backward(gradient))


@pytest.mark.parametrize(
    ("operation", "n_moved"),
    [
        (lambda a, b: a + b, 3),
        (lambda a, b: a.add_(b), 3),  # reads both, writes one
        (lambda a, b: torch._foreach_add_([a], [b]), 3),  # which returns nothing
        (lambda a, b: a.copy_(b), 2),
        (lambda a, b: a.zero_(), 1),
        (lambda a, b: torch.zeros_like(a), 1),
        (lambda a, b: torch.empty_like(a), 0),
        (lambda a, b: a.to(torch.float64), 3),  # twice as large
        (lambda a, b: a.flatten().view(8, 6).mT[:2], 0),
        (lambda a, b: torch.ops.aten._unsafe_view(a, [48]), 0),
        (lambda a, b: a.mT.contiguous(), 2),
        (lambda a, b: a.new_empty(()).expand(6, 8) * a, 2 + 4 / SIZE),  # the one element is read once
        (lambda a, b: (a.device, a.shape, a.is_floating_point()), 0),
        (lambda a, b: double(a), 2),
        (lambda a, b: double_backward(a), 2),
    ],
)
def test_bytes_that_an_operation_moves(operation: Callable[[Tensor, Tensor], Any], n_moved: float) -> None:
    with Counter(n_crops=7) as counter:
        a, b = torch.zeros(6, 8), torch.zeros(6, 8)
        counter.start_again()
        operation(a, b)
    assert counter.moved == Amount(round(n_moved * SIZE))


def test_a_custom_operator_in_the_backward_pass_moves_its_arguments_and_results() -> None:
    with Counter(n_crops=7) as counter:
        x, gradient = torch.zeros(6, 8, requires_grad=True), torch.zeros(6, 8)
        y = double(x)
        counter.start_again()
        y.backward(gradient)
    assert counter.moved == Amount(2 * SIZE)


def test_memory_is_counted_while_it_is_alive() -> None:
    with Counter(n_crops=7) as counter:
        weight, crops = torch.zeros(6, 8), torch.zeros(7, 8)
        view = crops[1:]
        assert counter.alive == Amount(SIZE, 4 * 8)
        del crops
        assert counter.alive == Amount(SIZE, 4 * 8)
        del view
        assert counter.alive == Amount(SIZE, 0)
        del weight
    assert counter.alive == Amount()
    assert max(amount.of(7) for amount in counter.peaks) == SIZE + 7 * 4 * 8
    assert max(amount.of(100) for amount in counter.peaks) == SIZE + 100 * 4 * 8


def test_operations_are_those_of_matrix_products() -> None:
    with Counter(n_crops=7) as counter:
        x, weight = torch.zeros(7, 8), torch.zeros(8, 5, requires_grad=True)
        (x @ weight).sum().backward()
    assert counter.operations == Amount(0, 2 * (2 * 8 * 5))


def test_reading_a_value_gives_zero() -> None:
    with Counter(n_crops=7):
        x = torch.ones(3)
        assert (float(x.sum()), int(x.argmax()), bool(x.isfinite().all())) == (0.0, 0, False)


def test_operations_that_change_a_shape_in_place() -> None:
    with Counter(n_crops=7):
        x = torch.zeros(2, 3)
        assert x.transpose_(0, 1).shape == (3, 2)
        assert x.add(1).shape == (3, 2)
