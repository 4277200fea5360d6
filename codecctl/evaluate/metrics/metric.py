"""What a metric is: how its score is read, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codecctl.audio import Audio

if TYPE_CHECKING:  # workers import this module, and load faster without torch
    import torch
    from torch import Tensor

SAMPLE_RATE = 16000  # Hz, of the signals that perceptual metrics take


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score: its name in results, and how it is read and shown."""

    name: str
    label: str
    meaning: str  # for readers who do not know it
    higher_is_better: bool = True
    digits: int = 2  # after the point, in tables
    good: float | None = None
    excellent: float | None = None


@dataclass(frozen=True, kw_only=True)
class SignalMetric(Metric):
    """A score that is computed from the samples alone, at the codec's sample rate.

    `make(sample_rate, device)` returns the function: reference and decoded [B, L] of one length on that device -> [B].
    NaN where the score is undefined, such as the SNR of silence; means leave it out.
    """

    make: Callable[[int, torch.device], Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class Context:
    """What is known of an utterance besides its samples."""

    language: str | None = None
    text: str | None = None  # the transcript
    recogniser: str | None = None  # folder of a faster-whisper model


@dataclass(frozen=True, kw_only=True)
class PerceptualMetric:
    """The scores of one optional package, computed at `SAMPLE_RATE`."""

    name: str  # in `validate.metrics`
    outputs: tuple[Metric, ...]  # one for each score that `score` returns
    package: str  # to import
    install: str  # arguments of `pip install`
    score: Callable[[Audio, Audio, Context], tuple[float, ...]]  # reference and decoded [L], aligned
    needs_reference: bool = True
    reads_text: bool = False  # compares the words of a speech recogniser with the transcript
