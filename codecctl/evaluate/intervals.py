"""Means over utterances and their bootstrap confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_N_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class Mean:
    """A mean over utterances with its 95 % interval (percentile bootstrap, Efron & Tibshirani 1993, chapter 13)."""

    mean: float  # NaN: undefined for every utterance
    low: float  # NaN: fewer than two utterances
    high: float
    n: int  # utterances for which it is defined


def mean_of_defined(values: Iterable[float]) -> float:
    """The mean without NaN; NaN if nothing else is there."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def means(values: Values) -> list[Mean]:
    """[N, M] -> the mean of each column and its interval, without NaN. The same numbers give the same intervals.

    For a paired comparison, pass the differences.
    """
    defined = ~np.isnan(values)
    filled, counts = np.where(defined, values, 0.0), defined.sum(axis=0)
    centres = np.where(counts > 0, filled.sum(axis=0) / np.maximum(counts, 1), math.nan)
    lows, highs = _intervals(filled, defined.astype(np.float64), centres)
    known = counts > 1
    columns = (centres, np.where(known, lows, math.nan), np.where(known, highs, math.nan), counts)
    return [Mean(float(c), float(low), float(high), int(n)) for c, low, high, n in zip(*columns, strict=True)]


def _intervals(filled: Values, defined: Values, centres: Values) -> tuple[Values, Values]:
    """Percentiles 2.5 and 97.5 [M] of the means of resampled utterances."""
    n = len(filled)
    random = np.random.default_rng(0)
    resampled = []
    for _ in range(_N_RESAMPLES // _RESAMPLES_AT_ONCE):
        weights = random.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES_AT_ONCE).astype(np.float64)
        hits = weights @ defined
        # A resample may miss every utterance for which a rare metric is defined; the mean itself stands in.
        resampled.append(np.where(hits > 0, weights @ filled / np.maximum(hits, 1), centres))
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5], axis=0)
    return low, high
