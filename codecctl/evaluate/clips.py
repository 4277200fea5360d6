"""The recordings that a report lets one listen to: a fair choice, and the worst."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from codecctl.audio.files import Audio, to_pcm16
from codecctl.errors import CodecctlError
from codecctl.evaluate.alignment import align
from codecctl.evaluate.baselines import CODEC
from codecctl.evaluate.charts import spectrogram_png
from codecctl.evaluate.recordings import Recording, choose
from codecctl.evaluate.result import Validation
from codecctl.evaluate.scoring import ORIGINAL, Renderer, delay_of

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
