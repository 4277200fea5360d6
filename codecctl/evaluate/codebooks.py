"""How the codebooks are used, counted over any number of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]

_MOST_DRAWN = 1_000_000  # pairs drawn to estimate the mutual information that chance alone would show


@dataclass(frozen=True)
class CodebookStats:
    """The use of one codebook over `n_codes` codes. Without codes (`n_codes` 0) usage is 0 and perplexity 1."""

    codebook_size: int
    n_codes: int
    codebook_usage: float  # share of the codewords that were used
    perplexity: float  # exp of the entropy in nats: 1 to codebook_size
    dead_codewords: int  # never used
    entropy_bits: float  # per code, of the observed frequencies
    coding_bits: float  # per code, the entropy corrected for the bias of few codes (Miller & Madow 1955), <= log2(size)
    mutual_information_bits: float | None = None  # with the codebook before; None: not counted, or too few codes


class CodebookCounter:
    """Counts codes [B, K, T] of a codec with these codebooks. `pairs` also counts neighbouring codebooks together, in 8
    bytes for each pair of codewords: 67 MB for the production codec."""

    def __init__(self, codebook_sizes: Sequence[int], *, pairs: bool = False) -> None:
        self.codebook_sizes = tuple(codebook_sizes)
        self._count_pairs = pairs
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        neighbours = zip(self.codebook_sizes, self.codebook_sizes[1:], strict=False) if self._count_pairs else ()
        self._pairs = [torch.zeros(first * second, dtype=torch.int64) for first, second in neighbours]
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in self.codebook_sizes]

    @property
    def counts(self) -> list[Counts]:
        """How often each codeword of each codebook was chosen. Reading it waits for the device."""
        return [count.numpy(force=True) for count in self._counts]

    def update(self, codes: Tensor) -> None:
        """Add codes [B, K, T] of the first K codebooks, on their device: the host does not wait for it."""
        chosen = [code.reshape(-1) for code in codes.long().unbind(dim=1)]
        self._counts = _moved(self._counts, codes.device)
        self._pairs = _moved(self._pairs, codes.device)
        ones = torch.ones(len(codes) * codes.shape[2], dtype=torch.int64, device=codes.device)
        for count, code in zip(self._counts, chosen, strict=False):
            count.index_add_(0, code, ones)
        for k, joint in enumerate(self._pairs[: max(0, len(chosen) - 1)]):
            joint.index_add_(0, chosen[k] * self.codebook_sizes[k + 1] + chosen[k + 1], ones)

    def stats(self) -> list[CodebookStats]:
        """One for each codebook, in order."""
        counts, pairs = self.counts, [joint.numpy(force=True) for joint in self._pairs]
        shared: list[float | None] = [None, *map(_mutual_information, pairs, counts, counts[1:])]
        shared += [None] * (len(counts) - len(shared))
        return [codebook_stats(count, information) for count, information in zip(counts, shared, strict=True)]


def _moved(counts: list[Tensor], device: torch.device) -> list[Tensor]:
    """The counts where the codes are; it costs something the first time only."""
    return [count.to(device, non_blocking=True) for count in counts]


def codebook_stats(counts: Counts, mutual_information_bits: float | None = None) -> CodebookStats:
    """The use of one codebook from the count of each codeword [V]."""
    n_codes, n_used = int(counts.sum()), int((counts > 0).sum())
    entropy = _entropy(counts)
    coding_bits = min((entropy + (n_used - 1) / (2 * n_codes)) / np.log(2), np.log2(len(counts))) if n_codes else 0.0
    return CodebookStats(
        codebook_size=len(counts),
        n_codes=n_codes,
        codebook_usage=n_used / len(counts),
        perplexity=float(np.exp(entropy)),
        dead_codewords=len(counts) - n_used,
        entropy_bits=float(entropy / np.log(2)),
        coding_bits=float(coding_bits),
        mutual_information_bits=mutual_information_bits,
    )


def _entropy(counts: Counts) -> float:
    """In nats, of the observed frequencies; 0 where nothing was counted."""
    used = counts[counts > 0]
    total = used.sum()
    return float(np.log(total) - (used * np.log(used)).sum() / total) if total else 0.0


def _mutual_information(joint: Counts, first: Counts, second: Counts) -> float | None:
    """Bits that two codebooks share; None where there are too few codes.

    N pairs spread over a million cells show much mutual information by chance. So it is rescaled: independent codebooks
    of the same frequencies get 0, equal ones their entropy (Vinh et al. 2010, adjusted mutual information).
    """
    n_pairs = int(joint.sum())
    if not n_pairs:
        return None
    entropies = _entropy(first), _entropy(second)
    seen, most = sum(entropies) - _entropy(joint), min(entropies)
    n_drawn = min(n_pairs, _MOST_DRAWN)
    random = torch.Generator().manual_seed(0)
    drawn = [_draw(counts, n_drawn, random) for counts in (first, second)]
    pairs = np.unique(drawn[0] * len(second) + drawn[1], return_counts=True)[1]
    alone = [_entropy(np.bincount(codes)) for codes in drawn]
    chance = (sum(alone) - _entropy(pairs)) * n_drawn / n_pairs  # the bias falls as 1/N
    if chance > most / 2 and most > 0:  # the rest of the scale would depend more on the draw than on the codebooks
        return None
    return float(most * max(0.0, seen - chance) / (most - chance) / np.log(2)) if most > 0 else 0.0


def _draw(counts: Counts, n: int, random: torch.Generator) -> Counts:
    """`n` codes with the frequencies of `counts`."""
    edges = np.cumsum(counts)
    places = torch.rand(n, generator=random, dtype=torch.float64).numpy() * edges[-1]
    return np.searchsorted(edges, places, side="right")
