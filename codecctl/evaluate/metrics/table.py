"""The table of signal metrics, and all scores by name and by group. A new signal metric is a file here and a row in
`SIGNAL_METRICS`."""

from __future__ import annotations

from codecctl.evaluate.metrics.metric import Metric
from codecctl.evaluate.metrics.perceptual import PERCEPTUAL_METRICS
from codecctl.evaluate.metrics.ratios import SI_SDR, SNR
from codecctl.evaluate.metrics.spectral import LOG_SPECTRAL_DISTANCE, MEL_DISTANCE

SIGNAL_METRICS = (SNR, SI_SDR, MEL_DISTANCE, LOG_SPECTRAL_DISTANCE)

_OUTPUTS = [(row, output) for row in PERCEPTUAL_METRICS.values() for output in row.outputs]

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*SIGNAL_METRICS, *(output for _, output in _OUTPUTS))}
"""All scores by name, in the order in which results list them."""

METRIC_GROUPS: dict[str, tuple[Metric, ...]] = {
    "How it sounds beside the original": tuple(output for row, output in _OUTPUTS if row.needs_reference),
    "How it sounds by itself, as models of listeners say": tuple(
        output for row, output in _OUTPUTS if not row.needs_reference
    ),
    "How the signal differs": SIGNAL_METRICS,
}
"""The scores by group, in the order of the report's tables."""
