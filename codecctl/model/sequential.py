"""Causal layers one after the other."""

from __future__ import annotations

from torch import Tensor, nn

from codecctl.model.causal import StreamState


class CausalSequential(nn.ModuleList):
    """Layers of `forward(x, state)`, each of which gets the output of the one before and the same stream state."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        for layer in self:
            x = layer(x, state)
        return x
