"""Perceptual metrics of decoded signals. Each needs an optional package; without it the metric is "not measured"."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from codecctl.audio import Audio
from codecctl.errors import ConfigError
from codecctl.evaluate.metrics.metric import SAMPLE_RATE, Context
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.metrics.words import check_recogniser, transcribe
from codecctl.evaluate.systems import ORIGINAL
from codecctl.text import did_you_mean

if TYPE_CHECKING:
    from codecctl.config.schema import ValidateConfig

_SHORTEST_SECONDS = 0.5  # below this the metrics are undefined

Scores = dict[str, float]  # by metric
SystemScores = dict[str, Scores]


def unavailable(names: Sequence[str], recogniser: str | None = None) -> dict[str, str]:
    """Score -> why it is not measured. `names` are the metrics asked for."""
    others = [name for name in PERCEPTUAL_METRICS if name not in names]
    not_asked = f"validate.metrics names {', '.join(names) or 'none'}; there are also {', '.join(others)}"
    reasons = {**dict.fromkeys(others, f"not asked for: {not_asked}"), **missing(names, recogniser)}
    return {output.name: reason for name, reason in reasons.items() for output in PERCEPTUAL_METRICS[name].outputs}


def missing(names: Sequence[str], recogniser: str | None) -> dict[str, str]:
    """Those of the metrics `names` that cannot be measured here -> why."""
    reasons = {}
    for name in names:
        metric = PERCEPTUAL_METRICS[name]
        if (absent := _missing(metric.package)) is not None:
            reasons[name] = f"{absent}: pip install {metric.install}"
        elif metric.reads_text and recogniser is None:
            reasons[name] = "no recogniser: name the folder of a faster-whisper model in validate.recogniser"
    return reasons


def installed(config: ValidateConfig) -> tuple[str, ...]:
    """The metrics that the config asks for and that can be measured here.

    Raises `ConfigError` for an unknown metric, `UsageError` for a folder that holds no recogniser.
    """
    for name in config.metrics:
        if name not in PERCEPTUAL_METRICS:
            hint = did_you_mean(name, PERCEPTUAL_METRICS) or f"; there are {', '.join(PERCEPTUAL_METRICS)}"
            raise ConfigError(f"validate.metrics: no metric '{name}'{hint}")
    absent = missing(config.metrics, config.recogniser)
    names = tuple(name for name in config.metrics if name not in absent)
    if config.recogniser is not None and reads_text(names):
        check_recogniser(config.recogniser)
    return names


def reads_text(names: Sequence[str]) -> bool:
    """Whether one of the metrics needs a speech recogniser."""
    return any(PERCEPTUAL_METRICS[name].reads_text for name in names)


def score_all(
    pairs: Mapping[str, tuple[Audio, Audio]], original: Audio, names: Sequence[str], context: Context
) -> SystemScores:
    """The scores of each system's reference and decoded [L], and those that the original itself can have."""
    metrics = {name: PERCEPTUAL_METRICS[name] for name in names}
    alone = [n for n, m in metrics.items() if not m.needs_reference or (m.reads_text and context.text)]
    scores = {ORIGINAL: score(original, original, alone, context)}
    if context.recogniser and context.text is None and reads_text(names):
        # Once for all systems, whose references differ by a few samples.
        context = replace(context, text=transcribe(original, context.recogniser, context.language))
    return {**scores, **{system: score(*pair, names, context) for system, pair in pairs.items()}}


def score(reference: Audio, decoded: Audio, names: Sequence[str], context: Context | None = None) -> Scores:
    """The scores of the metrics `names` for [L] and [L] at `SAMPLE_RATE`; NaN where one is undefined."""
    context, found = context or Context(), {}
    for name in names:
        metric = PERCEPTUAL_METRICS[name]
        too_short = len(decoded) < _SHORTEST_SECONDS * SAMPLE_RATE or not reference.any()
        values = [math.nan] * len(metric.outputs) if too_short else metric.score(reference, decoded, context)
        found.update({output.name: value for output, value in zip(metric.outputs, values, strict=True)})
    return found


def _missing(package: str) -> str | None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        return f"not installed ({error.name or package} is missing)"
    return None
