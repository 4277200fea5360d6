"""The manifest: one JSON object a line, one line an utterance; what is known of it and where its samples lie."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from codecctl.errors import CodecctlError
from codecctl.files import replacing

SAMPLE_RATE = 16000  # Hz, of all prepared audio

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Utterance:
    """One recording as `prepare` left it. In the file each field is a key; `seconds` stands there for the reader."""

    id: str  # unique in the manifest: the dataset's name and the place in its source
    source: str  # the file it came from, under the source's folder
    dataset: str
    language: str | None  # as the source names it, best a BCP 47 tag; None: unknown
    speaker: str | None  # None: unknown
    licence: str | None  # an SPDX name where there is one; None: unknown
    native_sample_rate: int  # Hz, of the source file or of the original where the source tells
    lossy: str | None  # the codec it went through, as far as the source shows; None: none known
    bandwidth_hz: float  # up to where there is sound, at most 8000
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
    """The utterance as one line of JSON, the newline included."""
    return json.dumps({**vars(utterance), "seconds": round(utterance.seconds, 4)}, ensure_ascii=False) + "\n"


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a JSONL manifest, all or nothing."""
    write_lines(path, map(to_line, utterances))


def read_manifest(path: str | Path) -> Iterator[Utterance]:
    """The utterances of a JSONL manifest, one at a time; empty lines and keys that are not known are passed over.

    Raises `CodecctlError` with file and line where a line is no JSON or a field is missing or of the wrong type.
    """
    for where, record in read_lines(path):
        yield parse_utterance(record, where=where)


def parse_utterance(record: dict[str, Any], *, where: str) -> Utterance:
    """One line's JSON object as an `Utterance`; `where` stands in messages."""
    try:
        known = {name: record[name] for name in _FIELDS}
    except KeyError as error:
        raise CodecctlError(f"{where}: {error} is missing") from None
    for name, types in _TYPES.items():
        if not isinstance(value := known[name], types) or value is True or value is False:
            raise CodecctlError(f"{where}: '{name}' cannot be {value!r}")
    if known["split"] not in SPLITS:
        raise CodecctlError(f"{where}: 'split' must be one of {', '.join(SPLITS)}, not {known['split']!r}")
    return Utterance(**known)


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) for each line of a JSONL file that is not empty."""
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{path}:{number}", _parse_line(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise CodecctlError(f"{path}: cannot be read as text ({error})") from None


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file of lines (newlines included), all or nothing."""
    with replacing(Path(path), durable=True) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _parse_line(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CodecctlError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict):
        raise CodecctlError(f"{where}: expected a JSON object")
    return record
