"""The quick validation of a training: the codec alone, by the same scorer as reports."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
import torch

from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.baselines import CODEC
from codecctl.evaluate.codebooks import CodebookCounter, CodebookStats, Counts
from codecctl.evaluate.intervals import mean_of_defined
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.perceptual import installed, unavailable
from codecctl.evaluate.rendering import Plan, Renderer
from codecctl.evaluate.scorer import Scorer
from codecctl.evaluate.utterances import ReferenceUtterance, choose, find_utterances
from codecctl.model.codec import Codec

_MAX_WORKERS = 4  # processes for perceptual metrics, while the training waits


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
