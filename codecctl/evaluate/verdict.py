"""What the numbers mean, in words, and whether they are good enough."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from codecctl.errors import UsageError
from codecctl.evaluate.baselines import UNQUANTIZED
from codecctl.evaluate.belief import Mean
from codecctl.evaluate.metrics import BOUNDS, METRICS
from codecctl.evaluate.result import System, Validation

# Of a book: the worst book's share of the best possible value counts.
_BOOK_SHARES = ("perplexity", "codebook_usage")
_WEAK_BOOK = 0.1  # perplexity below this share of the book's size is worth a warning
_NOTHING = 1e-6  # differences below this are the arithmetic's
_RANKING = ("pesq_wb", "visqol", "estoi", "mel_distance")  # the first of these that was measured ranks codecs


@dataclass(frozen=True)
class Requirement:
    """One line of `validate.require`, checked."""

    name: str
    limit: float
    value: float  # NaN: not measured
    passed: bool
    line: str  # for people


def check_requirements(require: Mapping[str, float]) -> None:
    """Raises `UsageError` for a name that is no metric."""
    names = [*_BOOK_SHARES, *(name for name in METRICS if name not in BOUNDS)]
    for name in require:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise UsageError(
                f"validate.require.{name}: no such metric" + (f"; did you mean '{near[0]}'?" if near else "")
            )


def judge(result: Validation, require: Mapping[str, float]) -> list[Requirement]:
    """Each requirement with what became of it. What was not measured does not pass."""
    return [_judge(result, name, limit) for name, limit in require.items()]


def say_verdict(result: Validation) -> list[str]:
    """The result in sentences, the most important first."""
    said = [_rank(result), _noise(result), _quantizer_cost(result), *_books(result), _against(result)]
    return [sentence for sentence in said if sentence]


def _judge(result: Validation, name: str, limit: float) -> Requirement:
    if name in _BOOK_SHARES:
        shares = [getattr(b, name) / (b.codebook_size if name == "perplexity" else 1) for b in result.books]
        worst = min(range(len(shares)), key=lambda k: shares[k])
        line = f"{name} of book {worst + 1} is {shares[worst]:.3f} of its best, required is {limit:g} in every book"
        return Requirement(name, limit, shares[worst], shares[worst] >= limit, line)
    value = result.means.get(name, math.nan)
    higher = METRICS[name].higher_is_better
    passed = value >= limit if higher else value <= limit  # NaN never passes
    got = "was not measured" if math.isnan(value) else f"is {value:.4g}"
    return Requirement(
        name, limit, value, passed, f"{name} {got}, required is {limit:g} or {'more' if higher else 'less'}"
    )


def _rank(result: Validation) -> str:
    """Where the codec stands among the Opus rates, by the best measure there is."""
    codec = result.systems[0]
    name = next(n for n in _RANKING if n in codec.metrics and not math.isnan(codec.metrics[n].value))
    metric, ours = METRICS[name], codec.metrics[name]
    start = f"At {result.bitrate_kbps:.2f} kbps the codec reaches {metric.label} {_with_interval(ours, metric.digits)}"
    anchors = sorted(
        (s for s in result.systems if s.name.startswith("opus_") and name in s.metrics),
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
    codec = result.systems[0].metrics
    snr, bound, even = (codec[name].value for name in ("snr_db", *BOUNDS))
    if math.isnan(snr):
        return ""
    mark = METRICS["snr_db"]
    assert mark.good is not None
    assert mark.excellent is not None
    grade = "excellent" if snr > mark.excellent else "good" if snr > mark.good else "below the mark"
    possible = (
        "the mark of a good one lies beyond it, and a codec that sounds well need not even come near"
        if even < mark.good
        else "the mark of a good one is possible here"
    )
    return (
        f"SNR {snr:.1f} dB is {grade} (above {mark.good:g} dB is good, above {mark.excellent:g} dB excellent). The "
        f"Gaussian bound at this bitrate is {bound:.1f} dB, {even:.1f} dB with the same bits in every frame, as the "
        f"codec sends them: {possible}."
    )


def _quantizer_cost(result: Validation) -> str:
    """Whether the loss lies in the quantizer or already in encoder and decoder."""
    without = result.system(UNQUANTIZED)
    if without is None:
        return ""
    ours, theirs = result.means["mel_distance"], without.metrics["mel_distance"].value
    if math.isnan(ours) or math.isnan(theirs) or ours <= 0:
        return ""
    share = theirs / ours
    where = "encoder and decoder are what limits it" if share > 0.8 else "the quantizer is what limits it"
    return f"With the quantizer off the mel distance is {theirs:.3f} instead of {ours:.3f}: {where}."


def _books(result: Validation) -> list[str]:
    weak = [
        f"book {k} ({book.perplexity:.0f} of {book.codebook_size})"
        for k, book in enumerate(result.books, start=1)
        if book.perplexity < _WEAK_BOOK * min(book.codebook_size, max(1, book.n_codes))
    ]
    coded = (
        f"Ideal entropy coding of the codes would need {result.entropy_coded_kbps:.2f} kbps instead of "
        f"{result.bitrate_kbps:.2f}."
    )
    if weak:
        return [f"Weakly used, by perplexity: {', '.join(weak)}.", coded]
    return ["Every book is in use.", coded]


def _against(result: Validation) -> str:
    if result.comparison is None:
        return ""
    better: list[str] = []
    worse: list[str] = []
    for name, mean in result.comparison.differences.items():
        if name not in BOUNDS and (mean.low > _NOTHING or mean.high < -_NOTHING):  # NaN is neither
            good = (mean.value > 0) == METRICS[name].higher_is_better
            (better if good else worse).append(METRICS[name].label)
    parts = [f"better in {', '.join(better)}"] * bool(better) + [f"worse in {', '.join(worse)}"] * bool(worse)
    if not parts:
        return "Beside the other checkpoint no difference is certain."
    return f"Beside the other checkpoint it is {' and '.join(parts)}; other differences are not certain."


def _with_interval(mean: Mean, digits: int) -> str:
    if math.isnan(mean.low):
        return f"{mean.value:.{digits}f}"
    return f"{mean.value:.{digits}f} (95 %: {mean.low:.{digits}f} to {mean.high:.{digits}f})"


def _named(system: System, metric: str) -> str:
    value = system.metrics[metric].value
    return f"{system.label} ({value:.{METRICS[metric].digits}f} at a true {system.bitrate_kbps:.2f} kbps)"
