"""Lists of recordings, as they lie beside audio: TSV, CSV or JSONL with a row a recording."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codecctl.data.manifest import read_lines
from codecctl.errors import CodecctlError

_NAMES = {
    "id": ("id", "path", "file", "filename", "file_name", "audio_filepath"),
    "dataset": ("dataset",),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "licence": ("licence", "license"),
    "native_rate": ("native_rate", "native_sample_rate"),
    "transcript": ("transcript", "text", "sentence", "transcription"),
}
Told = Mapping[str, Mapping[str, str]]  # place -> what the list tells
_SUFFIXES = (".tsv", ".csv", ".jsonl")
_TOO_LONG = 10_000_000  # characters in a field of a list


def read_list(folder: Path) -> Told | None:
    """What the list beside or in a folder tells, or None if there is none with a column that names the recordings."""
    folder = Path(os.path.abspath(folder))  # "." has a name, too
    beside = [folder.with_name(folder.name + suffix) for suffix in _SUFFIXES]
    for path in [*beside, *(folder / f"metadata{suffix}" for suffix in _SUFFIXES)]:
        if path.is_file():
            rows = _rows(path)
            first = next(rows, {})
            if (key := _column(first, "id")) is not None:
                told = {str(first[key]): known_of(first)}
                told.update((str(row[key]), known_of(row)) for row in rows if row.get(key))
                return told
    return None


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (record for _, record in read_lines(path))
        return
    csv.field_size_limit(_TOO_LONG)
    with open(path, encoding="utf-8-sig", newline="") as file:
        # Lists of transcripts are full of stray quotation marks: in a TSV they are letters like any other.
        is_tsv = path.suffix == ".tsv"
        try:
            if is_tsv:
                yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                yield from csv.DictReader(file)
        except (csv.Error, UnicodeDecodeError) as error:
            raise CodecctlError(f"{path}: cannot be read as a list ({error})") from None


def _column(row: Mapping[str, Any], meaning: str) -> str | None:
    return next((name for name in _NAMES[meaning] if name in row), None)


def known_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row tells, under our names."""
    columns = {meaning: _column(row, meaning) for meaning in _NAMES}
    return {meaning: str(row[name]) for meaning, name in columns.items() if name and row[name] not in (None, "")}
