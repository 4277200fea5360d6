"""STOI (Taal et al. 2011) and ESTOI (Jensen & Taal 2016)."""

from __future__ import annotations

import importlib
import math
import warnings
from functools import lru_cache

import numpy as np

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context, Metric, PerceptualMetric

_STOI_RATE = 10000  # Hz, at which STOI is defined


def _score(reference: Audio, decoded: Audio, _: Context) -> tuple[float, ...]:
    stoi = importlib.import_module("pystoi").stoi
    pair = [_at_stoi_rate(signal.tobytes()) for signal in (reference, decoded)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # raised when too little is left after silence is removed
        try:
            scores = float(stoi(*pair, _STOI_RATE)), float(stoi(*pair, _STOI_RATE, extended=True))
        except RuntimeWarning:
            return math.nan, math.nan
    # numpy's sums depend on how arrays are aligned in memory: rounded, the same audio has the same scores.
    return tuple(round(score, 9) for score in scores)


@lru_cache(maxsize=2)
def _at_stoi_rate(samples: bytes) -> Audio:
    """Resampled by the package's own filter, once for both scores; the next system has the same reference."""
    signal = np.frombuffer(samples, np.float32)
    return importlib.import_module("pystoi.utils").resample_oct(signal, _STOI_RATE, SAMPLE_RATE)


_MEANING = "intelligibility: correlation of band envelopes with the original's, at most 1"
STOI = PerceptualMetric(
    name="stoi",
    outputs=(
        Metric(name="stoi", label="STOI", digits=3, meaning=_MEANING),
        Metric(name="estoi", label="ESTOI", digits=3, meaning="the same, more sensitive where noise fluctuates"),
    ),
    package="pystoi",
    install="pystoi",
    score=_score,
)
