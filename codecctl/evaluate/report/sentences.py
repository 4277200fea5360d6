"""A verdict and requirements in sentences, as the page, the command and its JSON have them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.systems import UNQUANTIZED

if TYPE_CHECKING:
    from codecctl.evaluate.result import System, Validation
    from codecctl.evaluate.verdict import Rank, Requirement, Verdict

_LIMITS = {
    "networks": "encoder and decoder limit it, and more bits for the same latents would help little",
    "quantizer": "the quantizer limits it",
    "quantizer and networks": "the quantizer limits it, and so do encoder and decoder",
}


def in_sentences(result: Validation, verdict: Verdict) -> list[str]:
    """The most important first."""
    sentences = [_rank(result, verdict.rank)] if verdict.rank else []
    if verdict.snr:
        sentences.append(_snr(result, verdict.snr))
    without = result.system(UNQUANTIZED)
    if verdict.limit and without:
        theirs, ours = without.metrics["mel_distance"].value, result.means["mel_distance"]
        sentences.append(
            f"With the quantizer off the mel distance is {theirs:.3f} instead of {ours:.3f}: {_LIMITS[verdict.limit]}."
        )
    return [*sentences, *_codebooks(result, verdict), *([_against(verdict)] if result.comparison else [])]


def in_sentence(requirement: Requirement) -> str:
    """What was required, and what is."""
    name, value, limit = requirement.name, requirement.value, requirement.limit
    if requirement.codebook is not None:
        number = requirement.codebook + 1
        return f"{name} of codebook {number} is {value:.3f} of its best, required is {limit:g} in every one"
    got = "was not measured" if math.isnan(value) else f"is {value:.4g}"
    return f"{name} {got}, required is {limit:g} or {'more' if METRICS[name].higher_is_better else 'less'}"


def _rank(result: Validation, rank: Rank) -> str:
    metric, ours = METRICS[rank.metric], result.systems[0].metrics[rank.metric]
    reached = f"{ours.value:.{metric.digits}f}"
    if not math.isnan(ours.low):
        reached += f" (95 %: {ours.low:.{metric.digits}f} to {ours.high:.{metric.digits}f})"
    start = f"At {result.bitrate_kbps:.2f} kbps the codec reaches {metric.label} {reached}"
    beaten, unbeaten = (each and _named(each, rank.metric) for each in (rank.beaten, rank.unbeaten))
    if beaten is None:
        return f"{start}: worse than {unbeaten}." if unbeaten else f"{start}; Opus was not measured beside it."
    return f"{start}: better than {beaten}{f', not as good as {unbeaten}' if unbeaten else ''}."


def _snr(result: Validation, grade: str) -> str:
    mark, (bound, even) = METRICS["snr_db"], result.snr_bounds_db
    possible = (
        f"{mark.good:g} dB is out of reach, and a codec that sounds good need not come near it"
        if mark.good is not None and even < mark.good
        else f"{mark.good:g} dB is possible here"
    )
    return (
        f"SNR {result.means['snr_db']:.1f} dB is {grade} (above {mark.good:g} dB is good, above {mark.excellent:g} dB "
        f"excellent). The Gaussian bound at this bitrate is {bound:.1f} dB, {even:.1f} dB with the same bits in every "
        f"frame, as the codec sends them: {possible}."
    )


def _codebooks(result: Validation, verdict: Verdict) -> list[str]:
    codebooks = [(k + 1, result.codebooks[k]) for k in verdict.weak_codebooks]
    weak = ", ".join(f"codebook {n} ({each.perplexity:.0f} of {each.codebook_size})" for n, each in codebooks)
    return [
        f"Weakly used, by perplexity: {weak}." if weak else "Every codebook is in use.",
        f"Ideal entropy coding of the codes would need {result.entropy_coded_kbps:.2f} kbps instead of "
        f"{result.bitrate_kbps:.2f}.",
    ]


def _against(verdict: Verdict) -> str:
    better, worse = (", ".join(METRICS[name].label for name in names) for names in (verdict.better, verdict.worse))
    parts = [f"better in {better}"] * bool(better) + [f"worse in {worse}"] * bool(worse)
    if not parts:
        return "Compared with the other checkpoint, no difference is certain."
    return f"Compared with the other checkpoint it is {' and '.join(parts)}; other differences are not certain."


def _named(system: System, metric: str) -> str:
    value = system.metrics[metric].value
    return f"{system.label} ({value:.{METRICS[metric].digits}f} at a true {system.bitrate_kbps:.2f} kbps)"
