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


def _output(name: str, label: str, meaning: str) -> Metric:
    return Metric(name=name, label=label, meaning=meaning)


DNSMOS = PerceptualMetric(
    name="dnsmos",
    outputs=(
        _output("dnsmos_overall", "DNSMOS overall", f"DNSMOS P.835: {_OPINION}"),
        _output("dnsmos_speech", "DNSMOS speech", "of the speech in it"),
        _output("dnsmos_background", "DNSMOS background", "of the background, 5 is none that disturbs"),
        _output("dnsmos_p808", "DNSMOS P.808", f"an earlier model: {_OPINION}"),
    ),
    package="speechmos.dnsmos",
    install="speechmos librosa onnxruntime",
    score=_score,
    needs_reference=False,
)
