"""ViSQOL in speech mode (Chinen et al. 2020)."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context, Metric, PerceptualMetric


@cache
def _model() -> Any:
    model = importlib.import_module("visqol").VisqolApi()
    model.create(mode="speech")
    return model


def _score(reference: Audio, decoded: Audio, _: Context) -> tuple[float, ...]:
    result = _model().measure_from_arrays(reference.astype(np.float64), decoded.astype(np.float64), SAMPLE_RATE)
    return (float(result.moslqo),)


_MEANING = "similarity of spectrograms in speech mode, 1 to 5; a copy gets 4.3 to 4.9, depending on its level"
VISQOL = PerceptualMetric(
    name="visqol",
    outputs=(Metric(name="visqol", label="ViSQOL", meaning=_MEANING),),
    package="visqol",
    install="'visqol-python[lattice]'",
    score=_score,
)
