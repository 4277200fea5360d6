"""What is listened with in the report: players and the blind test. `page/page.js` brings them to life."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from codecctl.evaluate.baselines import CODEC, label_of
from codecctl.evaluate.clips import Clip
from codecctl.evaluate.scoring import ORIGINAL


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
