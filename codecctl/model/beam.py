"""Beam search over codebooks (the M-algorithm, Jelinek and Anderson 1971)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codecctl.model.codebook import Codebook

_BLOCK = 16  # distances whose minimum the search compares first


@dataclass(frozen=True)
class Beam:
    """The P best sequences of codes so far for each of N frames, best first."""

    codes: Tensor  # [N, P, k] of the codebooks so far
    residual: Tensor  # [N, P, D] what they leave over, divided by the gain
    gain: Tensor  # [N, P, 1] what later codewords are multiplied by
    error: Tensor  # [N, P] squared distance of what they stand for to the target

    @classmethod
    def start(cls, target: Tensor) -> Beam:
        """Nothing chosen yet for the frames [N, D]."""
        n = len(target)
        codes = torch.zeros(n, 1, 0, dtype=torch.int64, device=target.device)
        error = target.square().sum(dim=-1, keepdim=True)
        return cls(codes, target[:, None], target.new_ones(n, 1, 1), error)

    def extend(self, codebook: Codebook, width: int) -> Beam:
        """The `width` best sequences of one more code."""
        # gain^2 |residual - codeword|^2 = gain^2 (-2 residual . codeword + |codeword|^2) + error, by one matrix product
        power = self.gain.square()
        rows = torch.cat([-2 * power * self.residual, power, self.error[..., None]], dim=-1)  # [N, P, D + 2]
        # The product has no name, so that its memory is free for the next one, which then finds it in the cache.
        error, best = smallest((rows.flatten(0, 1) @ codebook.table()).view(*rows.shape[:2], -1), width)
        parent, code = best // len(codebook), best % len(codebook)
        codes = torch.cat([_rows(self.codes, parent), code[..., None]], dim=-1)
        return Beam(codes, _rows(self.residual, parent) - codebook.lookup(code), _rows(self.gain, parent), error)

    def scaled(self, gain: Tensor) -> Beam:
        """The same, its later codewords multiplied by `gain` [N, P]."""
        return Beam(self.codes, self.residual / gain[..., None], gain[..., None], self.error)


def smallest(errors: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """[N, P, V] -> [N, min(n, P x V)], the smallest of each P x V in ascending order, and their places in it.

    They are in the `n` blocks whose minima are smallest: sorting those takes a third of the time of sorting all.
    """
    n_candidates, size = errors.shape[1:]
    if size % _BLOCK or n_candidates * size // _BLOCK <= n:
        smallest, where = errors.flatten(1).topk(min(n, n_candidates * size), largest=False)
        return smallest, where
    step = size // _BLOCK  # between the members of a block: its minimum is then a reduction over rows
    minima = errors.view(-1, n_candidates, _BLOCK, step).amin(dim=2).flatten(1)
    chosen = minima.topk(n, largest=False, sorted=False).indices
    first = chosen // step * size + chosen % step
    members = (first[..., None] + torch.arange(0, size, step, device=first.device)).flatten(1)  # [N, n x _BLOCK]
    smallest, where = errors.flatten(1).gather(1, members).topk(n, largest=False)
    return smallest, members.gather(1, where)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """[N, M, D] and [N, M'] -> [N, M', D], each item's rows."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
