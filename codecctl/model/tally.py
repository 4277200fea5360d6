"""What the codewords of a codebook win in one step, over all processes. No value is read on the host: shapes do not
depend on the contents of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist


class Won(NamedTuple):
    """What a codebook won in one step."""

    hits: Tensor  # [V] of each codeword
    sums: Tensor  # [V, D] of the vectors that chose it
    drawn: Tensor  # [V, D] some of these vectors at random, for dead codewords
    drawn_codes: Tensor  # [V] the codeword that each of them chose
    powers: Tensor | None = None  # [V] of the residuals of the first codebook, with `config.gain`


def tally(vectors: Tensor, codes: Tensor, size: int, used: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Hits [V] of each codeword and the sum [V, D] of the vectors [N, D] that chose it, those alone that are `used`
    [N]. By addition, since `bincount` and a mask as an index wait for the device."""
    weights = torch.ones_like(vectors[:, 0]) if used is None else used.to(vectors)
    hits = vectors.new_zeros(size).index_add_(0, codes, weights)
    vectors = vectors if used is None else vectors * weights[:, None]
    return hits, vectors.new_zeros(size, vectors.shape[-1]).index_add_(0, codes, vectors)


def draw_over_ranks(
    vectors: Tensor, codes: Tensor, n: int, used: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """This rank's share of `n` vectors [n, D] that are drawn from those of all ranks, and their codes [n]: its own,
    and zeros in place of the others'. Distinct ones while they last. `used` [ranks x N]: which may be drawn.

    `vectors` [N, D] and `codes` [N]: as many on each rank.
    """
    size, rank, device = len(vectors), _rank(), vectors.device
    order = torch.randperm(size * _n_ranks(), generator=generator, pin_memory=device.type == "cuda")
    order = order.to(device, non_blocking=True)
    place = torch.arange(n, device=device)
    if used is None:
        place = place % len(order)
    else:
        order = order[(~used[order]).to(torch.int8).argsort(stable=True)]  # those that may be drawn come first
        place = place % used.sum().clamp(min=1)
    drawn = order[place] - rank * size
    is_own, own = (drawn >= 0) & (drawn < size), drawn.clamp(0, size - 1)
    return vectors[own] * is_own[:, None], codes[own].to(vectors) * is_own


def _n_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _n_ranks() > 1 else 0


def sum_over_ranks(parts: list[Tensor]) -> list[Tensor]:
    if _n_ranks() == 1:
        return parts
    flat = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(flat)
    sums = torch.split(flat, [part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]


def gather_over_ranks(values: Tensor) -> Tensor:
    """[B] of each rank -> [ranks x B], in the order of ranks."""
    if _n_ranks() == 1:
        return values
    everyone = [torch.empty_like(values) for _ in range(_n_ranks())]
    dist.all_gather(everyone, values)
    return torch.cat(everyone)
