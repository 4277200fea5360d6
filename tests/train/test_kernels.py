"""Kernels that the compiler makes of our operators: after eight of a function it makes no more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from codecctl.train.discriminators import l1_means


def maps_of_any_shape_and_order() -> None:
    for shape in ((4, 8, 9, 5), (4, 8, 3, 7), (4, 1, 9, 5), (4, 6, 30), (4, 16, 11, 2)):
        for form in (torch.contiguous_format, torch.channels_last):
            if len(shape) == 4 or form == torch.contiguous_format:
                target, x = (torch.randn(shape).to(memory_format=form) for _ in range(2))
                l1_means(target, x.requires_grad_())[0].sum().backward()
                expected = (target - x).abs().flatten(1).mean(dim=1)
                torch.testing.assert_close(l1_means(target, x)[0], expected)


def n_kernels(module: ModuleType, use: Callable[[], None]) -> int:
    """That are compiled for what `use` does with the operator of `module`, both passes."""
    compiled = cache(partial(torch.compile, dynamic=True, backend="eager"))
    module._fastest = lambda formula, x: compiled(formula)  # type: ignore[attr-defined]
    counted = torch._dynamo.utils.counters["stats"]
    before: int = counted["unique_graphs"]
    use()
    after: int = counted["unique_graphs"]
    return after - before


@pytest.mark.slow
def test_maps_of_all_shapes_share_one_kernel_of_each_pass() -> None:
    """In a process of its own: what the compiler has loaded and set stays."""
    script = """
from codecctl.train import discriminators
from tests.train.test_kernels import maps_of_any_shape_and_order, n_kernels
print(n_kernels(discriminators, maps_of_any_shape_and_order))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "2\n", done.stderr
