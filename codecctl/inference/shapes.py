"""The shapes of a codec's weights, from its config alone: no memory is spent on what a file only claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from codecctl.config.model import ModelConfig
from codecctl.model.codec import Codec


def shell(model: ModelConfig) -> Codec:
    """A codec on the meta device: all its tensors have a shape and no values."""
    with torch.device("meta"), _ShapesOnly():
        return Codec(model)


class _ShapesOnly(TorchFunctionMode):
    """Random numbers and norms as empty tensors: on the meta device torch imports its compiler for them, a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args)
        if func is torch.norm_except_dim:
            weight, _, dim = args
            return _norms(weight, dim)
        return func(*args, **(kwargs or {}))


def _norms(weight: Tensor, dim: int) -> Tensor:
    """Of each index of `dim`, as weight norm keeps them."""
    return torch.empty([size if axis == dim else 1 for axis, size in enumerate(weight.shape)])
