"""What follows from a result: the codec's place among others, what limits it, whether it meets `validate.require`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from codecctl.errors import UsageError
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.result import System, Validation
from codecctl.evaluate.systems import UNQUANTIZED, is_opus
from codecctl.text import did_you_mean

_CODEBOOK_SHARES = ("perplexity", "codebook_usage")  # as a share of the best possible value, of the worst codebook
_WEAK_CODEBOOK = 0.1  # perplexity below this share of the codebook's size is worth a warning
_HALF, _MOST = 0.5, 0.8  # of a distance
_ROUNDING = 1e-6  # smaller differences are rounding errors
_RANKING = ("pesq_wb", "visqol", "estoi", "mel_distance")  # the first of these that was measured ranks codecs


@dataclass(frozen=True)
class Verdict:
    """What follows from the numbers of a result; `report/words.txt.j2` has it in sentences."""

    metric: str | None  # that ranks the codec among the Opus rates; None: silence
    beaten: System | None  # the highest rate that is worse
    unbeaten: System | None  # the lowest rate that is not
    snr: Literal["low", "good", "excellent"] | None
    limit: Literal["quantizer", "quantizer and networks", "networks"] | None  # what limits the mel distance
    weak_codebooks: tuple[int, ...]  # by perplexity, counted from 0
    better: tuple[str, ...]  # metrics that are certainly better than the other checkpoint's
    worse: tuple[str, ...]


@dataclass(frozen=True)
class Requirement:
    """One key of `validate.require`, checked."""

    name: str
    limit: float
    value: float  # NaN: not measured
    passed: bool
    codebook: int | None  # the worst one, counted from 0, where it is a share in any codebook

    def to_dict(self) -> dict[str, str | float | bool]:
        return {"name": self.name, "limit": self.limit, "value": self.value, "passed": self.passed}


def check_requirements(require: Mapping[str, float]) -> None:
    """Raises `UsageError` for a name that is not a metric."""
    names = [*_CODEBOOK_SHARES, *METRICS]
    for name in require:
        if name not in names:
            raise UsageError(f"validate.require.{name}: no such metric{did_you_mean(name, names)}")


def compare(result: Validation, name: str, limit: float) -> Requirement:
    """One requirement, compared with the result. A metric that was not measured does not pass."""
    if name in _CODEBOOK_SHARES:
        shares = [getattr(c, name) / (c.codebook_size if name == "perplexity" else 1) for c in result.codebooks]
        worst = min(range(len(shares)), key=lambda k: shares[k])
        return Requirement(name, limit, shares[worst], shares[worst] >= limit, worst)
    value = result.means.get(name, math.nan)
    passed = value >= limit if METRICS[name].higher_is_better else value <= limit  # NaN never passes
    return Requirement(name, limit, value, passed, None)


def verdict_of(result: Validation) -> Verdict:
    better, worse = _against(result)
    weak = tuple(
        k
        for k, codebook in enumerate(result.codebooks)
        if codebook.perplexity < _WEAK_CODEBOOK * min(codebook.codebook_size, max(1, codebook.n_codes))
    )
    return Verdict(*_rank(result), _snr(result.means["snr_db"]), _limit(result), weak, better, worse)


def _rank(result: Validation) -> tuple[str | None, System | None, System | None]:
    name = next((n for n in _RANKING if not math.isnan(result.means.get(n, math.nan))), None)
    if name is None:
        return None, None, None
    anchors = sorted(
        (s for s in result.systems if is_opus(s.name) and name in s.metrics),
        key=lambda s: s.bitrate_kbps or 0,
    )
    sense = 1 if METRICS[name].higher_is_better else -1
    beaten = [s for s in anchors if sense * (result.means[name] - s.metrics[name].mean) > 0]
    return name, beaten[-1] if beaten else None, next((s for s in anchors if s not in beaten), None)


def _snr(value: float) -> Literal["low", "good", "excellent"] | None:
    mark = METRICS["snr_db"]
    assert mark.good is not None
    assert mark.excellent is not None
    if math.isnan(value):
        return None
    return "excellent" if value > mark.excellent else "good" if value > mark.good else "low"


def _limit(result: Validation) -> Literal["quantizer", "quantizer and networks", "networks"] | None:
    """By how much of the mel distance is there without the quantizer."""
    without = result.system(UNQUANTIZED)
    if without is None:
        return None
    ours, theirs = result.means["mel_distance"], without.metrics["mel_distance"].mean
    if math.isnan(ours) or math.isnan(theirs) or ours <= 0:
        return None
    share = theirs / ours
    return "networks" if share > _MOST else "quantizer" if share < _HALF else "quantizer and networks"


def _against(result: Validation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics whose difference to the other checkpoint is certain: better, worse."""
    differences = result.comparison.differences if result.comparison else {}
    certain = {name: m.mean for name, m in differences.items() if m.low > _ROUNDING or m.high < -_ROUNDING}  # not NaN
    better = tuple(name for name, value in certain.items() if (value > 0) == METRICS[name].higher_is_better)
    return better, tuple(name for name in certain if name not in better)
