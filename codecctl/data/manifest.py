"""The manifest: JSONL with a line an utterance: what is known of it, and where its samples are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Strict

from codecctl.data import SAMPLE_RATE, Split
from codecctl.data.tables import json_line, read_records
from codecctl.parsing import as_type

_Int = Annotated[int, Strict()]  # "5" and true are none
_Float = Annotated[float, Strict()]


@dataclass(frozen=True)
class Utterance:
    """One prepared recording. Each field is a key of the manifest; `seconds` is written there for readers only."""

    id: str  # unique in the manifest: dataset and place in its source
    source: str  # the file it came from, below the source's folder
    dataset: str
    language: str | None  # as the source names it, best a BCP 47 tag; None: unknown
    speaker: str | None  # None: unknown
    licence: str | None  # an SPDX name where there is one; None: unknown
    text: str | None  # transcript; None: unknown
    native_sample_rate: _Int  # Hz, of the source file, or of the original where the source states it
    lossy: str | None  # codec that it went through, as far as it is known
    bandwidth_hz: _Float  # upper end of its spectrum, at most 8000
    level_db: _Float  # RMS in dB below full scale
    clipping: _Float  # share of the source's samples at full scale or in flat tops, 0 to 1
    split: Split
    shard: str  # file in the prepared folder
    first_sample: _Int  # in the shard
    n_samples: _Int  # at 16 kHz

    @property
    def seconds(self) -> float:
        return self.n_samples / SAMPLE_RATE


def to_line(utterance: Utterance) -> str:
    """The utterance as one line of JSON, newline included."""
    return json_line({**vars(utterance), "seconds": round(utterance.seconds, 4)})


def read_manifest(path: str | Path) -> Iterator[Utterance]:
    """The utterances of a manifest, one at a time; empty lines and unknown keys are skipped.

    Raises `CodecctlError` that names file and line for invalid JSON and for fields that are missing or of a wrong type.
    """
    for where, record in read_records(path):
        yield as_type(Utterance, record, where)
