"""What a report lets one listen to: a fair choice of recordings and the worst, in players and in a blind test.

`page/page.js` brings the players to life.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import soundfile

from codecctl.audio.files import Audio, to_pcm16
from codecctl.errors import CodecctlError
from codecctl.evaluate.alignment import align
from codecctl.evaluate.baselines import CODEC, label_of
from codecctl.evaluate.charts import spectrogram_png
from codecctl.evaluate.hearing import ORIGINAL
from codecctl.evaluate.recordings import Recording, choose
from codecctl.evaluate.result import Validation
from codecctl.evaluate.scoring import Renderer, delay_of

N_EXAMPLES = 6
_MOST_WORST = 24  # of the worst recordings that can be heard: a page of 20 MB still opens at once
_LONGEST_SECONDS = 8.0


@dataclass(frozen=True)
class Clip:
    """One recording with what the systems make of it, ready for the page."""

    recording: Recording
    tracks: dict[str, str]  # system -> FLAC in base64, all as long as one another
    seconds: float
    pictures: tuple[str, str]  # spectrograms of original and codec as data URIs


def make_examples(renderer: Renderer, result: Validation, recordings: Sequence[Recording]) -> list[Clip]:
    """A few recordings through every system, speakers and languages in turn."""
    return _make(renderer, result, choose(recordings, N_EXAMPLES), everything=True)


def make_worst(
    renderer: Renderer, result: Validation, recordings: Sequence[Recording], besides: Sequence[Clip]
) -> list[Clip]:
    """The worst recordings of each metric, original and codec; those that are examples already are left out."""
    known = {clip.recording.id for clip in besides}
    by_id = {recording.id: recording for recording in recordings}
    ranks = [[name for name, _ in worst] for worst in result.worst.values()]
    in_turn = [worst[rank] for rank in range(max(map(len, ranks), default=0)) for worst in ranks if rank < len(worst)]
    chosen = [by_id[name] for name in dict.fromkeys(in_turn) if name in by_id and name not in known]
    return _make(renderer, result, chosen[:_MOST_WORST], everything=False)


def _make(renderer: Renderer, result: Validation, recordings: Sequence[Recording], *, everything: bool) -> list[Clip]:
    clips = []
    for recording in recordings:
        try:
            audio = next(recording.pieces(renderer.sample_rate))
        except CodecctlError:  # named among the failures
            continue
        piece = renderer.render(audio[:, : round(_LONGEST_SECONDS * renderer.sample_rate)])
        systems = list(piece.renditions) if everything else [CODEC]
        aligned = {s: align(piece.original, piece.renditions[s].audio, delay_of(s, result.delays))[1] for s in systems}
        heard = {ORIGINAL: piece.original, **aligned}
        n = min(map(len, heard.values()))
        first, loudest = spectrogram_png(piece.original[:n])
        second, _ = spectrogram_png(heard[CODEC][:n], loudest)
        tracks = {system: _flac(signal[:n], renderer.sample_rate) for system, signal in heard.items()}
        clips.append(Clip(recording, tracks, n / renderer.sample_rate, (first, second)))
    return clips


def _flac(audio: Audio, sample_rate: int) -> str:
    """[L] -> a FLAC of 16 bits in base64."""
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(np.ascontiguousarray(audio)), sample_rate, "PCM_16", format="FLAC")
    return base64.b64encode(file.getvalue()).decode()


def player(clip: Clip, n_codebooks: int, *, pictures: bool) -> str:
    """All versions of a recording, of which one at a time is heard, and its spectrograms."""
    key = escape(clip.recording.id)
    radios = "".join(
        f'<label><input type="radio" name="{key}" value="{system}"{" checked" if system == ORIGINAL else ""}> '
        f"{escape(_track_label(system, n_codebooks))}</label>"
        for system in clip.tracks
    )
    data = "".join(
        f'<script type="text/plain" data-recording="{key}" data-system="{system}">{flac}</script>'
        for system, flac in clip.tracks.items()
    )
    about = ", ".join(part for part in (clip.recording.language, clip.recording.speaker) if part)
    figures = ""
    if pictures:
        figures = '<div class="pair">' + "".join(
            f'<figure><img src="{source}" alt="Spectrogram of {what}, {key}"><figcaption>{what}</figcaption></figure>'
            for source, what in zip(clip.pictures, ("the original", "the codec"), strict=True)
        ) + "</div>"  # fmt: skip
    return (
        f'<article id="clip-{_anchor(clip.recording.id)}" data-player="{key}"><h3>{key}</h3>'
        f'<p class="faint">{escape(about)}</p><fieldset><legend>Version that is heard</legend>{radios}</fieldset>'
        f"{_controls(key, clip.seconds)}{figures}{data}</article>"
    )


def _controls(key: str, seconds: float) -> str:
    return (
        '<div class="player"><button type="button" class="act play">Play</button>'
        f'<input type="range" min="0" max="{seconds:.2f}" step="0.01" value="0" aria-label="Position in {key}">'
        f"<output>0.0 of {seconds:.1f} s</output></div>"
    )


def blind_test(examples: Sequence[Clip], n_codebooks: int) -> str:
    """A/B/X over the recordings that are there; nothing where there are none."""
    if not examples:
        return ""
    others = [system for system in examples[0].tracks if system not in (ORIGINAL, CODEC)]
    pairs = [(ORIGINAL, CODEC), *((CODEC, system) for system in others), *((ORIGINAL, system) for system in others)]
    labels = {system: escape(_track_label(system, n_codebooks)) for system in examples[0].tracks}
    options = "".join(f'<option value="{a}|{b}">A: {labels[a]}, B: {labels[b]}</option>' for a, b in pairs)
    radios = "".join(
        f'<label><input type="radio" name="heard" value="{name}"{" checked" if name == "A" else ""}> {name}</label>'
        for name in "ABX"
    )
    recordings = escape(json.dumps([clip.recording.id for clip in examples]))
    return (
        f'<article id="blind" data-recordings="{recordings}"><p><label>Pair <select>{options}</select></label> '
        '<button type="button" class="act next">Start</button></p>'
        f'<div class="choices"><fieldset><legend>Heard</legend>{radios}</fieldset>{_controls("the trial", 0)}</div>'
        '<p><button type="button" class="act answer" value="A" disabled>X is A</button> '
        '<button type="button" class="act answer" value="B" disabled>X is B</button></p>'
        '<p role="status">X is A or B, drawn by lot. Start, listen, and say which.</p></article>'
    )


def link(key: str) -> str:
    """To the player of a recording."""
    return f'<a href="#clip-{_anchor(key)}">{escape(key)}</a>'


def _anchor(key: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in key)


def _track_label(system: str, n_codebooks: int) -> str:
    return "original" if system == ORIGINAL else "codec" if system == CODEC else label_of(system, n_codebooks)
