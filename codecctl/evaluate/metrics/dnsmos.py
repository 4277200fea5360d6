"""DNSMOS P.835 and P.808 (Reddy et al. 2022)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import numpy as np

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context, Metric, PerceptualMetric

_OPINION = "a model's estimate of listeners' opinions, 1 to 5, from the decoded sound alone"


def _score(_: Audio, decoded: Audio, __: Context) -> tuple[float, ...]:
    package = importlib.import_module("speechmos.dnsmos")
    scores: Mapping[str, float] = package.run(np.clip(decoded, -1, 1), SAMPLE_RATE)
    return tuple(float(scores[key]) for key in ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos"))


DNSMOS = PerceptualMetric(
    name="dnsmos",
    outputs=(
        Metric(name="dnsmos_overall", label="DNSMOS overall", meaning=f"DNSMOS P.835: {_OPINION}"),
        Metric(name="dnsmos_speech", label="DNSMOS speech", meaning="of the speech in it"),
        Metric(
            name="dnsmos_background", label="DNSMOS background", meaning="of the background, 5 is none that disturbs"
        ),
        Metric(name="dnsmos_p808", label="DNSMOS P.808", meaning=f"an earlier model: {_OPINION}"),
    ),
    package="speechmos.dnsmos",
    install="speechmos librosa onnxruntime",
    score=_score,
    needs_reference=False,
)
