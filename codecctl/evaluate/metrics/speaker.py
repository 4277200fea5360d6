"""Speaker similarity: cosine of speaker embeddings (Wan et al. 2018, as implemented by Resemblyzer)."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import Context, Metric, PerceptualMetric


@cache
def _encoder() -> Any:
    return importlib.import_module("resemblyzer").VoiceEncoder("cpu", verbose=False)


def _score(reference: Audio, decoded: Audio, _: Context) -> tuple[float, ...]:
    first, second = (_encoder().embed_utterance(signal) for signal in (reference, decoded))
    return (float(first @ second),)


_MEANING = "cosine of a speaker encoder's vectors of original and decoded, at most 1"
SPEAKER = PerceptualMetric(
    name="speaker",
    outputs=(Metric(name="speaker_similarity", label="speaker similarity", digits=3, meaning=_MEANING),),
    package="resemblyzer",
    install="resemblyzer",
    score=_score,
)
