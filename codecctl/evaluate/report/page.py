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
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from codecctl.audio import Audio
from codecctl.audio.files import to_pcm16
from codecctl.errors import CodecctlError
from codecctl.evaluate.rendering import N_KEPT, Plan, Renderer
from codecctl.evaluate.report import context
from codecctl.evaluate.report.charts import spectrogram_png
from codecctl.evaluate.report.context import Player
from codecctl.evaluate.systems import CODEC, ORIGINAL, label_of
from codecctl.evaluate.utterances import ReferenceUtterance, choose
from codecctl.files import replacing
from codecctl.text import number, printable

if TYPE_CHECKING:
    from codecctl.evaluate.result import Validation
    from codecctl.evaluate.verdict import Requirement, Verdict

N_EXAMPLES = 6
_MAX_WORST = 24  # a page of 20 MB still opens at once
_MAX_SECONDS = 8.0

assert N_EXAMPLES <= N_KEPT  # the examples are rendered once

PAGE_NAME = "index.html"


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


@dataclass(frozen=True)
class ModelCard:
    """The checkpoint."""

    name: str
    fingerprint: str
    step: int  # updates of its training


def write_report(
    folder: Path,
    result: Validation,
    requirements: Sequence[Requirement],
    verdict: Verdict,
    card: ModelCard,
    renderer: Renderer,
    utterances: Sequence[ReferenceUtterance],
) -> Path:
    """Write `folder`/index.html atomically; returns its path. The worst utterances are rendered again to be played."""
    measured = [utterance for utterance in utterances if utterance.id not in result.failed]
    examples = _players("example", renderer, result, choose(measured, N_EXAMPLES))
    worst = _make_worst(renderer, result, measured, examples)
    codec = renderer.codec
    sections = {
        "summary": ("Summary and verdict", context.summary(result, requirements, verdict)),
        "systems": ("Beside other systems", context.systems(result)),
        "groups": ("By dataset, language and speaker", context.groups(result)),
        "against": ("Against the other checkpoint", context.comparison(result)),
        "listen": ("Listen", {"items": examples}),
        "blind-test": ("Blind test (A/B/X)", context.blind_test(examples)),
        "curve": ("Curve over codebooks", context.curve(result)),
        "codebooks": ("Codebooks", context.codebooks(result)),
        "semantics": ("What the first codebook carries", context.semantics(result)),
        "worst": ("Worst recordings", context.worst(result, examples, worst)),
        "model": ("Model card", context.model(codec, card.name, card.fingerprint, card.step)),
        "method": ("How it was measured, and what was not", context.method(result)),
    }
    shown = {name: section for name, section in sections.items() if any(section[1].values())}
    template = _environment(codec.n_codebooks).get_template("page.html.j2")
    with replacing(folder / PAGE_NAME) as partial:
        partial.write_text(
            template.render(card=card, result=result, sections=shown, style=_read("page.css"), script=_read("page.js")),
            encoding="utf-8",
        )
    return folder / PAGE_NAME


def _environment(n_codebooks: int) -> Environment:
    environment = Environment(
        loader=PackageLoader("codecctl.evaluate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": context.duration,
        "label": lambda system: label_of(system, n_codebooks),
        "number": number,
        "visible": printable,
    }
    return environment


def _read(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
