"""The result in sentences, as the report and the command show it, and whether it meets `validate.require`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from codecctl.errors import UsageError
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.rendering import UNQUANTIZED, is_opus
from codecctl.evaluate.result import System, Validation
from codecctl.text import did_you_mean

_CODEBOOK_SHARES = ("perplexity", "codebook_usage")  # as a share of the best possible value, of the worst codebook
_WEAK_CODEBOOK = 0.1  # perplexity below this share of the codebook's size is worth a warning
_ROUNDING = 1e-6  # smaller differences are rounding errors
_RANKING = ("pesq_wb", "visqol", "estoi", "mel_distance")  # the first of these that was measured ranks codecs


@dataclass(frozen=True)
class Requirement:
    """One line of `validate.require`, checked."""

    name: str
    limit: float
    value: float  # NaN: not measured
    passed: bool
    line: str  # in words

    def to_dict(self) -> dict[str, str | float | bool]:
        return {"name": self.name, "limit": self.limit, "value": self.value, "passed": self.passed}


def check_requirements(require: Mapping[str, float]) -> None:
    """Raises `UsageError` for a name that is not a metric."""
    names = [*_CODEBOOK_SHARES, *METRICS]
    for name in require:
        if name not in names:
            raise UsageError(f"validate.require.{name}: no such metric{did_you_mean(name, names)}")


def verdict_of(result: Validation) -> tuple[str, ...]:
    """The result in sentences, the most important first."""
    sentences = [_rank(result), _noise(result), _quantizer_cost(result), *_codebooks(result), _against(result)]
    return tuple(sentence for sentence in sentences if sentence)


def compare_requirements(result: Validation, require: Mapping[str, float]) -> tuple[Requirement, ...]:
    """Each requirement, compared with the result. A metric that was not measured does not pass."""
    return tuple(_compare(result, name, limit) for name, limit in require.items())


def _compare(result: Validation, name: str, limit: float) -> Requirement:
    if name in _CODEBOOK_SHARES:
        shares = [getattr(c, name) / (c.codebook_size if name == "perplexity" else 1) for c in result.codebooks]
        worst = min(range(len(shares)), key=lambda k: shares[k])
        line = f"{name} of codebook {worst + 1} is {shares[worst]:.3f} of its best, required is {limit:g} in every one"
        return Requirement(name, limit, shares[worst], shares[worst] >= limit, line)
    value = result.means.get(name, math.nan)
    higher = METRICS[name].higher_is_better
    passed = value >= limit if higher else value <= limit  # NaN never passes
    got = "was not measured" if math.isnan(value) else f"is {value:.4g}"
    return Requirement(
        name, limit, value, passed, f"{name} {got}, required is {limit:g} or {'more' if higher else 'less'}"
    )


def _rank(result: Validation) -> str:
    """The codec's rank among the Opus rates, by the best metric that was measured."""
    codec = result.systems[0]
    name = next((n for n in _RANKING if not math.isnan(result.means.get(n, math.nan))), None)
    if name is None:  # silence
        return ""
    metric, ours = METRICS[name], codec.metrics[name]
    reached = f"{ours.value:.{metric.digits}f}"
    if not math.isnan(ours.low):
        reached += f" (95 %: {ours.low:.{metric.digits}f} to {ours.high:.{metric.digits}f})"
    start = f"At {result.bitrate_kbps:.2f} kbps the codec reaches {metric.label} {reached}"
    anchors = sorted(
        (s for s in result.systems if is_opus(s.name) and name in s.metrics),
        key=lambda s: s.bitrate_kbps or 0,
    )
    if not anchors:
        return f"{start}; Opus was not measured beside it."
    sense = 1 if metric.higher_is_better else -1
    beaten = [s for s in anchors if sense * (ours.value - s.metrics[name].value) > 0]
    if not beaten:
        return f"{start}: worse than {_named(anchors[0], name)}."
    if len(beaten) == len(anchors):
        return f"{start}: better than {_named(anchors[-1], name)}."
    above = next(s for s in anchors if s not in beaten)
    return f"{start}: better than {_named(beaten[-1], name)}, not as good as {_named(above, name)}."


def _noise(result: Validation) -> str:
    snr, (bound, even) = result.means["snr_db"], result.snr_bounds_db
    if math.isnan(snr):
        return ""
    mark = METRICS["snr_db"]
    assert mark.good is not None
    assert mark.excellent is not None
    grade = "excellent" if snr > mark.excellent else "good" if snr > mark.good else "low"
    possible = (
        f"{mark.good:g} dB is out of reach, and a codec that sounds good need not come near it"
        if even < mark.good
        else f"{mark.good:g} dB is possible here"
    )
    return (
        f"SNR {snr:.1f} dB is {grade} (above {mark.good:g} dB is good, above {mark.excellent:g} dB excellent). The "
        f"Gaussian bound at this bitrate is {bound:.1f} dB, {even:.1f} dB with the same bits in every frame, as the "
        f"codec sends them: {possible}."
    )


def _quantizer_cost(result: Validation) -> str:
    """Whether the quantizer or encoder and decoder limit the quality."""
    without = result.system(UNQUANTIZED)
    if without is None:
        return ""
    ours, theirs = result.means["mel_distance"], without.metrics["mel_distance"].value
    if math.isnan(ours) or math.isnan(theirs) or ours <= 0:
        return ""
    share = theirs / ours
    where = "encoder and decoder limit the quality" if share > 0.8 else "the quantizer limits the quality"
    return f"With the quantizer off the mel distance is {theirs:.3f} instead of {ours:.3f}: {where}."


def _codebooks(result: Validation) -> list[str]:
    weak = [
        f"codebook {k} ({codebook.perplexity:.0f} of {codebook.codebook_size})"
        for k, codebook in enumerate(result.codebooks, start=1)
        if codebook.perplexity < _WEAK_CODEBOOK * min(codebook.codebook_size, max(1, codebook.n_codes))
    ]
    coded = (
        f"Ideal entropy coding of the codes would need {result.entropy_coded_kbps:.2f} kbps instead of "
        f"{result.bitrate_kbps:.2f}."
    )
    return [f"Weakly used, by perplexity: {', '.join(weak)}." if weak else "Every codebook is in use.", coded]


def _against(result: Validation) -> str:
    if result.comparison is None:
        return ""
    better: list[str] = []
    worse: list[str] = []
    for name, mean in result.comparison.differences.items():
        if mean.low > _ROUNDING or mean.high < -_ROUNDING:  # NaN is neither
            good = (mean.value > 0) == METRICS[name].higher_is_better
            (better if good else worse).append(METRICS[name].label)
    parts = [f"better in {', '.join(better)}"] * bool(better) + [f"worse in {', '.join(worse)}"] * bool(worse)
    if not parts:
        return "Compared with the other checkpoint, no difference is certain."
    return f"Compared with the other checkpoint it is {' and '.join(parts)}; other differences are not certain."


def _named(system: System, metric: str) -> str:
    value = system.metrics[metric].value
    return f"{system.label} ({value:.{METRICS[metric].digits}f} at a true {system.bitrate_kbps:.2f} kbps)"
