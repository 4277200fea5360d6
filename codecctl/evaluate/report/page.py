"""Chooses the recordings that the report plays, fills the templates and writes the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from markupsafe import Markup

from codecctl.audio import Audio
from codecctl.audio.files import to_pcm16
from codecctl.errors import CodecctlError
from codecctl.evaluate.rendering import N_KEPT, Plan, Renderer
from codecctl.evaluate.report.charts import histograms, rate_charts, spectrogram_png
from codecctl.evaluate.report.templates import TEMPLATES, in_sentence, in_sentences
from codecctl.evaluate.systems import CODEC, ORIGINAL
from codecctl.evaluate.utterances import ReferenceUtterance, choose
from codecctl.files import write_lines

if TYPE_CHECKING:
    from codecctl.evaluate.result import Validation
    from codecctl.evaluate.verdict import Requirement, Verdict

N_EXAMPLES = 6
_MAX_WORST = 24  # a page of 20 MB still opens at once
_MAX_SECONDS = 8.0

assert N_EXAMPLES <= N_KEPT  # the examples are rendered once

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class Player:
    """The beginning of one utterance through several systems, ready for the page."""

    anchor: str  # the id on the page
    utterance: ReferenceUtterance
    tracks: dict[str, str]  # system -> FLAC in base64, all of one length
    seconds: float
    spectrograms: tuple[str, str]  # of original and codec, as data URIs


def _make_worst(
    renderer: Renderer,
    result: Validation,
    utterances: Sequence[ReferenceUtterance],
    examples: Sequence[Player],
) -> list[Player]:
    """The worst utterances of each metric, original and codec; examples are left out."""
    known = {player.utterance.id for player in examples}
    by_id = {utterance.id: utterance for utterance in utterances}
    ranks = [[name for name, _ in worst] for worst in result.worst.values()]
    in_turn = [worst[rank] for rank in range(max(map(len, ranks), default=0)) for worst in ranks if rank < len(worst)]
    chosen = [by_id[name] for name in dict.fromkeys(in_turn) if name in by_id and name not in known]
    return _players("worst", Renderer(renderer.codec, Plan()), result, chosen[:_MAX_WORST])


def _players(
    kind: str, renderer: Renderer, result: Validation, utterances: Sequence[ReferenceUtterance]
) -> list[Player]:
    players, n_samples = [], round(_MAX_SECONDS * renderer.sample_rate)
    for place, utterance in enumerate(utterances, start=1):
        try:
            rendering = renderer.render_start(utterance, n_samples)
        except CodecctlError:  # it is among `result.failed`
            continue
        aligned = {system: decoded for system, (_, decoded) in rendering.aligned(result.delays).items()}
        signals = {ORIGINAL: rendering.original, **aligned}
        n = min(n_samples, *map(len, signals.values()))
        first, loudest = spectrogram_png(rendering.original[:n])
        second, _ = spectrogram_png(signals[CODEC][:n], loudest)
        tracks = {system: _flac(signal[:n], renderer.sample_rate) for system, signal in signals.items()}
        seconds = n / renderer.sample_rate
        players.append(Player(f"{kind}-{place}", utterance, tracks, seconds, (first, second)))
    return players


def _flac(audio: Audio, sample_rate: int) -> str:
    """[L] -> a FLAC of 16 bits in base64."""
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(np.ascontiguousarray(audio)), sample_rate, "PCM_16", format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


def write_report(
    folder: Path,
    result: Validation,
    requirements: Sequence[Requirement],
    verdict: Verdict,
    renderer: Renderer,
    utterances: Sequence[ReferenceUtterance],
    *,
    name: str,
    fingerprint: str,
    step: int,
) -> Path:
    """Write `folder`/index.html atomically; returns its path. The worst utterances are rendered again to be played.

    `name` and `fingerprint`: of the checkpoint; `step`: the updates of its training.
    """
    measured = [utterance for utterance in utterances if utterance.id not in result.failed]
    examples = _players("example", renderer, result, choose(measured, N_EXAMPLES))
    worst = _make_worst(renderer, result, measured, examples)
    codec = renderer.codec
    parts = [*codec.parameters(), *(codebook.codewords for codebook in codec.quantizer.codebooks)]
    text = TEMPLATES.get_template("page.html.j2").render(
        result=result,
        requirements=[(requirement.passed, in_sentence(requirement)) for requirement in requirements],
        sentences=in_sentences(result, verdict),
        examples=examples,
        worst=worst,
        anchors={player.utterance.id: player.anchor for player in (*examples, *worst)},
        curves=rate_charts(result),
        histograms=histograms(result),
        name=name,
        fingerprint=fingerprint,
        step=step,
        n_parameters=sum(part.numel() for part in parts),
        config=codec.config,
        style=_read("page.css"),
        script=_read("page.js"),
    )
    write_lines(folder / PAGE_NAME, [text], durable=False)
    return folder / PAGE_NAME


def _read(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
