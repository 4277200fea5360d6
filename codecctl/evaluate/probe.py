"""What the first codebook and all codebooks know of the speaker and of the content.

The first codebook should carry the words and leave the voice to the others; otherwise a language model gains little
from it. Both probes are as simple as can be, so that they find only what is easy to read from the codes. Speaker: the
nearest centroid of the speakers, each utterance left out of its own speaker's. Content: a linear map from the codeword
of a frame to the spectral envelope of the original there, fitted to one half of the utterances, tested on the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codecctl.audio import Audio
from codecctl.audio.spectrum import mel_filters
from codecctl.evaluate.rows import Codes, Envelope
from codecctl.model.codec import Codec

_MAX_UTTERANCES = 2000  # that are used; the speaker probe keeps two latent vectors of each
_WINDOW_SECONDS = 0.032
_N_MELS, _N_COEFFICIENTS = 40, 12  # of the envelope
_STEPS = 32  # per standard deviation
_RIDGE = 0.01  # as a share of the latents' mean variance


@dataclass(frozen=True)
class SpeakerProbe:
    """Share of utterances whose speaker is identified from the first codebook alone and from all codebooks."""

    first_codebook: float
    all_codebooks: float
    chance: float  # by always naming the most frequent speaker
    n_utterances: int
    n_speakers: int


@dataclass(frozen=True)
class ContentProbe:
    """Share of the envelope's variance explained by the codewords of the first codebook alone and of all codebooks."""

    first_codebook: float
    all_codebooks: float
    n_utterances: int


@torch.inference_mode()
def latents_of(codec: Codec, codes: Codes) -> Tensor:
    """Codes [K, T] -> [2, D, T]: the latents of the first codebook and of all codebooks."""
    batch = torch.from_numpy(codes.astype(np.int64))[None].to(next(codec.buffers()).device)  # [1, K, T]
    return torch.cat([codec.dequantize(part) for part in (batch[:, :1], batch)]).float().cpu()


def envelope(audio: Audio, sample_rate: int, hop_length: int) -> Envelope:
    """[L] -> [12, T]: mel-cepstral coefficients 1 to 12 (Davis & Mermelstein 1980) around the middle of each frame, the
    utterance's mean removed, in 32nds of its standard deviation. The mean depends on voice and room, the movement on
    what is said."""
    n_window, n_frames = round(_WINDOW_SECONDS * sample_rate), -(-len(audio) // hop_length)
    margin = (n_window - hop_length) // 2
    padded = np.pad(audio, (max(0, margin), n_window + hop_length))[max(0, -margin) :]
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_window)[::hop_length][:n_frames]
    power = np.abs(np.fft.rfft(frames * np.hanning(n_window).astype(np.float32))) ** 2  # [T, F]
    bands = power @ mel_filters(sample_rate, n_window // 2 + 1, _N_MELS).T
    level = np.log(np.maximum(bands, 1e-6 * bands.max() + 1e-20))  # 60 dB below the loudest counts as silence
    order, band = np.arange(1, _N_COEFFICIENTS + 1)[:, None], np.arange(_N_MELS) + 0.5
    cepstra = np.cos(np.pi / _N_MELS * order * band) @ level.T
    cepstra -= cepstra.mean(axis=1, keepdims=True)
    deviation = cepstra.std(axis=1, keepdims=True)
    scaled = np.where(deviation > 1e-9, cepstra / np.maximum(deviation, 1e-9), 0)
    return np.clip(np.round(_STEPS * scaled), -127, 127).astype(np.int8)


class ContentProber:
    """Collects the matrices of a linear regression, of D x D numbers."""

    def __init__(self) -> None:
        self._halves: tuple[list[_Moments], list[_Moments]] = (
            [],
            [],
        )  # first, all codebooks; every other utterance
        self._n = 0

    def add(self, latents: Tensor, envelope: Envelope) -> None:
        """Add one utterance: latents [2, D, T], envelope [E, T]."""
        if self._n >= _MAX_UTTERANCES or not envelope.any():
            return
        half = self._halves[self._n % 2]
        if not half:
            half += [_Moments.of(latents.shape[1], len(envelope)) for _ in range(2)]
        targets = torch.from_numpy(envelope.astype(np.float32)) / _STEPS
        for moments, inputs in zip(half, latents - latents.mean(dim=-1, keepdim=True), strict=True):
            moments.add(inputs, targets)
        self._n += 1

    def result(self) -> ContentProbe | None:
        """None for fewer than four utterances."""
        if self._n < 4:
            return None
        first, every = (_explained(one, other) for one, other in zip(*self._halves, strict=True))
        return ContentProbe(first, every, self._n)


@dataclass
class _Moments:
    """Sums over frames of products of the inputs [D, T] and the targets [E, T] of a regression."""

    inputs: Tensor  # [D, D]
    both: Tensor  # [D, E]
    targets: float

    @classmethod
    def of(cls, n_inputs: int, n_targets: int) -> _Moments:
        inputs, both = (torch.zeros(n_inputs, n, dtype=torch.float64) for n in (n_inputs, n_targets))
        return cls(inputs, both, 0.0)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs += inputs @ inputs.mT
        self.both += inputs @ targets.mT
        self.targets += float(targets.square().sum())


def _explained(one: _Moments, other: _Moments) -> float:
    """Share of the targets' variance that a map fitted to each half explains on the other half."""
    left = 0.0
    for fitted, tested in ((one, other), (other, one)):
        ridge = _RIDGE * fitted.inputs.diagonal().mean() + 1e-9
        linear = torch.linalg.solve(fitted.inputs + ridge * torch.eye(len(fitted.inputs)), fitted.both)  # [D, E]
        error = (linear * (tested.inputs @ linear)).sum() - 2 * (linear * tested.both).sum()
        left += tested.targets + float(error)
    return max(0.0, 1 - left / (one.targets + other.targets))


class SpeakerProber:
    """Collects the mean latents of utterances with a known speaker."""

    def __init__(self) -> None:
        self._speakers: list[str] = []
        self._latents: list[NDArray[np.float32]] = []  # each [2, D]: first codebook, all codebooks

    def add(self, speaker: str | None, latents: Tensor) -> None:
        """Add one utterance: latents [2, D, T]."""
        if speaker is None or len(self._speakers) >= _MAX_UTTERANCES or not latents.shape[-1]:
            return
        self._speakers.append(speaker)
        self._latents.append(latents.mean(dim=-1).numpy())

    def result(self) -> SpeakerProbe | None:
        """None for fewer than two speakers with two utterances each."""
        counts = Counter(self._speakers)
        kept = [i for i, speaker in enumerate(self._speakers) if counts[speaker] > 1]
        speakers = [self._speakers[i] for i in kept]
        if len(set(speakers)) < 2:
            return None
        latents = np.stack([self._latents[i] for i in kept]).astype(np.float64)  # [N, 2, D]
        shares = [identification_rate(latents[:, k], speakers) for k in range(2)]
        chance = max(Counter(speakers).values()) / len(speakers)
        return SpeakerProbe(shares[0], shares[1], chance, len(speakers), len(set(speakers)))


def identification_rate(vectors: NDArray[np.float64], speakers: Sequence[str]) -> float:
    """Share of the vectors [N, D] that are nearest to the centroid of their own speaker's other vectors."""
    names = sorted(set(speakers))
    own = np.array([names.index(speaker) for speaker in speakers])
    vectors = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-12)
    member = np.eye(len(names))[own]  # [N, S]
    sums, sizes = member.T @ vectors, member.sum(axis=0)
    n_right = 0
    for vector, mine in zip(vectors, own, strict=True):
        is_own = np.arange(len(names)) == mine
        centres = (sums - np.outer(is_own, vector)) / (sizes - is_own)[:, None]
        n_right += int(np.argmin(np.square(centres - vector).sum(axis=1)) == mine)
    return n_right / len(vectors)
