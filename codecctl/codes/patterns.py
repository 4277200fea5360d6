"""Arrangements of codes `[..., K, T]` for language models. All are exact, and each has its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecctl.errors import UsageError


def delay(codes: Tensor, pad: int) -> Tensor:
    """[..., K, T] -> [..., K, T + K - 1]: codebook k starts k steps late, so that a step depends on the codes of the
    coarser codebooks of its frames (Copet et al. 2023, section 2.2); `pad` fills the rest."""
    n_codebooks, n_frames = codes.shape[-2:]
    delayed = codes.new_full((*codes.shape[:-1], n_frames + n_codebooks - 1), pad)
    for k in range(n_codebooks):
        delayed[..., k, k : k + n_frames] = codes[..., k, :]
    return delayed


def undelay(delayed: Tensor) -> Tensor:
    """[..., K, T + K - 1] -> [..., K, T], the inverse of `delay`.

    Raises `UsageError` for fewer than K steps, in which no frame is complete.
    """
    n_codebooks, n_steps = delayed.shape[-2:]
    n_frames = n_steps - n_codebooks + 1
    if n_frames < 1:
        raise UsageError(f"{n_steps} steps hold no whole frame of {n_codebooks} codebooks")
    return torch.stack([delayed[..., k, k : k + n_frames] for k in range(n_codebooks)], dim=-2)


def flatten(codes: Tensor) -> Tensor:
    """[..., K, T] -> [..., T x K]: frame by frame, in a frame codebook by codebook."""
    return codes.mT.flatten(-2)


def unflatten(flat: Tensor, n_codebooks: int) -> Tensor:
    """[..., T x K] -> [..., K, T], the inverse of `flatten`. Raises `UsageError` for a part of a frame."""
    if flat.shape[-1] % n_codebooks:
        raise UsageError(f"{flat.shape[-1]} codes are no whole frames of {n_codebooks} codebooks")
    return flat.reshape(*flat.shape[:-1], -1, n_codebooks).mT


def to_unigrams(codes: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> the same shape: one vocabulary of sum(codebook_sizes) entries, those of codebook k after those of
    the codebooks before it. Raises `UsageError` for codes that a codebook does not have."""
    offsets, sizes = _offsets(codes, codebook_sizes)
    if ((codes < 0) | (codes >= sizes)).any():
        raise UsageError(f"codes must be within the codebook sizes {list(codebook_sizes)}")
    return codes + offsets


def from_unigrams(unigrams: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> the same shape, the inverse of `to_unigrams`. Raises `UsageError` for an entry of another
    codebook."""
    offsets, sizes = _offsets(unigrams, codebook_sizes)
    codes = unigrams - offsets
    if ((codes < 0) | (codes >= sizes)).any():
        raise UsageError("an entry of the vocabulary stands at another codebook's place")
    return codes


def _offsets(codes: Tensor, codebook_sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two [K, 1]: where the entries of each codebook start, and how many they are."""
    n_codebooks = codes.shape[-2]
    if n_codebooks > len(codebook_sizes):
        raise UsageError(f"codes of {n_codebooks} codebooks, but sizes of {len(codebook_sizes)}")
    sizes = torch.tensor(codebook_sizes[:n_codebooks], device=codes.device)[:, None]
    return sizes.cumsum(0) - sizes, sizes
