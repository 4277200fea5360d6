"""Arrangements of codes `[..., K, T]` for language models. All are exact, and each has its inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codecctl.errors import UsageError


def delay(codes: Tensor, pad: int, delays: Sequence[int] | None = None) -> Tensor:
    """[..., K, T] -> [..., K, T + max(delays)]: codebook k starts `delays[k]` steps late, by default k, so that a step
    depends on the codes of the coarser codebooks of its frames (Copet et al. 2023, section 2.2); `pad` fills the rest.

    With `[0, 1, 1, ...]` the first codebook alone is ahead, the acoustic delay of Moshi (Defossez et al. 2024).
    """
    n_frames, delays = codes.shape[-1], _delays(codes, delays)
    delayed = codes.new_full((*codes.shape[:-1], n_frames + max(delays)), pad)
    for k, late in enumerate(delays):
        delayed[..., k, late : late + n_frames] = codes[..., k, :]
    return delayed


def undelay(delayed: Tensor, delays: Sequence[int] | None = None) -> Tensor:
    """[..., K, T + max(delays)] -> [..., K, T], the inverse of `delay`.

    Raises `UsageError` for max(delays) steps or fewer, in which no frame is complete.
    """
    n_steps, delays = delayed.shape[-1], _delays(delayed, delays)
    n_frames = n_steps - max(delays)
    if n_frames < 1:
        raise UsageError(f"{n_steps} steps hold no whole frame of {len(delays)} codebooks: {max(delays) + 1} do")
    return torch.stack([delayed[..., k, late : late + n_frames] for k, late in enumerate(delays)], dim=-2)


def _delays(codes: Tensor, delays: Sequence[int] | None) -> Sequence[int]:
    n_codebooks = codes.shape[-2]
    if delays is not None and (len(delays) != n_codebooks or min(delays, default=0) < 0):
        raise UsageError(f"delays must be {n_codebooks} numbers of steps, 0 or more, got {list(delays)}")
    return range(n_codebooks) if delays is None else delays


def flatten(codes: Tensor) -> Tensor:
    """[..., K, T] -> [..., T x K]: frame by frame, in a frame codebook by codebook."""
    return codes.mT.flatten(-2)


def unflatten(flat: Tensor, n_codebooks: int) -> Tensor:
    """[..., T x K] -> [..., K, T], the inverse of `flatten`. Raises `UsageError` for a part of a frame."""
    if flat.shape[-1] % n_codebooks:
        n_whole = flat.shape[-1] // n_codebooks * n_codebooks
        raise UsageError(
            f"{flat.shape[-1]} codes are no whole frames of {n_codebooks} codebooks; codes[..., :{n_whole}] are"
        )
    return flat.reshape(*flat.shape[:-1], -1, n_codebooks).mT


def to_unigrams(codes: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> the same shape: one vocabulary of sum(codebook_sizes) entries, those of codebook k after those of
    the codebooks before it; int64. Raises `UsageError` for codes that a codebook does not have."""
    codes = codes.long()
    offsets, sizes = _offsets(codes, codebook_sizes)
    if ((codes < 0) | (codes >= sizes)).any():
        raise UsageError(f"codes must be within the codebook sizes {list(codebook_sizes)}")
    return codes + offsets


def from_unigrams(unigrams: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> the same shape, the inverse of `to_unigrams`. Raises `UsageError` for an entry of another codebook
    or of none, as marks and padding are; `n_whole_frames` says how many frames are before it."""
    unigrams = unigrams.long()
    if not _is_whole(unigrams, codebook_sizes).all():
        raise UsageError(
            "an entry of another codebook or of none stands at a codebook's place; for one sound, "
            "unigrams[..., : n_whole_frames(unigrams, codebook_sizes)] ends before it"
        )
    return unigrams - _offsets(unigrams, codebook_sizes)[0]


def n_whole_frames(unigrams: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> [...]: how many frames there are before the first that has an entry of another codebook or of
    none: where a generated sound ends by an end mark, by padding or by a mistake of the model."""
    return _is_whole(unigrams.long(), codebook_sizes).long().cumprod(dim=-1).sum(dim=-1)


def _is_whole(unigrams: Tensor, codebook_sizes: Sequence[int]) -> Tensor:
    """[..., K, T] -> [..., T], whether each entry of the frame is one of its codebook."""
    offsets, sizes = _offsets(unigrams, codebook_sizes)
    return ((unigrams >= offsets) & (unigrams < offsets + sizes)).all(dim=-2)


def _offsets(codes: Tensor, codebook_sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two [K, 1]: where the entries of each codebook start, and how many they are."""
    n_codebooks = codes.shape[-2]
    if n_codebooks > len(codebook_sizes):
        raise UsageError(f"codes of {n_codebooks} codebooks, but sizes of {len(codebook_sizes)}")
    sizes = torch.tensor(codebook_sizes[:n_codebooks], device=codes.device)[:, None]
    return sizes.cumsum(0) - sizes, sizes
