"""Snake's kernels of CUDA, run by Triton's interpreter: without a card they are the formula, too."""

from __future__ import annotations

import itertools
import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecctl.model.snake import gradient_formula, snake_formula

pytest.importorskip("triton")

SHAPES = [(2, 3, 50), (1, 70, 33), (2, 2, 4100), (2, 1, 7), (3, 4, 1), (0, 3, 5)]  # more than a tile, and less
LAYOUTS = [("samples last", "samples last"), ("channels last", "part"), ("part", "channels last")]
ROUNDING = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float64: 1e-12}  # relative to the largest value


def in_layout(layout: str, x: Tensor) -> Tensor:
    """The same values, elsewhere in memory."""
    if layout == "samples last":
        return x
    if layout == "channels last":
        return x.mT.contiguous().mT
    return torch.nn.functional.pad(x, (1, 2))[..., 1:-2]  # part of a longer signal


def largest_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-9)) if exact.numel() else 0.0


def compare() -> None:
    from codecctl.train.snake_kernels import snake, snake_backward  # in this process they are interpreted

    generator = torch.Generator().manual_seed(0)
    for shape, dtype, (of_x, of_gradient) in itertools.product(SHAPES, ROUNDING, LAYOUTS):
        x, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
        alpha = torch.rand(shape[1], 1, generator=generator, dtype=torch.float64).float() * 9 + 0.1
        exact = [snake_formula(x.double(), alpha.double())]
        exact += gradient_formula(gradient.double(), x.double(), alpha.double())
        x, gradient = in_layout(of_x, x), in_layout(of_gradient, gradient)
        found = [snake(x, alpha), *snake_backward(gradient, x, alpha)]
        assert [tensor.dtype for tensor in found] == [dtype, dtype, torch.float32]
        assert [tensor.shape for tensor in found] == [tensor.shape for tensor in exact]
        errors = [largest_error(a, b) for a, b in zip(found, exact, strict=True)]
        limits = (ROUNDING[dtype], ROUNDING[dtype], 1e-4)  # the last is a float32 sum, whose parts may cancel
        assert all(map(operator.lt, errors, limits)), (shape, dtype, of_x, of_gradient, errors)


@pytest.mark.slow
def test_kernels_are_the_formula() -> None:
    """In a process of its own: whether Triton compiles or interprets is decided when the kernels are defined."""
    done = subprocess.run(
        [sys.executable, "-c", "from tests.train.test_snake_kernels import compare; compare()"],
        cwd=Path(__file__).parents[2], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
