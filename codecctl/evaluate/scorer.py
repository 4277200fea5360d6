"""Scores of utterances: the one scorer of reports and of a training's validation."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from codecctl.audio import Audio
from codecctl.audio.resample import resample
from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError
from codecctl.evaluate.bound import snr_bounds_db
from codecctl.evaluate.codebooks import CodebookCounter, CodebookStats, Counts
from codecctl.evaluate.intervals import mean_of_defined
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.metrics.table import SIGNAL_METRICS
from codecctl.evaluate.perceptual import installed, unavailable
from codecctl.evaluate.probe import envelope
from codecctl.evaluate.rendering import Plan, Renderer, Rendering
from codecctl.evaluate.rows import Codes, Envelope, Row
from codecctl.evaluate.systems import CODEC
from codecctl.evaluate.utterances import ReferenceUtterance, choose, find_utterances
from codecctl.evaluate.worker import SystemScores, score_systems, start_worker
from codecctl.model.codec import Codec
from codecctl.workers import BoundedPool

Pairs = dict[str, tuple[Audio, Audio]]  # by system: reference and decoded [L], aligned
_MAX_WORKERS = 4  # processes for perceptual metrics, while the training waits


class Scorer:
    """Renders utterances and scores every system: signal metrics in this process, on the codec's device, perceptual
    metrics in `n_workers` others. `delays` are removed first, in samples by system."""

    def __init__(self, renderer: Renderer, delays: dict[str, float], *, n_workers: int = 0) -> None:
        self.renderer, self.delays = renderer, delays
        self._n_workers = n_workers if renderer.plan.metrics else 0
        self._signal = {m.name: m.make(renderer.sample_rate, renderer.device) for m in SIGNAL_METRICS}

    def rows(
        self,
        utterances: Iterable[ReferenceUtterance],
        on_failure: Callable[[ReferenceUtterance, CodecctlError], Any] | None = None,
    ) -> Iterator[Row]:
        """The scores of each utterance, in order. Memory does not grow with the set or with an utterance's length.

        `on_failure` is called for an utterance that cannot be read; without it, its `CodecctlError` is raised.
        """
        unfinished: deque[_Unfinished] = deque()
        with BoundedPool(self._n_workers, initializer=start_worker) as pool:
            for utterance in utterances:
                try:
                    unfinished.append(self._start(utterance, pool))
                except CodecctlError as error:
                    if on_failure is None:
                        raise
                    on_failure(utterance, error)
                while unfinished and (len(unfinished) > pool.n_submitted_at_most or unfinished[0].is_done()):
                    yield unfinished.popleft().finish()
            while unfinished:
                yield unfinished.popleft().finish()

    def _start(self, utterance: ReferenceUtterance, pool: BoundedPool) -> _Unfinished:
        renderings = self.renderer.chunks(utterance)
        first = list(islice(renderings, 2))
        text = utterance.text if len(first) == 1 else None  # which part of the text a chunk has is unknown
        context = Context(utterance.language, text, self.renderer.plan.recogniser)
        chunks = [self._start_chunk(rendering, context, pool) for rendering in chain(first, renderings)]
        return _Unfinished(utterance, chunks, has_text=text is not None and context.recogniser is not None)

    def _start_chunk(self, rendering: Rendering, context: Context, pool: BoundedPool) -> _Chunk:
        pairs, rate = rendering.aligned(self.delays), self.renderer.sample_rate
        n_bits = {s: r.n_bits for s, r in rendering.renditions.items() if r.n_bits is not None}
        bounds, features = (math.nan, math.nan), np.zeros((0, rendering.codes.shape[1]), np.int8)
        if self.renderer.plan.baselines:
            bounds = snr_bounds_db(rendering.original, rate, n_bits[CODEC])
            features = envelope(rendering.original, rate, self.renderer.codec.hop_length)
        original, at_16_khz, metrics = rendering.original, {}, self.renderer.plan.metrics
        if metrics:
            at_16_khz = {system: (_at_16_khz(a, rate), _at_16_khz(b, rate)) for system, (a, b) in pairs.items()}
            original = _at_16_khz(original, rate)
        perceptual = pool.submit(score_systems, at_16_khz, original, metrics, context)
        seconds, equal = len(rendering.original) / rate, rendering.n_equal_codes
        signal = self.score_signal(pairs)
        return _Chunk(seconds, n_bits, rendering.codes, equal, bounds, features, signal, perceptual)

    @torch.inference_mode()
    def score_signal(self, pairs: Pairs) -> SystemScores:
        """The signal metrics of each system."""
        scores: SystemScores = {}
        for systems in _with_one_reference(pairs):
            reference = torch.from_numpy(np.ascontiguousarray(pairs[systems[0]][0]))[None].to(self.renderer.device)
            decoded = torch.from_numpy(np.stack([pairs[system][1] for system in systems])).to(self.renderer.device)
            values = {name: score(reference, decoded).tolist() for name, score in self._signal.items()}  # [S] each
            for i, system in enumerate(systems):
                scores[system] = {name: by_system[i] for name, by_system in values.items()}
        return {system: scores[system] for system in pairs}


@dataclass(frozen=True)
class _Chunk:
    """The scores of one chunk of an utterance, without its audio: a long utterance has many."""

    seconds: float
    n_bits: dict[str, int]
    codes: Codes
    n_equal_codes: tuple[int, ...] | None
    snr_bounds_db: tuple[float, float]
    envelope: Envelope
    signal: SystemScores
    perceptual: Future[SystemScores]


@dataclass(frozen=True)
class _Unfinished:
    """An utterance whose perceptual metrics are still being computed."""

    utterance: ReferenceUtterance
    chunks: list[_Chunk]
    has_text: bool

    def is_done(self) -> bool:
        return all(chunk.perceptual.done() for chunk in self.chunks)

    def finish(self) -> Row:
        """Wait for the scores; an utterance's score is the mean over its chunks."""
        chunks, utterance = self.chunks, self.utterance
        n_bits: dict[str, int] = defaultdict(int)
        for chunk in chunks:
            for system, n in chunk.n_bits.items():
                n_bits[system] += n
        equal = [chunk.n_equal_codes for chunk in chunks if chunk.n_equal_codes is not None]
        free, even = zip(*(chunk.snr_bounds_db for chunk in chunks), strict=True)
        return Row(
            id=utterance.id,
            dataset=utterance.dataset,
            language=utterance.language,
            speaker=utterance.speaker,
            seconds=sum(chunk.seconds for chunk in chunks),
            scores=_mean_over_chunks([*(c.signal for c in chunks), *(c.perceptual.result() for c in chunks)]),
            n_bits=dict(n_bits),
            snr_bounds_db=(mean_of_defined(free), mean_of_defined(even)),
            codes=np.concatenate([chunk.codes for chunk in chunks], axis=1),
            envelope=np.concatenate([chunk.envelope for chunk in chunks], axis=1),
            n_equal_codes=tuple(np.sum(equal, axis=0).tolist()) if len(equal) == len(chunks) else None,
            has_text=self.has_text,
        )


def _mean_over_chunks(chunks: list[SystemScores]) -> SystemScores:
    collected: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for chunk in chunks:
        for system, values in chunk.items():
            for name, value in values.items():
                collected[system][name].append(value)
    return {s: {name: mean_of_defined(v) for name, v in values.items()} for s, values in collected.items()}


def _with_one_reference(pairs: Pairs) -> list[list[str]]:
    """The systems grouped by equal references, whose spectra are computed once."""
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for system, (reference, _) in pairs.items():
        groups[reference.ctypes.data, len(reference)].append(system)  # views of one array: equal address, equal samples
    return list(groups.values())


def _at_16_khz(audio: Audio, sample_rate: int) -> Audio:
    (mono,) = resample(audio[None], sample_rate, SAMPLE_RATE)
    return np.asarray(mono, np.float32)


@dataclass(frozen=True)
class Scores:
    """The scores of a codec with all its codebooks."""

    values: dict[str, float]  # means over the utterances, by metric; NaN: undefined for every one
    codebooks: list[CodebookStats]
    counts: list[Counts]  # [V] of each codebook: how often each codeword was chosen


@dataclass(frozen=True)
class ValidationSet:
    """The utterances that a training is validated on, the same ones every time, and the config of the metrics."""

    utterances: Sequence[ReferenceUtterance]
    config: ValidateConfig

    @classmethod
    def open(cls, data: str | Path, config: ValidateConfig) -> Self:
        """The config's choice of the utterances in `data`.

        Raises `CodecctlError` if there are none, `UsageError` for an unknown metric or a folder without a recogniser.
        """
        installed(config)
        return cls(choose(find_utterances(data), config.n_utterances), config)

    @property
    def digest(self) -> str:
        """16 hex digits: the same for the same recordings of the same lengths, wherever they lie."""
        recordings = [(u.dataset, u.id, u.prepared.n_samples if u.prepared else None) for u in self.utterances]
        return blake2b(json.dumps(recordings).encode(), digest_size=8).hexdigest()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The perceptual metrics that are measured."""
        return installed(self.config)

    @property
    def missing(self) -> dict[str, str]:
        """The perceptual metrics that the config asks for and that cannot be measured -> the reason."""
        reasons = unavailable(self.config.metrics, self.config.recogniser)
        outputs = {name: PERCEPTUAL_METRICS[name].outputs[0].name for name in self.config.metrics}
        return {name: reasons[output] for name, output in outputs.items() if output in reasons}

    def score(self, codec: Codec) -> Scores:
        """The codec's scores. Its training mode is restored afterwards."""
        was_training = codec.training
        scores: dict[str, list[float]] = defaultdict(list)
        counter = CodebookCounter(codec.config.quantizer.codebook_sizes)
        try:
            renderer = Renderer(codec.eval(), Plan.of(codec, self.config, baselines=False))
            scorer = Scorer(renderer, delays={}, n_workers=min(_MAX_WORKERS, os.cpu_count() or 1))
            for row in scorer.rows(self.utterances):
                counter.update(torch.from_numpy(row.codes.astype(np.int64))[None])  # [1, K, T]
                for name, value in row.scores[CODEC].items():
                    scores[name].append(value)
        finally:
            codec.train(was_training)
        means = {name: mean_of_defined(values) for name, values in scores.items()}
        return Scores(means, counter.stats(), counter.counts)
