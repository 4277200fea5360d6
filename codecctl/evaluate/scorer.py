"""Scores of utterances: the one scorer of reports and of a training's validation."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
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
from codecctl.evaluate.metrics.table import SIGNAL_METRICS
from codecctl.evaluate.perceptual import SystemScores, installed, missing, score_all
from codecctl.evaluate.probe import envelope
from codecctl.evaluate.rendering import Plan, Renderer, Rendering
from codecctl.evaluate.rows import Row
from codecctl.evaluate.systems import CODEC
from codecctl.evaluate.utterances import ReferenceUtterance, choose, find_utterances
from codecctl.model.codec import Codec
from codecctl.workers import BoundedPool, use_one_thread

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
        unfinished: deque[list[_Chunk]] = deque()
        with BoundedPool(self._n_workers, initializer=use_one_thread) as pool:
            for utterance in utterances:
                try:
                    unfinished.append(self._start(utterance, pool))
                except CodecctlError as error:
                    if on_failure is None:
                        raise
                    on_failure(utterance, error)
                while unfinished and (len(unfinished) > pool.n_submitted_at_most or _is_done(unfinished[0])):
                    yield _whole(unfinished.popleft())
            yield from map(_whole, unfinished)

    def _start(self, utterance: ReferenceUtterance, pool: BoundedPool) -> list[_Chunk]:
        renderings = self.renderer.chunks(utterance)
        first = list(islice(renderings, 2))
        text = utterance.text if len(first) == 1 else None  # which part of the text a chunk has is unknown
        context = Context(utterance.language, text, self.renderer.plan.recogniser)
        return [self._start_chunk(utterance, rendering, context, pool) for rendering in chain(first, renderings)]

    def _start_chunk(
        self, utterance: ReferenceUtterance, rendering: Rendering, context: Context, pool: BoundedPool
    ) -> _Chunk:
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
        perceptual = pool.submit(score_all, at_16_khz, original, metrics, context)
        row = Row(
            id=utterance.id,
            dataset=utterance.dataset,
            language=utterance.language,
            speaker=utterance.speaker,
            seconds=len(rendering.original) / rate,
            scores=self._score_signal(pairs),
            n_bits=n_bits,
            snr_bounds_db=bounds,
            codes=rendering.codes,
            envelope=features,
            n_equal_codes=rendering.n_equal_codes,
            has_text=context.text is not None and context.recogniser is not None,
        )
        return row, perceptual

    @torch.inference_mode()
    def _score_signal(self, pairs: Pairs) -> SystemScores:
        """The signal metrics of each system."""
        scores: SystemScores = {}
        for systems in _with_one_reference(pairs):
            reference = torch.from_numpy(np.ascontiguousarray(pairs[systems[0]][0]))[None].to(self.renderer.device)
            decoded = torch.from_numpy(np.stack([pairs[system][1] for system in systems])).to(self.renderer.device)
            values = {name: score(reference, decoded).tolist() for name, score in self._signal.items()}  # [S] each
            for i, system in enumerate(systems):
                scores[system] = {name: by_system[i] for name, by_system in values.items()}
        return {system: scores[system] for system in pairs}


_Chunk = tuple[Row, Future[SystemScores]]  # without its perceptual scores, which are still being computed


def _is_done(chunks: list[_Chunk]) -> bool:
    return all(perceptual.done() for _, perceptual in chunks)


def _whole(chunks: list[_Chunk]) -> Row:
    """The row of an utterance, when all is computed; its scores are the means over its chunks."""
    rows = [row for row, _ in chunks]
    free, even = zip(*(row.snr_bounds_db for row in rows), strict=True)
    equal = [row.n_equal_codes for row in rows if row.n_equal_codes is not None]
    return replace(
        rows[0],
        seconds=sum(row.seconds for row in rows),
        scores=_mean_over_chunks([*(row.scores for row in rows), *(scores.result() for _, scores in chunks)]),
        n_bits={system: sum(row.n_bits[system] for row in rows) for system in rows[0].n_bits},
        snr_bounds_db=(mean_of_defined(free), mean_of_defined(even)),
        codes=np.concatenate([row.codes for row in rows], axis=1),
        envelope=np.concatenate([row.envelope for row in rows], axis=1),
        n_equal_codes=tuple(np.sum(equal, axis=0).tolist()) if len(equal) == len(rows) else None,
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
        return missing(self.config.metrics, self.config.recogniser)

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
