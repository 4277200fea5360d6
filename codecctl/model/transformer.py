"""A causal transformer with a finite look-back: bounded memory for a stream, linear time for a long signal."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.config.model import TransformerConfig
from codecctl.model.causal import StreamState
from codecctl.model.sequential import CausalSequential

_LAYER_SCALE = 0.01  # at the start, of each residual branch


class Transformer(nn.Module):
    """[B, D, T] -> [B, D, T], pre-norm layers with LayerScale (Touvron et al. 2021, eq. 4)."""

    def __init__(self, config: TransformerConfig, layer_scale: float = _LAYER_SCALE) -> None:
        super().__init__()
        self.layers = CausalSequential(TransformerLayer(config, layer_scale) for _ in range(config.n_layers))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.layers(x.mT, state).mT


class TransformerLayer(nn.Module):
    """[B, T, D] -> [B, T, D]"""

    def __init__(self, config: TransformerConfig, layer_scale: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.attention = CausalAttention(config.width, config.n_heads, config.look_back_frames)
        self.attention_scale = nn.Parameter(torch.full((config.width,), layer_scale))
        self.feedforward_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.feedforward = GatedFeedforward(config.width, config.feedforward_width)
        self.feedforward_scale = nn.Parameter(torch.full((config.width,), layer_scale))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        x = x + self.attention_scale * self.attention(self.attention_norm(x), state)
        return x + self.feedforward_scale * self.feedforward(self.feedforward_norm(x))


class GatedFeedforward(nn.Module):
    """[B, T, D] -> [B, T, D], SwiGLU (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden_width, bias=False)
        self.contract = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.expand(x).chunk(2, dim=-1)
        return self.contract(F.silu(gate) * value)


class CausalAttention(nn.Module):
    """[B, T, D] -> [B, T, D]: each frame attends to itself and to `look_back` frames before it."""

    def __init__(self, width: int, n_heads: int, look_back: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.look_back = look_back
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        queries, keys, values = rearrange(self.project_in(x), "b t (n h d) -> n b h t d", n=3, h=self.n_heads)
        n_queries = queries.shape[-2]
        keys, values = self._prepend_past(keys, values, state)
        n_past = keys.shape[-2] - n_queries
        attended = []
        # A long signal is split into windows of `look_back` queries, exactly as a stream would bring it.
        for start in range(0, n_queries, self.look_back):
            stop = min(start + self.look_back, n_queries)
            visible = slice(max(0, n_past + start - self.look_back), n_past + stop)
            attended.append(self._attend(queries[..., start:stop, :], keys[..., visible, :], values[..., visible, :]))
        return self.project_out(rearrange(torch.cat(attended, dim=-2), "b h t d -> b t (h d)"))

    def _prepend_past(self, keys: Tensor, values: Tensor, state: StreamState | None) -> Tensor:
        """Twice [B, H, T, d] -> keys and values [2, B, H, n_past + T, d]; the last `look_back` stay in `state`."""
        both = torch.stack([keys, values])
        if state is None:
            return both
        past = state.past.get(self)
        if past is not None:
            both = torch.cat([past, both], dim=-2)
        state.past[self] = both[..., -self.look_back :, :].clone()
        return both

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, T, d], twice [B, H, n, d] -> [B, H, T, d]; the last key belongs to the last query."""
        n_queries, n_keys = queries.shape[-2], keys.shape[-2]
        rotation = rotary_angles(n_keys, keys.shape[-1], keys)
        queries, keys = rotate(queries, rotation[:, -n_queries:]), rotate(keys, rotation)
        if n_queries == n_keys:  # then no key is older than the look-back
            return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        position = torch.arange(n_keys, device=keys.device)
        age = position[-n_queries:, None] - position
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=(age >= 0) & (age <= self.look_back))


def rotary_angles(n_positions: int, width: int, like: Tensor) -> Tensor:
    """Cosines and sines [2, n, d / 2] of RoPE (Su et al. 2021, eq. 34), in the type and on the device of `like`.

    Only differences of positions matter, so positions restart with every window and never grow. The angles are computed
    in double precision: the differences must be the same wherever a chunk begins.
    """
    position = torch.arange(n_positions, device=like.device, dtype=torch.float64)
    frequency = 10000.0 ** -(torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width)
    angle = position[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(like.dtype)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each pair (i, i + d/2) of the last axis by its position's angle."""
    cosine, sine = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
