"""The manifest: JSONL with a line an utterance: what is known of it, and where its samples are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from codecctl.data import SAMPLE_RATE, SPLITS, Split
from codecctl.data.tables import read_records
from codecctl.errors import CodecctlError
from codecctl.parsing import shorten


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
    native_sample_rate: int  # Hz, of the source file, or of the original where the source states it
    lossy: str | None  # codec that it went through, as far as it is known
    bandwidth_hz: float  # upper end of its spectrum, at most 8000
    level_db: float  # RMS in dB below full scale
    clipping: float  # share of the source's samples at full scale or in flat tops, 0 to 1
    split: Split
    shard: str  # file in the prepared folder
    first_sample: int  # in the shard
    n_samples: int  # at 16 kHz

    @property
    def seconds(self) -> float:
        return self.n_samples / SAMPLE_RATE


_FIELDS = tuple(field.name for field in fields(Utterance))
_TYPES: dict[str, tuple[type, ...]] = {
    name: (float, int) if hint is float else get_args(hint) if hint not in (str, int) else (hint,)
    for name, hint in get_type_hints(Utterance).items()
    if name != "split"
}


def to_line(utterance: Utterance) -> str:
    """The utterance as one line of JSON, newline included."""
    return json.dumps({**vars(utterance), "seconds": round(utterance.seconds, 4)}, ensure_ascii=False) + "\n"


def read_manifest(path: str | Path) -> Iterator[Utterance]:
    """The utterances of a manifest, one at a time; empty lines and unknown keys are skipped.

    Raises `CodecctlError` that names file and line for invalid JSON and for fields that are missing or of a wrong type.
    """
    for where, record in read_records(path):
        yield parse_utterance(record, where=where)


def parse_utterance(record: dict[str, Any], *, where: str) -> Utterance:
    """One line's JSON object as an `Utterance`; `where` is named in errors."""
    try:
        known = {name: record[name] for name in _FIELDS}
    except KeyError as error:
        raise CodecctlError(f"{where}: {error} is missing") from None
    for name, types in _TYPES.items():
        if not isinstance(value := known[name], types) or value is True or value is False:
            raise CodecctlError(f"{where}: '{name}' cannot be {shorten(value)}")
    if known["split"] not in SPLITS:
        raise CodecctlError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, not {shorten(known['split'])}")
    return Utterance(**known)
