"""What the codes hold: how much of the speaker, and how much of what is said, in book 1 and in all books.

Book 1 should carry the words and leave the voice to the others; a codec in which it does not is of little use to a
language model. Both probes are the simplest there are, so that what they find lies open in the codes. Of the speaker:
the nearest of the speakers' centres, each recording left out of its own speaker's. Of the content: a linear map from
the codeword of a frame to the spectral envelope of the original there, learnt on one half of the recordings and tried
on the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio.files import Audio
from codecctl.audio.spectrum import mel_filters
from codecctl.evaluate.rows import Codes, Envelope
from codecctl.model.codec import Codec

_MOST_RECORDINGS = 2000  # that are looked at; for the speaker, each costs two latent vectors
_WINDOW_SECONDS = 0.032
_N_MELS, _N_COEFFICIENTS = 40, 12  # of the envelope
_STEPS = 32  # in a standard deviation
_RIDGE = 0.01  # of the latents' mean variance


@dataclass(frozen=True)
class SpeakerProbe:
    """Share of recordings whose speaker is told right from book 1 alone and from all books."""

    book_1: float
    all_books: float
    chance: float  # by always naming the speaker who talks most
    n_recordings: int
    n_speakers: int


@dataclass(frozen=True)
class ContentProbe:
    """Share of the envelope's movement that can be told from the codewords of book 1 alone and of all books."""

    book_1: float
    all_books: float
    n_recordings: int


@torch.inference_mode()
def latents_of(codec: Codec, codes: Codes) -> Tensor:
    """Codes [K, T] -> [2, D, T]: those of book 1 and of all books."""
    batch = torch.from_numpy(codes.astype(np.int64))[None].to(next(codec.buffers()).device)  # [1, K, T]
    return torch.cat([codec.dequantize(part) for part in (batch[:, :1], batch)]).float().cpu()


def envelope(audio: Audio, sample_rate: int, hop_length: int) -> Envelope:
    """[L] -> [12, T]: mel-cepstral coefficients 1 to 12 (Davis & Mermelstein 1980) around the middle of each frame, the
    recording's mean taken off, in 32nds of its standard deviation. So what of it tells the voice or the room is gone,
    and how it moves, which is what is said, is left."""
    n_window, n_frames = round(_WINDOW_SECONDS * sample_rate), -(-len(audio) // hop_length)
    margin = (n_window - hop_length) // 2
    padded = np.pad(audio, (max(0, margin), n_window + hop_length))[max(0, -margin) :]
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_window)[::hop_length][:n_frames]
    power = np.abs(np.fft.rfft(frames * np.hanning(n_window).astype(np.float32))) ** 2  # [T, F]
    bands = power @ mel_filters(sample_rate, n_window // 2 + 1, _N_MELS).T
    level = np.log(np.maximum(bands, 1e-6 * bands.max() + 1e-20))  # 60 dB below the loudest all is silence
    order, band = np.arange(1, _N_COEFFICIENTS + 1)[:, None], np.arange(_N_MELS) + 0.5
    cepstra = np.cos(np.pi / _N_MELS * order * band) @ level.T
    cepstra -= cepstra.mean(axis=1, keepdims=True)
    deviation = cepstra.std(axis=1, keepdims=True)
    scaled = np.where(deviation > 1e-9, cepstra / np.maximum(deviation, 1e-9), 0)
    return np.clip(np.round(_STEPS * scaled), -127, 127).astype(np.int8)


class ContentProber:
    """Collects what a linear map needs: memory is that of its matrices, of D x D numbers."""

    def __init__(self) -> None:
        self._halves: tuple[list[_Moments], list[_Moments]] = ([], [])  # book 1 and all books, of every other recording
        self._n = 0

    def add(self, latents: Tensor, envelope: Envelope) -> None:
        """Of one recording: latents [2, D, T], envelope [E, T]."""
        if self._n >= _MOST_RECORDINGS or not envelope.any():
            return
        half = self._halves[self._n % 2]
        if not half:
            half += [_Moments.of(latents.shape[1], len(envelope)) for _ in range(2)]
        wanted = torch.from_numpy(envelope.astype(np.float32)) / _STEPS
        for moments, known in zip(half, latents - latents.mean(dim=-1, keepdim=True), strict=True):
            moments.add(known, wanted)
        self._n += 1

    def result(self) -> ContentProbe | None:
        """None where there are fewer than four recordings."""
        if self._n < 4:
            return None
        book_1, all_books = (_told(one, other) for one, other in zip(*self._halves, strict=True))
        return ContentProbe(book_1, all_books, self._n)


@dataclass
class _Moments:
    """Sums over frames of the products of what is known [D, T] and what is wanted [E, T]."""

    known: Tensor  # [D, D]
    both: Tensor  # [D, E]
    wanted: float

    @classmethod
    def of(cls, n_known: int, n_wanted: int) -> _Moments:
        known, both = (torch.zeros(n_known, n, dtype=torch.float64) for n in (n_known, n_wanted))
        return cls(known, both, 0.0)

    def add(self, known: Tensor, wanted: Tensor) -> None:
        self.known += known @ known.mT
        self.both += known @ wanted.mT
        self.wanted += float(wanted.square().sum())


def _told(one: _Moments, other: _Moments) -> float:
    """Share of the variance of what is wanted that a map learnt on each half explains on the other half."""
    left = 0.0
    for learnt, tried in ((one, other), (other, one)):
        ridge = _RIDGE * learnt.known.diagonal().mean() + 1e-9
        linear = torch.linalg.solve(learnt.known + ridge * torch.eye(len(learnt.known)), learnt.both)  # [D, E]
        left += tried.wanted - 2 * float((linear * tried.both).sum()) + float((linear * (tried.known @ linear)).sum())
    return max(0.0, 1 - left / (one.wanted + other.wanted))


class SpeakerProber:
    """Collects the mean latents of recordings with a known speaker."""

    def __init__(self) -> None:
        self._speakers: list[str] = []
        self._latents: list[NDArray[np.float32]] = []  # each [2, D]: book 1, all books

    def add(self, speaker: str | None, latents: Tensor) -> None:
        """Latents [2, D, T] of one recording."""
        if speaker is None or len(self._speakers) >= _MOST_RECORDINGS or not latents.shape[-1]:
            return
        self._speakers.append(speaker)
        self._latents.append(latents.mean(dim=-1).numpy())

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
