"""How many words are lost: what a speech recogniser reads from a decoded signal, beside what was said.

The recogniser is a Whisper model in the format of faster-whisper, a folder on this machine: nothing is fetched.
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

from codecctl.audio.files import Audio
from codecctl.errors import UsageError

MODEL_NAME = "model.bin"  # in the folder of a recogniser


def check_recogniser(folder: str) -> None:
    """Raises `UsageError` where no recogniser lies."""
    if not (Path(folder) / MODEL_NAME).is_file():
        raise UsageError(f"validate.recogniser: no {MODEL_NAME} in {folder}; name the folder of a faster-whisper model")


def word_errors(said: str, heard: str) -> tuple[float, float]:
    """Edits from what was said to what was heard as shares of the words and of the letters that were said. May exceed
    1; NaN where nothing was said. Case and punctuation do not count."""
    words = [words_of(text) for text in (said, heard)]
    letters = ["".join(parts) for parts in words]
    if not letters[0]:
        return math.nan, math.nan
    return n_edits(*words) / len(words[0]), n_edits(*letters) / len(letters[0])


def words_of(text: str) -> list[str]:
    """In lower case, of letters with their marks and digits; an apostrophe joins, all else parts."""
    plain = re.sub("['\N{RIGHT SINGLE QUOTATION MARK}]", "", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain).split()


def n_edits(first: Sequence[str], second: Sequence[str]) -> int:
    """Insertions, deletions and substitutions from one to the other at the least (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        above, row = row, [i]
        for j, other in enumerate(second, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
    return row[-1]


def transcribe(audio: Audio, folder: str, language: str | None) -> str | None:
    """What the recogniser reads from [L] at 16 kHz; None in a language that it does not know. Without a language it
    finds one out."""
    return _transcribe(np.ascontiguousarray(audio, np.float32).tobytes(), folder, language)


@lru_cache(maxsize=4)  # a reference is met again with each system
def _transcribe(samples: bytes, folder: str, language: str | None) -> str | None:
    model = _model(folder)
    known = (language or "").replace("_", "-").split("-")[0].lower() or None
    if known not in (None, *model.supported_languages):
        return None
    segments, _ = model.transcribe(
        np.frombuffer(samples, np.float32),
        language=known if known or model.model.is_multilingual else "en",
        beam_size=1,
        temperature=0.0,  # one try: no lot is drawn, the same sound is read the same way
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
