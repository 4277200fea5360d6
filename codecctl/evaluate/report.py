"""The report as one HTML page that needs no network: to read, to sort, to listen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.baselines import CODEC, UNQUANTIZED, label_of
from codecctl.evaluate.belief import Mean
from codecctl.evaluate.charts import Point, histogram, rate_chart
from codecctl.evaluate.codebooks import BookStats
from codecctl.evaluate.listening import Clip, blind_test, link, make_examples, make_worst, player
from codecctl.evaluate.metrics import BOUNDS, KINDS, METRICS, Metric
from codecctl.evaluate.probe import ContentProbe, SpeakerProbe
from codecctl.evaluate.recordings import Recording
from codecctl.evaluate.result import System, Validation
from codecctl.evaluate.scoring import Plan, Renderer
from codecctl.evaluate.tables import cell, mean_cell, number, number_text, table
from codecctl.evaluate.validate import make_plan
from codecctl.evaluate.verdict import Requirement
from codecctl.files import replacing
from codecctl.model.codec import Codec

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class ModelCard:
    """What the checkpoint is."""

    name: str
    fingerprint: str
    step: int  # updates it was trained for


@dataclass(frozen=True)
class _Section:
    id: str
    title: str
    body: str


def write_report(
    folder: Path,
    result: Validation,
    judged: Sequence[Requirement],
    verdict: Sequence[str],
    *,
    codec: Codec,
    recordings: Sequence[Recording],
    config: ValidateConfig,
    card: ModelCard,
) -> Path:
    """Write `folder`/index.html, whole or not at all; returns its path. Renders some recordings anew to be heard."""
    plan = make_plan(codec, config, curve=True)
    measured = [recording for recording in recordings if recording.id not in result.failed]
    examples = make_examples(Renderer(codec, plan), result, measured)
    alone = Plan((), (), parts=False, measures=())
    worst = make_worst(Renderer(codec, alone), result, measured, examples)
    sections = [
        _summary(result, judged, verdict),
        _systems(result),
        _groups(result),
        _comparison(result),
        _listen(examples, codec.n_codebooks),
        _Section("blind-test", "Blind test (A/B/X)", blind_test(examples, codec.n_codebooks)),
        _curve(result),
        _codebooks(result),
        _semantics(result),
        _worst(result, [*examples, *worst], worst),
        _card(codec, card),
        _method(result),
    ]
    path = folder / PAGE_NAME
    with replacing(path) as partial:
        partial.write_text(_page(card, result, [s for s in sections if s.body]), encoding="utf-8")
    return path


def _page(card: ModelCard, result: Validation, sections: Sequence[_Section]) -> str:
    links = "".join(f'<li><a href="#{s.id}">{escape(s.title)}</a></li>' for s in sections)
    main = "\n".join(
        f'<section id="{s.id}" aria-labelledby="{s.id}-title"><h2 id="{s.id}-title">{escape(s.title)}</h2>'
        f"{s.body}</section>"
        for s in sections
    )
    n_planned = result.n_utterances + result.n_missing
    part = f" Interrupted: {result.n_missing} of {n_planned} are missing." if result.n_missing else ""
    return Template(_part("page.html")).substitute(
        title=escape(f"Codec report: {card.name}"),
        lead=escape(f"{result.n_utterances} recordings, {_duration(result.seconds)}, of {result.source}.{part}"),
        nav=f"<ul>{links}</ul>",
        main=main,
        footer="Made by codecctl validate.",
        style=_part("page.css"),
        script=_part("page.js"),
    )


def _summary(result: Validation, judged: Sequence[Requirement], verdict: Sequence[str]) -> _Section:
    means = result.systems[0].metrics
    shown = ("pesq_wb", "estoi", "snr_db", "si_sdr_db", "mel_distance")
    cards = [("true bitrate", f"{result.bitrate_kbps:.2f} kbps", "all codes, over all seconds")]
    cards += [
        (METRICS[n].label, number_text(means[n].value, METRICS[n].digits), _sense(METRICS[n]))
        for n in shown
        if n in means
    ]
    items = "".join(f"<li>{escape(k)}<b>{escape(v)}</b><small>{escape(how)}</small></li>" for k, v, how in cards)
    body = f'<ul class="cards">{items}</ul>'
    body += "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict)
    if judged:
        states = ["passed" if requirement.passed else "missed" for requirement in judged]
        lines = (f'<li class="{s}">{s}: {escape(r.line)}</li>' for s, r in zip(states, judged, strict=True))
        body += f"<h3>Requirements</h3><ul>{''.join(lines)}</ul>"
    return _Section("summary", "Summary and verdict", body)


def _systems(result: Validation) -> _Section:
    intro = (
        "<p>The same recordings through every system. The marked row is the codec with all its books. Below it: with "
        "the quantizer off, which is what encoder and decoder alone cost; with the first books alone; without the "
        "first; Opus, the codec of calls in the web; and the original without what lies above 4 kHz. Bitrates are true "
        "ones, from bits and bytes; what has none is not a codec.</p>"
    )
    rows = [(s.name == CODEC, [cell(s.label), number(s.bitrate_kbps, 2)], s.metrics) for s in result.systems]
    body = _metric_tables(["system", "kbps"], rows) + _meanings(result)
    return _Section("systems", "Beside other systems", intro + body)


def _metric_tables(heads: Sequence[str], rows: Sequence[tuple[bool, list[str], Mapping[str, Mean]]]) -> str:
    """A table for each kind of metric: all in one would be wider than a screen. Rows: marked, first cells, means."""
    made = ""
    for kind, title in KINDS.items():
        names = [n for n, metric in METRICS.items() if metric.kind == kind and any(n in row[2] for row in rows)]
        cells = [
            (marked, [*first, *(mean_cell(means.get(n), METRICS[n].digits) for n in names)])
            for marked, first, means in rows
            if any(n in means for n in names)
        ]
        caption = f"{title}. Means over the recordings, 95 % intervals in brackets."
        made += table(caption, [*heads, *(METRICS[n].label for n in names)], cells) if names else ""
    return made


def _meanings(result: Validation) -> str:
    """What the columns mean, for newcomers."""
    measured = dict.fromkeys(name for system in result.systems for name in system.metrics)
    terms = "".join(
        f"<dt>{escape(METRICS[name].label)}</dt><dd>{escape(f'{METRICS[name].meaning}; {_sense(METRICS[name])}')}</dd>"
        for kind in KINDS
        for name in METRICS
        if METRICS[name].kind == kind and name in measured
    )
    return f"<details open><summary>What the columns mean</summary><dl>{terms}</dl></details>"


def _sense(metric: Metric) -> str:
    marks = "" if metric.good is None else f": above {metric.good:g} is good, above {metric.excellent:g} excellent"
    return ("higher" if metric.higher_is_better else "lower") + f" is better{marks}"


def _groups(result: Validation) -> _Section:
    if not result.groups:
        return _Section("groups", "", "")
    heads = ["group", "kind", "recordings"]
    rows = [
        (False, [cell(group.name), cell(group.kind), number(group.n_utterances, 0)], group.metrics)
        for group in result.groups
    ]
    intro = "<p>The codec with all its books, by dataset, language and speaker.</p>"
    return _Section("groups", "By dataset, language and speaker", intro + _metric_tables(heads, rows))


def _comparison(result: Validation) -> _Section:
    if result.comparison is None:
        return _Section("against", "", "")
    heads = ["metric", "this less the other", "95 % from", "to"]
    rows = [
        (False, [cell(METRICS[name].label), *(number(v, 4) for v in (mean.value, mean.low, mean.high))])
        for name, mean in result.comparison.differences.items()
        if name not in BOUNDS
    ]
    shares = result.comparison.equal_codes
    told = (
        "The two do not count alike, so their codes cannot be compared."
        if shares is None
        else "Equal codes, by book: " + ", ".join(f"{share:.1%}" for share in shares) + "."
    )
    body = table("Differences recording by recording.", heads, rows) + f"<p>{told}</p>"
    return _Section("against", "Against the other checkpoint", body)


def _listen(examples: Sequence[Clip], n_codebooks: int) -> _Section:
    intro = "<p>All versions of a recording run together: switching keeps the place. Delays are taken out.</p>"
    body = "".join(player(clip, n_codebooks, pictures=True) for clip in examples)
    return _Section("listen", "Listen", intro + body if body else "")


def _curve(result: Validation) -> _Section:
    books = sorted(
        (s for s in result.systems if s.name == CODEC or _is_curve(s.name)), key=lambda s: s.bitrate_kbps or 0
    )
    opus = [s for s in result.systems if s.name.startswith("opus_")]
    without = result.system(UNQUANTIZED)
    charts = []
    for name in result.systems[0].metrics:
        if name in BOUNDS:
            continue
        level = Point(0, without.metrics[name].value, "quantizer off") if without and name in without.metrics else None
        label = METRICS[name].label
        chart = rate_chart(label, _points(books, name), _points(opus, name), level)
        charts.append(f"<figure><figcaption>{escape(label)}</figcaption>{chart}</figure>")
    key = "<p>Over the true bitrate: the codec by its books (solid, with the 95 % interval) and Opus (dashed).</p>"
    return _Section("curve", "Curve over books", key + f'<div class="charts">{"".join(charts)}</div>')


def _is_curve(name: str) -> bool:
    return name.startswith("books_") and "_to_" not in name


def _points(systems: Iterable[System], metric: str) -> list[Point]:
    return [
        Point(system.bitrate_kbps or 0, mean.value, system.label, mean.low, mean.high)
        for system in systems
        if (mean := system.metrics.get(metric)) is not None
    ]


def _codebooks(result: Validation) -> _Section:
    heads = ["book", "size", "usage", "perplexity", "dead codewords", "entropy, bits", "coded, bits", "shared, bits"]
    rows = [(False, [number(k, 0), *_book_cells(book)]) for k, book in enumerate(result.books, start=1)]
    caption = (
        "Per code. Coded: what ideal entropy coding would need, the bias of few codes taken off. Shared: mutual "
        "information with the book before, where there are codes enough to tell."
    )
    body = table(caption, heads, rows)
    by_language = [group for group in result.groups if group.books]
    if by_language:
        rows = [
            (False, [cell(group.name), number(k, 0), *_book_cells(book)[:-1]])
            for group in by_language
            for k, book in enumerate(group.books, start=1)
        ]
        languages = table("The same by language.", ["language", *heads[:-1]], rows)
        body += f"<details><summary>By language</summary>{languages}</details>"
    charts = "".join(
        f"<figure><figcaption>book {k}</figcaption>"
        + histogram(f"Book {k}: hits of its {len(hits)} codewords by rank, {(hits == 0).sum()} without any", hits)
        + "</figure>"
        for k, hits in enumerate(result.histograms, start=1)
    )
    body += "<p>How often each codeword was chosen, the most frequent first; a logarithmic height.</p>"
    return _Section("codebooks", "Codebooks", body + f'<div class="charts">{charts}</div>')


def _book_cells(book: BookStats) -> list[str]:
    return [
        number(book.codebook_size, 0),
        number(book.codebook_usage, 3),
        number(book.perplexity, 1),
        number(book.dead_codewords, 0),
        number(book.entropy_bits, 2),
        number(book.coding_bits, 2),
        number(book.mutual_information_bits, 2),
    ]


def _semantics(result: Validation) -> _Section:
    paragraphs = (_speaker_in_book_1(result.speaker_probe), _content_in_book_1(result.content_probe), _words(result))
    body = "".join(f"<p>{escape(text)}</p>" for text in paragraphs)
    return _Section("semantics", "What book 1 carries", body)


def _speaker_in_book_1(probe: SpeakerProbe | None) -> str:
    if probe is None:
        return "Speaker: not measured; it takes two known speakers with two recordings each."
    return (
        f"Speaker: the mean codeword of book 1 tells who speaks in {probe.book_1:.0%} of {probe.n_recordings} "
        f"recordings of {probe.n_speakers} speakers, that of all books in {probe.all_books:.0%}; by chance in "
        f"{probe.chance:.0%}. A book 1 that holds words and no voice comes near to chance."
    )


def _content_in_book_1(probe: ContentProbe | None) -> str:
    if probe is None:
        return "Content: not measured; it takes four recordings."
    return (
        "Content: how the spectral envelope of the original moves, which tells the sounds of speech apart, can be told "
        f"to {probe.book_1:.0%} from book 1 alone and to {probe.all_books:.0%} from all books, by a linear map from "
        f"the codeword of each frame, learnt on one half of {probe.n_recordings} recordings and tried on the other. "
        "Codes without content get 0 %."
    )


def _words(result: Validation) -> str:
    """What the recogniser reads, book by book."""
    if "wer" in result.not_measured:
        return f"Words: not measured ({result.not_measured['wer']}). Book 1 alone can be heard above."
    read = [(system.label, system.metrics["wer"].value) for system in result.systems if "wer" in system.metrics]
    rates = "; ".join(f"{label}: {value:.0%}" for label, value in read if not math.isnan(value))
    return f"Words that a recogniser gets wrong, beside {_said(result)}. {rates or 'No words were said'}."


def _said(result: Validation) -> str:
    own = "what it reads from the original"
    if not result.n_transcripts:
        return own
    all_given = result.n_transcripts == result.n_utterances
    return "the given transcripts" if all_given else f"the given transcripts ({result.n_transcripts}), else {own}"


def _worst(result: Validation, heard: Sequence[Clip], clips: Sequence[Clip]) -> _Section:
    playable = {clip.recording.id for clip in heard}
    body = '<div class="charts">'
    for name, worst in result.worst.items():
        label, digits = METRICS[name].label, METRICS[name].digits
        items = "".join(
            f"<li>{link(key) if key in playable else escape(key)}: {value:.{digits}f}</li>" for key, value in worst
        )
        body += f"<div><h3>{escape(label)}</h3><ol>{items}</ol></div>"
    body += "</div>" + "".join(player(clip, 0, pictures=False) for clip in clips)
    return _Section("worst", "Worst recordings", body)


def _card(codec: Codec, card: ModelCard) -> _Section:
    config = codec.config
    n_parameters = sum(parameter.numel() for parameter in codec.parameters())
    n_parameters += sum(codebook.codewords.numel() for codebook in codec.quantizer.codebooks)
    facts = {
        "checkpoint": card.name,
        "fingerprint of encoder and codebooks": card.fingerprint,
        "trained for": f"{card.step} steps",
        "parameters": f"{n_parameters:,}, codebooks included",
        "sample rate": f"{config.sample_rate} Hz",
        "frames": f"{config.frame_rate:g} a second, {config.hop_length} samples each",
        "codebooks": " ".join(map(str, config.quantizer.codebook_sizes)),
        "nominal bitrate": f"{config.bitrate_kbps:g} kbps",
        "algorithmic delay": f"{1000 * config.hop_length / config.sample_rate:g} ms, one frame",
        "transformer": f"width {config.transformer.width}, {config.transformer.n_layers} deep on each side, "
        f"{config.transformer.look_back_frames} frames of look-back",
    }
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return _Section("model", "Model card", f"<dl>{rows}</dl>")


def _method(result: Validation) -> _Section:
    labels = {system.name: system.label for system in result.systems}
    delays = "; ".join(
        f"{escape(labels.get(name, name))}: {delay:.3g}" for name, delay in sorted(result.delays.items())
    )
    body = (
        "<p>Each system's delay is found over several recordings and taken out before anything is scored, in samples: "
        f"{delays}. Recordings longer than 30 s are scored in pieces. Intervals are percentile bootstrap over "
        "recordings.</p>"
    )
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in result.not_measured.items():
        by_reason[reason].append(METRICS[name].label if name in METRICS else label_of(name, len(result.books)))
    not_measured = {", ".join(names): reason for reason, names in by_reason.items()}
    for title, notes in (("Not measured", not_measured), ("Recordings that could not be read", result.failed)):
        if notes:
            rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in notes.items())
            body += f"<h3>{title}</h3><dl>{rows}</dl>"
    return _Section("method", "How it was measured, and what was not", body)


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.2f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.1f} s"
    )


def _part(name: str) -> str:
    return files("codecctl.evaluate").joinpath("page", name).read_text(encoding="utf-8")
