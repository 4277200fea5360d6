"""Word and letter error rates of a speech recogniser, against the transcript or its own reading of the original.

The recogniser is a folder with a Whisper model in the format of faster-whisper; nothing is downloaded.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.audio import Audio
from codecctl.errors import UsageError
from codecctl.evaluate.metrics.metric import Context, Metric, PerceptualMetric

MODEL_NAME = "model.bin"  # in a recogniser's folder


def check_recogniser(folder: str) -> None:
    """Raises `UsageError` if `folder` holds no recogniser."""
    if not (Path(folder) / MODEL_NAME).is_file():
        raise UsageError(f"validate.recogniser: no {MODEL_NAME} in {folder}; name the folder of a faster-whisper model")


def word_errors(reference: str, recognised: str) -> tuple[float, float]:
    """Edits from the reference to the recognised text, as shares of the reference's words and of its letters.

    May exceed 1; NaN for an empty reference. Case and punctuation are ignored.
    """
    words = [words_of(text) for text in (reference, recognised)]
    letters = ["".join(parts) for parts in words]
    if not letters[0]:
        return math.nan, math.nan
    return n_edits(*words) / len(words[0]), n_edits(*letters) / len(letters[0])


def words_of(text: str) -> list[str]:
    """Words in lower case, of letters with their marks and digits; an apostrophe joins, anything else separates."""
    plain = re.sub("['\N{RIGHT SINGLE QUOTATION MARK}]", "", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain).split()


def n_edits(first: Sequence[str], second: Sequence[str]) -> int:
    """The least number of insertions, deletions and substitutions from one to the other (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        above, row = row, [i]
        for j, other in enumerate(second, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
    return row[-1]


def transcribe(audio: Audio, folder: str, language: str | None) -> str | None:
    """The recogniser's text for [L] at 16 kHz; None for a language that it does not support. Without a language it
    detects one."""
    return _transcribe(np.ascontiguousarray(audio, np.float32).tobytes(), folder, language)


@lru_cache(maxsize=4)  # several systems share a reference
def _transcribe(samples: bytes, folder: str, language: str | None) -> str | None:
    model = _model(folder)
    code = (language or "").replace("_", "-").split("-")[0].lower() or None
    if code not in (None, *model.supported_languages):
        return None
    segments, _ = model.transcribe(
        np.frombuffer(samples, np.float32),
        language=code if code or model.model.is_multilingual else "en",
        beam_size=1,
        temperature=0.0,  # no sampling: the same sound gives the same text
        condition_on_previous_text=False,
        no_speech_threshold=None,
        without_timestamps=True,
    )
    return " ".join(segment.text for segment in segments)


@cache
def _model(folder: str) -> Any:
    n_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # 0: all
    package = importlib.import_module("faster_whisper")
    return package.WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=n_threads, local_files_only=True)


def _score(reference: Audio, decoded: Audio, context: Context) -> tuple[float, ...]:
    assert context.recogniser is not None  # `unavailable` excludes the metric without one
    text = context.text or transcribe(reference, context.recogniser, context.language)
    recognised = transcribe(decoded, context.recogniser, context.language)
    return (math.nan, math.nan) if text is None or recognised is None else word_errors(text, recognised)


_WORDS, _LETTERS = (
    "share of the words that a recogniser gets wrong",
    "the same of letters, for languages without word gaps",
)
WORDS = PerceptualMetric(
    name="words",
    outputs=(
        Metric(name="wer", label="word error rate", higher_is_better=False, digits=3, meaning=_WORDS),
        Metric(name="cer", label="letter error rate", higher_is_better=False, digits=3, meaning=_LETTERS),
    ),
    package="faster_whisper",
    install="faster-whisper",
    score=_score,
    reads_text=True,
)
