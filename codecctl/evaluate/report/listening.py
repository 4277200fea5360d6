"""The recordings that a report plays: a fair choice and the worst, through every system or through the codec alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from codecctl.audio.files import Audio, to_pcm16
from codecctl.errors import CodecctlError
from codecctl.evaluate.baselines import CODEC
from codecctl.evaluate.perceptual import ORIGINAL
from codecctl.evaluate.rendering import N_KEPT, Plan, Renderer
from codecctl.evaluate.result import Validation
from codecctl.evaluate.spectrogram import spectrogram_png
from codecctl.evaluate.utterances import ReferenceUtterance, choose

N_EXAMPLES = 6
_MAX_WORST = 24  # a page of 20 MB still opens at once
_MAX_SECONDS = 8.0

assert N_EXAMPLES <= N_KEPT  # the examples are rendered once


@dataclass(frozen=True)
class Player:
    """The beginning of one utterance through several systems, ready for the page."""

    anchor: str  # the id on the page
    utterance: ReferenceUtterance
    tracks: dict[str, str]  # system -> FLAC in base64, all of one length
    seconds: float
    spectrograms: tuple[str, str]  # of original and codec, as data URIs


def make_examples(renderer: Renderer, result: Validation, utterances: Sequence[ReferenceUtterance]) -> list[Player]:
    """A few utterances through every system, speakers and languages in turn."""
    return _players("example", renderer, result, choose(utterances, N_EXAMPLES))


def make_worst(
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
    for number, utterance in enumerate(utterances, start=1):
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
        players.append(Player(f"{kind}-{number}", utterance, tracks, seconds, (first, second)))
    return players


def _flac(audio: Audio, sample_rate: int) -> str:
    """[L] -> a FLAC of 16 bits in base64."""
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(np.ascontiguousarray(audio)), sample_rate, "PCM_16", format="FLAC")
    return base64.b64encode(file.getvalue()).decode()
