"""PESQ-WB (ITU-T P.862.2)."""

from __future__ import annotations

import importlib
import math

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context, Metric, PerceptualMetric


def _score(reference: Audio, decoded: Audio, _: Context) -> tuple[float, ...]:
    package = importlib.import_module("pesq")
    try:
        return (float(package.pesq(SAMPLE_RATE, reference, decoded, "wb")),)
    except package.NoUtterancesError:  # too quiet or too short for its speech detector
        return (math.nan,)


_MEANING = "ITU-T P.862.2, a model of listeners' opinions: 1 (bad) to 4.64 (a copy)"
PESQ = PerceptualMetric(
    name="pesq",
    outputs=(Metric(name="pesq_wb", label="PESQ-WB", meaning=_MEANING),),
    package="pesq",
    install="pesq",
    score=_score,
)
