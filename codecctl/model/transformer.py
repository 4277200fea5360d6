"""A causal transformer with a finite look-back: bounded memory for a stream, linear time for a long signal."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.config.model import TransformerConfig
from codecctl.model.causal import CausalSequential, StreamState

MAX_CHUNK = 32  # frames of a stream that go through the layers at once
_LAYER_SCALE = 0.01  # at the start, of each residual branch


class Transformer(nn.Module):
    """[B, D, T] -> [B, D, T], pre-norm layers with LayerScale (Touvron et al. 2021, eq. 4)."""

    def __init__(self, config: TransformerConfig, layer_scale: float = _LAYER_SCALE) -> None:
        super().__init__()
        self.look_back, self.head_width = config.look_back_frames, config.width // config.n_heads
        self.layers = CausalSequential(TransformerLayer(config, layer_scale) for _ in range(config.n_layers))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if state is None:
            # The residual stream has the type of the weights, also under autocast: the fused norm takes no other.
            return self.layers(x.mT.to(next(self.parameters(), x).dtype)).mT
        if x.shape[-1] <= MAX_CHUNK:
            return self._advance(x.mT, state).mT
        return torch.cat([self._advance(chunk.mT, state) for chunk in torch.split(x, MAX_CHUNK, dim=-1)], dim=1).mT

    def _advance(self, x: Tensor, state: StreamState) -> Tensor:
        """[B, T, D] -> [B, T, D], the next T <= `MAX_CHUNK` frames of a stream."""
        if not self.layers:
            return x
        position = state.past.get(self)
        if position is None:
            position = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        ring = Ring(position, x.shape[1], self.look_back, x, self.head_width)
        for layer in self.layers:
            x = layer(x, state, ring)
        state.past[self] = ring.next_position
        return x


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

    def forward(self, x: Tensor, state: StreamState | None = None, ring: Ring | None = None) -> Tensor:
        x = torch.addcmul(x, self.attention_scale, self.attention(self.attention_norm(x), state, ring))
        return torch.addcmul(x, self.feedforward_scale, self.feedforward(self.feedforward_norm(x)))


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

    def forward(self, x: Tensor, state: StreamState | None = None, ring: Ring | None = None) -> Tensor:
        """`ring`: where the frames of a stream's chunk stand in the rings of keys and values in `state`."""
        queries, keys, values = self.project_in(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        if state is None or ring is None:
            attended = self._attend_whole(queries, keys, values)
        else:
            past = state.past.get(self)
            if past is None:
                past = keys.new_zeros(len(keys), 2, self.n_heads, ring.n_slots, keys.shape[-1])
            attended = ring.attend(queries, keys, values, past)
            state.past[self] = past
        return self.project_out(attended.transpose(1, 2).flatten(2))  # [B, T, D]

    def _attend_whole(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Three [B, H, T, d] -> [B, H, T, d], in windows of `look_back` queries: time is linear in T."""
        n_queries, attended = queries.shape[-2], []
        for start in range(0, n_queries, self.look_back):
            stop = min(start + self.look_back, n_queries)
            visible = slice(max(0, start - self.look_back), stop)
            attended.append(self._attend(queries[..., start:stop, :], keys[..., visible, :], values[..., visible, :]))
        return torch.cat(attended, dim=-2)

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


class Ring:
    """Where the T frames of a chunk stand in rings of R slots, in which every layer keeps keys and values of the past.

    A frame's slot is its position modulo R, and its key is rotated by the angle of the slot, once. Only differences of
    positions matter: to keys in slots up to its own a query is rotated by the angle of its slot, to keys in the slots
    after, which are of the round before, by an angle R slots further. So nothing is shifted, and no number grows.
    """

    def __init__(self, position: Tensor, n_frames: int, look_back: int, like: Tensor, head_width: int) -> None:
        """`position` [B] of the first frame: below R in the first round, R to 2R - 1 in all later ones."""
        self.n_slots = look_back + MAX_CHUNK
        angles, is_this_round, hiding = _ring_tables(look_back, head_width, like.dtype, like.device)
        places = position[:, None]  # [B, T]
        if n_frames > 1:
            places = places + torch.arange(n_frames, device=position.device)
            places = torch.where(places < 2 * self.n_slots, places, places - self.n_slots)
        self.own = places % self.n_slots
        self.is_this_round = is_this_round[self.n_slots - 1 - self.own][:, None]  # [B, 1, T, R]
        self.hiding = hiding[2 * self.n_slots - 1 - places][:, None]  # [B, 1, T, R]
        self.cosine, self.sine = angles[self.own].permute(2, 0, 3, 1, 4)[:, :, None]  # [B, 1, 3, T, d]
        end = places[:, -1] + 1
        self.next_position = torch.where(end < 2 * self.n_slots, end, end - self.n_slots)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: Tensor) -> Tensor:
        """Three [B, H, T, d] -> [B, H, T, d]; the keys and values are written into `past` [B, 2, H, R, d]."""
        width = queries.shape[-1]
        rotated = torch.stack([keys, queries, queries], dim=2)  # [B, H, 3, T, d]
        rotated = torch.addcmul(rotated * self.cosine, rotated.roll(width // 2, -1), self.sine)
        new = torch.stack([rotated[:, :, 0], values], dim=1)  # [B, 2, H, T, d]
        past.scatter_(3, self.own[:, None, None, :, None].expand_as(new), new)
        queries, keys = rotated[:, :, 1:].flatten(2, 3), past[:, 0]
        # The same [B, H, 2T, R]: the first is faster where the keys come from memory, the second for more queries.
        scores = (keys @ queries.mT).mT if queries.shape[-2] == 2 else queries @ keys.mT
        this_round, round_before = scores.chunk(2, dim=-2)
        scores = torch.where(self.is_this_round, this_round, round_before) + self.hiding
        return scores.softmax(dim=-1) @ past[:, 1]


@lru_cache(maxsize=16)
def _ring_tables(look_back: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What `Ring` looks up: making it costs a stream's single frame more than its attention.

    [R, 2, 3, d] cosines and signed sines that rotate the keys of each slot, its queries, and these R slots further; the
    scale of the scores is in those of the queries. [R, R], the row of slot s is R - 1 - s: whether a slot is not after
    it. [2R, R], the row of position p is 2R - 1 - p: 0 or, where p does not attend to a slot, minus infinity.
    """
    n_slots = look_back + MAX_CHUNK
    with torch.inference_mode(False):
        cosine, sine = rotary_angles(2 * n_slots, width, torch.empty(0, dtype=torch.float64, device=device))
        both = torch.stack([torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)])
        first, second = both.chunk(2, dim=1)
        angles = torch.stack([first, first * width**-0.5, second * width**-0.5], dim=2).to(dtype).transpose(0, 1)
        # Both depend on the difference of position and slot only: a row is a view, one place further than the next.
        before = torch.arange(2 * n_slots - 1, -n_slots, -1, device=device)  # slots from the one looked at
        is_this_round = (before[n_slots:] >= 0).unfold(0, n_slots, 1)
        hidden = (before < 0) | (before % n_slots > look_back)  # not reached yet, or too old
        hiding = torch.zeros(len(before), dtype=dtype, device=device).masked_fill(hidden, -torch.inf)
        return angles.contiguous(), is_this_round, hiding.unfold(0, n_slots, 1)


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
