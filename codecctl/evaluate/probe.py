"""How much of the speaker is left in the codes: whether the mean of a recording's codewords tells who speaks.

Book 1 should carry the words and leave the voice to the others; a codec in which it does not is of little use to a
language model. The probe is the simplest one there is: the nearest of the speakers' centres, each recording left out of
its own speaker's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from codecctl.evaluate.rows import Codes
from codecctl.model.codec import Codec

_MOST_RECORDINGS = 2000  # that are remembered; each costs two latent vectors


@dataclass(frozen=True)
class SpeakerProbe:
    """Share of recordings whose speaker is told right from book 1 alone and from all books."""

    book_1: float
    all_books: float
    chance: float  # by always naming the speaker who talks most
    n_recordings: int
    n_speakers: int


class SpeakerProber:
    """Collects the mean latents of recordings with a known speaker."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._speakers: list[str] = []
        self._latents: list[NDArray[np.float32]] = []  # each [2, D]: book 1, all books

    @torch.inference_mode()
    def add(self, speaker: str | None, codes: Codes) -> None:
        """Codes [K, T] of one recording."""
        if speaker is None or len(self._speakers) >= _MOST_RECORDINGS or not codes.shape[1]:
            return
        device = self._codec.quantizer.books[0].codebook.device
        batch = torch.from_numpy(codes.astype(np.int64))[None].to(device)  # [1, K, T]
        means = [self._codec.quantizer.decode(part).mean(dim=(0, 2)) for part in (batch[:, :1], batch)]
        self._speakers.append(speaker)
        self._latents.append(torch.stack(means).float().cpu().numpy())

    def result(self) -> SpeakerProbe | None:
        """None where there are fewer than two speakers with two recordings each."""
        counts = Counter(self._speakers)
        kept = [i for i, speaker in enumerate(self._speakers) if counts[speaker] > 1]
        speakers = [self._speakers[i] for i in kept]
        if len(set(speakers)) < 2:
            return None
        latents = np.stack([self._latents[i] for i in kept]).astype(np.float64)  # [N, 2, D]
        shares = [told_right(latents[:, k], speakers) for k in range(2)]
        chance = max(Counter(speakers).values()) / len(speakers)
        return SpeakerProbe(shares[0], shares[1], chance, len(speakers), len(set(speakers)))


def told_right(vectors: NDArray[np.float64], speakers: Sequence[str]) -> float:
    """Share of the vectors [N, D] that lie nearest to the centre of their own speaker's other vectors."""
    names = sorted(set(speakers))
    own = np.array([names.index(speaker) for speaker in speakers])
    vectors = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-12)
    member = np.eye(len(names))[own]  # [N, S]
    sums, sizes = member.T @ vectors, member.sum(axis=0)
    n_right = 0
    for vector, mine in zip(vectors, own, strict=True):
        centres = (sums - np.outer(np.arange(len(names)) == mine, vector)) / (sizes - (np.arange(len(names)) == mine))[
            :, None
        ]
        n_right += int(np.argmin(np.square(centres - vector).sum(axis=1)) == mine)
    return n_right / len(vectors)
