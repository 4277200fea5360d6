"""DistillMOS (Stahl & Gamper 2025)."""

from __future__ import annotations

import contextlib
import importlib
import io
from functools import cache
from typing import Any

from codecctl.audio import Audio
from codecctl.evaluate.metrics.metric import Context, Metric, PerceptualMetric


@cache
def _model() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints
        return importlib.import_module("distillmos").ConvTransformerSQAModel().eval()


def _score(_: Audio, decoded: Audio, __: Context) -> tuple[float, ...]:
    import torch

    with torch.inference_mode():
        return (float(_model()(torch.from_numpy(decoded)[None])),)


_MEANING = "a model's estimate of listeners' opinions, 1 to 5, from the decoded sound alone"
DISTILLMOS = PerceptualMetric(
    name="distillmos",
    outputs=(Metric(name="distillmos", label="DistillMOS", meaning=_MEANING),),
    package="distillmos",
    install="distillmos",
    score=_score,
    needs_reference=False,
)
