"""One recording through the codec and through what it is compared with, and all the scores of that."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecctl.audio.files import Audio
from codecctl.audio.resample import resample
from codecctl.errors import CodecctlError
from codecctl.evaluate import hearing
from codecctl.evaluate.alignment import align, find_delay
from codecctl.evaluate.baselines import BAND_LIMITED, CODEC, UNQUANTIZED, Rendition, render_anchors, render_codec
from codecctl.evaluate.bound import snr_bounds_db
from codecctl.evaluate.metrics import BOUNDS, LogSpectralDistance, MelDistance, si_sdr_db, snr_db
from codecctl.evaluate.pool import HearingPool
from codecctl.evaluate.probe import envelope
from codecctl.evaluate.recordings import Recording
from codecctl.evaluate.rows import Codes, Envelope, Row
from codecctl.model.codec import Codec

AGAINST = "against"
_DELAY_RECORDINGS = 8  # on which delays are found
_DELAY_SECONDS = 10  # of each


@dataclass(frozen=True)
class Plan:
    """What is rendered of each recording, and which measures of hearing are taken."""

    opus_kbps: tuple[float, ...]
    curve: tuple[int, ...]  # numbers of books, besides all of them
    parts: bool  # the curve, and all books but the first
    measures: tuple[str, ...]
    recogniser: str | None = None


@dataclass(frozen=True)
class Piece:
    """One piece of a recording through every system."""

    original: Audio  # [L]
    renditions: dict[str, Rendition]
    codes: Codes  # [K, T]
    n_equal_codes: tuple[int, ...] | None  # of each book, beside the other codec's


class Renderer:
    """Sends recordings through the codec, the other checkpoint if there is one, and the anchors."""

    def __init__(self, codec: Codec, plan: Plan, against: Codec | None = None) -> None:
        if against is not None and against.sample_rate != codec.sample_rate:
            raise CodecctlError(f"cannot compare codecs of {codec.sample_rate} and {against.sample_rate} Hz")
        self.codec, self.plan, self.against = codec, plan, against
        self.sample_rate = codec.sample_rate
        self._device = next(codec.parameters()).device

    def render(self, audio: Tensor) -> Piece:
        """[1, L] at the codec's rate -> every system's version of it, not aligned yet."""
        on_device = audio.to(self._device)[None]  # [1, 1, L]
        codes, made = render_codec(self.codec, on_device, self.plan.curve, parts=self.plan.parts)
        equal = None
        if self.against is not None:
            other_codes, other = render_codec(self.against, on_device, (), parts=False)
            made[AGAINST] = other[CODEC]
            equal = _equal_codes(codes, other_codes)
        original = audio[0].numpy()
        made.update(render_anchors(original, self.sample_rate, self.plan.opus_kbps))
        return Piece(original, made, codes[0].cpu().numpy().astype(np.uint16), equal)

    def find_delays(self, recordings: Sequence[Recording]) -> dict[str, float]:
        """The delay of each system in samples, from the first recordings. All that leaves our decoder shares one."""
        pairs: dict[str, list[tuple[Audio, Audio]]] = defaultdict(list)
        plan = Plan(self.plan.opus_kbps, (), parts=False, measures=())
        renderer = Renderer(self.codec, plan, self.against)
        for recording in recordings[:_DELAY_RECORDINGS]:
            try:
                audio = next(recording.pieces(self.sample_rate))[:, : _DELAY_SECONDS * self.sample_rate]
            except CodecctlError:  # told when its turn to be measured comes
                continue
            piece = renderer.render(audio)
            for system in piece.renditions.keys() - {BAND_LIMITED, UNQUANTIZED}:
                pairs[system].append((piece.original, piece.renditions[system].audio))
        found = {system: find_delay(made, self.sample_rate) for system, made in sorted(pairs.items())}
        return found


@dataclass
class _Pending:
    """A recording whose measures of hearing are still under way."""

    recording: Recording
    seconds: float = 0.0
    signal: list[dict[str, dict[str, float]]] = field(default_factory=list)  # one a piece
    heard: list[Future[dict[str, dict[str, float]]]] = field(default_factory=list)
    n_bits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    codes: list[Codes] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    equal: list[tuple[int, ...]] = field(default_factory=list)
    has_transcript: bool = False

    def finish(self) -> Row:
        """Wait for what is missing; a recording's score is the mean over its pieces."""
        pieces = [self.signal, [future.result() for future in self.heard]]
        collected: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for piece in (piece for kind in pieces for piece in kind):
            for system, values in piece.items():
                for name, value in values.items():
                    collected[system][name].append(value)
        scores = {system: {name: _mean(v) for name, v in values.items()} for system, values in collected.items()}
        equal = tuple(np.sum(self.equal, axis=0).tolist()) if self.equal else None
        about = self.recording
        return Row(
            about.id, about.dataset, about.language, about.speaker, self.seconds, scores, dict(self.n_bits),
            np.concatenate(self.codes, axis=1), np.concatenate(self.envelopes, axis=1), equal, self.has_transcript,
        )  # fmt: skip


def measure(
    renderer: Renderer,
    recordings: Sequence[Recording],
    delays: dict[str, float],
    *,
    n_workers: int,
    failed: Callable[[Recording, CodecctlError], Any],
) -> Iterator[Row]:
    """The rows of the recordings, in their order; `failed` is told of each that cannot be read.

    The codec and the measures of the signal run here, those of hearing in `n_workers` processes. A few pieces are under
    way at a time, so memory does not grow with the set or with the length of a recording.
    """
    signal = SignalScorer(renderer.sample_rate)
    pending: deque[_Pending] = deque()
    with HearingPool(renderer.plan.measures, n_workers if renderer.plan.measures else 0) as pool:
        for recording in recordings:
            try:
                pending.append(_begin(renderer, recording, delays, signal, pool))
            except CodecctlError as error:
                failed(recording, error)
            while pending and (len(pending) > pool.n_waiting_at_most or all(f.done() for f in pending[0].heard)):
                yield pending.popleft().finish()
        while pending:
            yield pending.popleft().finish()


def _begin(
    renderer: Renderer, recording: Recording, delays: dict[str, float], signal: SignalScorer, pool: HearingPool
) -> _Pending:
    pending, pieces = _Pending(recording), recording.pieces(renderer.sample_rate)
    first = list(islice(pieces, 2))
    transcript = recording.transcript if len(first) == 1 else None  # of which piece a part is said in cannot be told
    about = hearing.About(recording.language, transcript, renderer.plan.recogniser)
    pending.has_transcript = transcript is not None and renderer.plan.recogniser is not None
    for audio in chain(first, pieces):
        piece = renderer.render(audio)
        aligned = {s: align(piece.original, r.audio, delay_of(s, delays)) for s, r in piece.renditions.items()}
        seconds = len(piece.original) / renderer.sample_rate
        pending.signal.append(signal.score(piece.original, aligned, {s: r.n_bits for s, r in piece.renditions.items()}))
        at_rate = {
            s: (at_hearing_rate(a, renderer.sample_rate), at_hearing_rate(b, renderer.sample_rate))
            for s, (a, b) in aligned.items()
        }
        pending.heard.append(pool.submit(at_rate, at_hearing_rate(piece.original, renderer.sample_rate), about))
        pending.seconds += seconds
        for system, rendition in piece.renditions.items():
            if rendition.n_bits is not None:
                pending.n_bits[system] += rendition.n_bits
        pending.codes.append(piece.codes)
        pending.envelopes.append(envelope(piece.original, renderer.sample_rate, renderer.codec.hop_length))
        if piece.n_equal_codes is not None:
            pending.equal.append(piece.n_equal_codes)
    return pending


class SignalScorer:
    """The measures that need nothing but the samples, for aligned pairs of one recording."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._mel_distance = MelDistance(sample_rate)
        self._log_spectral_distance = LogSpectralDistance(sample_rate)

    @torch.inference_mode()
    def score(
        self, original: Audio, aligned: dict[str, tuple[Audio, Audio]], n_bits: dict[str, int | None]
    ) -> dict[str, dict[str, float]]:
        """The original [L] and (reference, decoded) by system -> score by system and metric."""
        scores: dict[str, dict[str, float]] = {}
        for systems in _with_one_reference(aligned):
            reference = torch.from_numpy(np.ascontiguousarray(aligned[systems[0]][0]))[None]  # [1, L]
            decoded = torch.from_numpy(np.stack([aligned[system][1] for system in systems]))  # [S, L]
            values = {
                "snr_db": snr_db(reference, decoded),
                "si_sdr_db": si_sdr_db(reference, decoded),
                "mel_distance": self._mel_distance(reference, decoded),
                "log_spectral_distance_db": self._log_spectral_distance(reference, decoded),
            }
            for i, system in enumerate(systems):
                scores[system] = {name: float(value[i]) for name, value in values.items()}
        with_bits = {system: bits for system, bits in n_bits.items() if bits is not None}
        if with_bits:
            bounds = snr_bounds_db(original, self.sample_rate, list(with_bits.values()))
            for system, pair_of_bounds in zip(with_bits, bounds, strict=True):
                scores[system].update(zip(BOUNDS, pair_of_bounds, strict=True))
        return {system: scores[system] for system in aligned}


def _with_one_reference(aligned: dict[str, tuple[Audio, Audio]]) -> list[list[str]]:
    """The systems in groups that are scored against the same stretch of the original: its spectra are taken once."""
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for system, (reference, _) in aligned.items():
        groups[reference.ctypes.data, len(reference)].append(system)  # a view of the original: where it starts
    return list(groups.values())


def delay_of(system: str, delays: dict[str, float]) -> float:
    """In samples; the codec's for all that leaves its decoder, 0 for what is not late by its nature."""
    ours = system == UNQUANTIZED or system.startswith("books_")
    return delays.get(CODEC if ours else system, 0.0)


def _equal_codes(codes: Tensor, other: Tensor) -> tuple[int, ...] | None:
    """How many codes of each book [1, K, T] are the same; None where the two do not count alike."""
    if codes.shape[-1] != other.shape[-1]:
        return None
    n_quantizers = min(codes.shape[1], other.shape[1])
    return tuple((codes[:, :n_quantizers] == other[:, :n_quantizers]).sum(dim=(0, 2)).tolist())


def at_hearing_rate(audio: Audio, sample_rate: int) -> Audio:
    """[L] at `sample_rate` -> at that of the measures of hearing."""
    (mono,) = resample(audio[None], sample_rate, hearing.SAMPLE_RATE)
    return np.asarray(mono, np.float32)


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
