"""Measures of how it sounds, by the packages that are known for them. Each is optional: what is not there or not asked
for is "not measured"."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from codecctl.audio.files import Audio
from codecctl.evaluate.words import transcribe, word_errors

ORIGINAL = "original"  # the system that is the reference itself
SAMPLE_RATE = 16000  # Hz, of all that is scored here
_STOI_RATE = 10000  # Hz, at which STOI is defined
_SHORTEST_SECONDS = 0.5  # below this the models have nothing to say

Scores = dict[str, float]


@dataclass(frozen=True)
class About:
    """What is known of a recording beside its samples."""

    language: str | None = None
    transcript: str | None = None  # what is said in it
    recogniser: str | None = None  # the folder of one


@dataclass(frozen=True)
class Measure:
    """One package's verdict on a decoded signal."""

    names: tuple[str, ...]  # what it gives
    package: str  # to import
    install: str  # to install
    score: Callable[[Audio, Audio, About], Scores]  # reference and decoded [L], aligned
    needs_reference: bool = True


def unavailable(names: Sequence[str], recogniser: str | None = None) -> dict[str, str]:
    """The measures that are not measured, each with the reason; `names` are those asked for."""
    reasons = {}
    asked, others = ", ".join(names) or "none", ", ".join(name for name in MEASURES if name not in names)
    for name, measure in MEASURES.items():
        if name not in names:
            reasons[name] = f"not asked for: validate.metrics names {asked}; there are also {others}"
        elif (missing := _missing(measure.package)) is not None:
            reasons[name] = f"{missing}: pip install {measure.install}"
        elif name == "words" and recogniser is None:
            reasons[name] = "no recogniser: name the folder of a faster-whisper model in validate.recogniser"
    return {output: reasons[name] for name in reasons for output in MEASURES[name].names}


def score_all(
    pairs: Mapping[str, tuple[Audio, Audio]], original: Audio, names: Sequence[str], about: About
) -> dict[str, Scores]:
    """The measures of each system's reference and decoded [L], and those that the original itself can have."""
    scores = {ORIGINAL: score(original, original, names, about, is_original=True)}
    if "words" in names and about.transcript is None and about.recogniser is not None:
        about = replace(about, transcript=transcribe(original, about.recogniser, about.language))
    return {**scores, **{system: score(*pair, names, about) for system, pair in pairs.items()}}


def score(
    reference: Audio, decoded: Audio, names: Sequence[str], about: About | None = None, *, is_original: bool = False
) -> Scores:
    """The measures `names` of [L] beside [L], NaN where one cannot say. `is_original`: only what needs no reference."""
    about, found = about or About(), {}
    for name in names:
        measure = MEASURES[name]
        if is_original and measure.needs_reference and not (name == "words" and about.transcript):
            continue
        if len(decoded) < _SHORTEST_SECONDS * SAMPLE_RATE or not reference.any():
            found.update(dict.fromkeys(measure.names, math.nan))
        else:
            found.update(measure.score(reference, decoded, about))
    return found


def _package(name: str) -> Any:
    """An optional package, which has no types to check."""
    return importlib.import_module(name)


def _missing(package: str) -> str | None:
    try:
        _package(package)
    except ImportError as error:
        return f"not installed ({error.name or package} is missing)"
    return None


def _pesq(reference: Audio, decoded: Audio, _: About) -> Scores:
    """PESQ-WB (ITU-T P.862.2)."""
    package = _package("pesq")
    try:
        return {"pesq_wb": float(package.pesq(SAMPLE_RATE, reference, decoded, "wb"))}
    except package.NoUtterancesError:  # too quiet or too short for its speech detector
        return {"pesq_wb": math.nan}


def _stoi(reference: Audio, decoded: Audio, _: About) -> Scores:
    """STOI (Taal et al. 2011) and ESTOI (Jensen & Taal 2016)."""
    stoi = _package("pystoi").stoi
    pair = [_at_stoi_rate(signal.tobytes()) for signal in (reference, decoded)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # its way to say that too little is left without the silence
        try:
            return {
                "stoi": float(stoi(*pair, _STOI_RATE)),
                "estoi": float(stoi(*pair, _STOI_RATE, extended=True)),
            }
        except RuntimeWarning:
            return {"stoi": math.nan, "estoi": math.nan}


@lru_cache(maxsize=2)
def _at_stoi_rate(samples: bytes) -> Audio:
    """By the package's own resampler, once for both measures; a reference is met again with the next system."""
    signal = np.frombuffer(samples, np.float32)
    resampled: Audio = _package("pystoi.utils").resample_oct(signal, _STOI_RATE, SAMPLE_RATE)
    return resampled


@cache
def _visqol_model() -> Any:
    model = _package("visqol").VisqolApi()
    model.create(mode="speech")
    return model


def _visqol(reference: Audio, decoded: Audio, _: About) -> Scores:
    """ViSQOL in speech mode (Chinen et al. 2020)."""
    result = _visqol_model().measure_from_arrays(reference.astype(np.float64), decoded.astype(np.float64), SAMPLE_RATE)
    return {"visqol": float(result.moslqo)}


def _dnsmos(_: Audio, decoded: Audio, __: About) -> Scores:
    """DNSMOS P.835 and P.808 (Reddy et al. 2022)."""
    told: Mapping[str, float] = _package("speechmos.dnsmos").run(np.clip(decoded, -1, 1), SAMPLE_RATE)
    return {
        "dnsmos_overall": float(told["ovrl_mos"]),
        "dnsmos_speech": float(told["sig_mos"]),
        "dnsmos_background": float(told["bak_mos"]),
        "dnsmos_p808": float(told["p808_mos"]),
    }


@cache
def _distillmos_model() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        return _package("distillmos").ConvTransformerSQAModel().eval()


def _distillmos(_: Audio, decoded: Audio, __: About) -> Scores:
    """DistillMOS (Stahl & Gamper 2025)."""
    import torch

    with torch.inference_mode():
        return {"distillmos": float(_distillmos_model()(torch.from_numpy(decoded)[None]))}


@cache
def _voice_encoder() -> Any:
    return _package("resemblyzer").VoiceEncoder("cpu", verbose=False)


def _speaker(reference: Audio, decoded: Audio, _: About) -> Scores:
    """Cosine of the speaker embeddings (Wan et al. 2018, as Resemblyzer has it)."""
    first, second = (_voice_encoder().embed_utterance(signal) for signal in (reference, decoded))
    return {"speaker_similarity": float(first @ second)}


def _words(reference: Audio, decoded: Audio, about: About) -> Scores:
    """Errors in words and letters beside the transcript, else beside what the recogniser reads from the reference."""
    assert about.recogniser is not None  # else it is unavailable
    said, heard = (
        given or transcribe(signal, about.recogniser, about.language)
        for given, signal in ((about.transcript, reference), (None, decoded))
    )
    errors = (math.nan, math.nan) if said is None or heard is None else word_errors(said, heard)
    return dict(zip(("wer", "cer"), errors, strict=True))


MEASURES: dict[str, Measure] = {
    "pesq": Measure(("pesq_wb",), "pesq", "pesq", _pesq),
    "stoi": Measure(("stoi", "estoi"), "pystoi", "pystoi", _stoi),
    "visqol": Measure(("visqol",), "visqol", "'visqol-python[lattice]'", _visqol),
    "dnsmos": Measure(
        ("dnsmos_overall", "dnsmos_speech", "dnsmos_background", "dnsmos_p808"),
        "speechmos.dnsmos",
        "speechmos librosa onnxruntime",
        _dnsmos,
        needs_reference=False,
    ),
    "distillmos": Measure(("distillmos",), "distillmos", "distillmos", _distillmos, needs_reference=False),
    "speaker": Measure(("speaker_similarity",), "resemblyzer", "resemblyzer", _speaker),
    "words": Measure(("wer", "cer"), "faster_whisper", "faster-whisper", _words),
}
