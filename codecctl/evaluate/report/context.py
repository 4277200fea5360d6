"""What the sections of the report show: numbers and names, which the templates put into words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from codecctl.evaluate.metrics.table import METRIC_GROUPS, METRICS
from codecctl.evaluate.report.charts import Point, histogram, rate_chart
from codecctl.evaluate.report.sentences import in_sentence, in_sentences
from codecctl.evaluate.systems import CODEC, FEWER, ORIGINAL, UNQUANTIZED, is_opus, label_of
from codecctl.text import number

if TYPE_CHECKING:
    from codecctl.evaluate.intervals import Mean
    from codecctl.evaluate.metrics.metric import Metric
    from codecctl.evaluate.result import System, Validation
    from codecctl.evaluate.utterances import ReferenceUtterance
    from codecctl.evaluate.verdict import Requirement, Verdict
    from codecctl.model.codec import Codec

Context = dict[str, Any]  # the variables of one section's template; a section whose variables are all empty is left out

_OF_CODEBOOKS = (  # heading, field of `CodebookStats`, digits
    ("size", "codebook_size", 0),
    ("usage", "codebook_usage", 3),
    ("perplexity", "perplexity", 1),
    ("dead codewords", "dead_codewords", 0),
    ("entropy, bits", "entropy_bits", 2),
    ("coded, bits", "coding_bits", 2),
    ("shared, bits", "mutual_information_bits", 2),
)
_IN_SUMMARY = ("pesq_wb", "estoi", "snr_db", "si_sdr_db", "mel_distance")


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | str | None = None  # to sort by; None: the text
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted. A marked row is that of the codec."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[tuple[bool, Sequence[Cell]]]


@dataclass(frozen=True)
class Player:
    """The beginning of one utterance through several systems, ready for the page."""

    anchor: str  # the id on the page
    utterance: ReferenceUtterance
    tracks: dict[str, str]  # system -> FLAC in base64, all of one length
    seconds: float
    spectrograms: tuple[str, str]  # of original and codec, as data URIs


def summary(result: Validation, requirements: Sequence[Requirement], verdict: Verdict) -> Context:
    cards = [("true bitrate", f"{result.bitrate_kbps:.2f} kbps", "all codes, over all seconds")]
    cards += [
        (METRICS[n].label, number(result.means[n], METRICS[n].digits), _direction(METRICS[n]))
        for n in _IN_SUMMARY
        if n in result.means
    ]
    required = [(requirement.passed, in_sentence(requirement)) for requirement in requirements]
    return {"cards": cards, "verdict": in_sentences(result, verdict), "requirements": required}


def systems(result: Validation) -> Context:
    rows = [(s.name == CODEC, [Cell(s.label), _number(s.bitrate_kbps, 2)], s.metrics) for s in result.systems]
    measured = {name for system in result.systems for name in system.metrics}
    terms = {
        metric.label: f"{metric.meaning}; {_direction(metric)}"
        for group in METRIC_GROUPS.values()
        for metric in group
        if metric.name in measured
    }
    return {"tables": _metric_tables(["system", "kbps"], rows), "terms": terms}


def groups(result: Validation) -> Context:
    rows = [(False, [Cell(g.name), Cell(g.kind), _number(g.n_utterances, 0)], g.metrics) for g in result.groups]
    return {"tables": _metric_tables(["group", "kind", "recordings"], rows)}


def comparison(result: Validation) -> Context:
    if result.comparison is None:
        return {}
    rows = [
        (False, [Cell(METRICS[name].label), *(_number(v, 4) for v in (mean.value, mean.low, mean.high))])
        for name, mean in result.comparison.differences.items()
    ]
    heads = ["metric", "this minus the other", "95 % from", "to"]
    table = Table("Differences recording by recording.", heads, rows)
    return {"table": table, "shares": result.comparison.equal_codes}


def blind_test(examples: Sequence[Player]) -> Context:
    if not examples:
        return {}
    others = [system for system in examples[0].tracks if system not in (ORIGINAL, CODEC)]
    pairs = [(ORIGINAL, CODEC), *((CODEC, system) for system in others), *((ORIGINAL, system) for system in others)]
    return {"pairs": pairs, "anchors": [player.anchor for player in examples]}


def curve(result: Validation) -> Context:
    ours = sorted(
        (s for s in result.systems if s.name == CODEC or s.name.startswith(FEWER)), key=lambda s: s.bitrate_kbps or 0
    )
    opus = [s for s in result.systems if is_opus(s.name)]
    without = result.system(UNQUANTIZED)
    charts = []
    for name in result.systems[0].metrics:
        level = Point(0, without.metrics[name].value, "quantizer off") if without and name in without.metrics else None
        label = METRICS[name].label
        charts.append((label, Markup(rate_chart(label, _points(ours, name), _points(opus, name), level))))
    return {"charts": charts}


def codebooks(result: Validation) -> Context:
    columns = [title for title, _, _ in _OF_CODEBOOKS]
    table = Table(
        "Per code. Coded: what ideal entropy coding would need, the bias of few codes removed. Shared: mutual "
        "information with the codebook before, where there are enough codes.",
        ["codebook", *columns],
        [
            (False, [_number(k, 0), *(_number(getattr(c, name), n) for _, name, n in _OF_CODEBOOKS)])
            for k, c in enumerate(result.codebooks, start=1)
        ],
    )
    rows = [
        (
            False,
            [
                Cell(group.name),
                _number(k, 0),
                *(_number(getattr(codebook, name), n) for _, name, n in _OF_CODEBOOKS[:-1]),
            ],
        )
        for group in result.groups
        for k, codebook in enumerate(group.codebooks, start=1)
    ]
    by_language = Table("The same by language.", ["language", "codebook", *columns[:-1]], rows) if rows else None
    title = "Codebook {}: hits of its {} codewords by rank"
    charts = [
        (f"codebook {k}", Markup(histogram(f"{title.format(k, len(hits))}, {(hits == 0).sum()} without any", hits)))
        for k, hits in enumerate(result.histograms, start=1)
    ]
    return {"table": table, "by_language": by_language, "charts": charts}


def semantics(result: Validation) -> Context:
    read = [(system.label, system.metrics["wer"].value) for system in result.systems if "wer" in system.metrics]
    return {
        "speaker": result.speaker_probe,
        "content": result.content_probe,
        "words_missing": result.not_measured.get("wer", ""),
        "word_errors": [(label, value) for label, value in read if not math.isnan(value)],
        "n_texts": result.n_texts,
        "n_utterances": result.n_utterances,
    }


def worst(result: Validation, examples: Sequence[Player], players: Sequence[Player]) -> Context:
    anchors = {player.utterance.id: player.anchor for player in (*examples, *players)}
    lists = [(METRICS[name], entries) for name, entries in result.worst.items()]
    return {"lists": lists, "anchors": anchors, "items": players}


def model(codec: Codec, name: str, fingerprint: str, step: int) -> Context:
    n_parameters = sum(parameter.numel() for parameter in codec.parameters())
    n_parameters += sum(codebook.codewords.numel() for codebook in codec.quantizer.codebooks)
    return {
        "name": name,
        "fingerprint": fingerprint,
        "step": step,
        "n_parameters": n_parameters,
        "config": codec.config,
    }


def method(result: Validation) -> Context:
    names: dict[str, list[str]] = defaultdict(list)  # by reason
    for name, reason in result.not_measured.items():
        names[reason].append(METRICS[name].label if name in METRICS else label_of(name, len(result.codebooks)))
    return {
        "delays": sorted(result.delays.items()),
        "not_measured": [(", ".join(labels), reason) for reason, labels in names.items()],
        "failed": result.failed,
    }


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _metric_tables(heads: Sequence[str], rows: Sequence[tuple[bool, list[Cell], Mapping[str, Mean]]]) -> list[Table]:
    """A table for each group of metrics, as one would be wider than a screen. Rows: marked, first cells, means."""
    tables = []
    for title, group in METRIC_GROUPS.items():
        metrics = [metric for metric in group if any(metric.name in means for _, _, means in rows)]
        cells = [
            (marked, [*first, *(_mean(means.get(metric.name), metric.digits) for metric in metrics)])
            for marked, first, means in rows
            if any(metric.name in means for metric in metrics)
        ]
        caption = f"{title}. Means over the recordings, 95 % intervals in brackets."
        if metrics:
            tables.append(Table(caption, [*heads, *(metric.label for metric in metrics)], cells))
    return tables


def _number(value: float | None, digits: int) -> Cell:
    if value is None:
        return Cell("", "")
    return Cell(number(value, digits), "" if math.isnan(value) else value)


def _mean(mean: Mean | None, digits: int) -> Cell:
    if mean is None:
        return Cell("", "")
    interval = "" if math.isnan(mean.low) else f"[{number(mean.low, digits)}, {number(mean.high, digits)}]"
    return Cell(number(mean.value, digits), "" if math.isnan(mean.value) else mean.value, interval)


def _points(systems: Iterable[System], metric: str) -> list[Point]:
    return [
        Point(system.bitrate_kbps or 0, mean.value, system.label, mean.low, mean.high)
        for system in systems
        if (mean := system.metrics.get(metric)) is not None
    ]


def _direction(metric: Metric) -> str:
    marks = "" if metric.good is None else f": above {metric.good:g} is good, above {metric.excellent:g} excellent"
    return ("higher" if metric.higher_is_better else "lower") + f" is better{marks}"
