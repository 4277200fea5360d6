"""Tables of text: JSONL, CSV and TSV files, and the usual names of their columns."""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codecctl.errors import CodecctlError
from codecctl.parsing import LONGEST_JSON, parse_json

COLUMNS: Mapping[str, tuple[str, ...]] = {  # our name -> usual names, of which the first that is there counts
    "file": ("id", "path", "file", "filename", "file_name", "audio_filepath", "audio_path", "wav_path", "audio", "wav"),
    "dataset": ("dataset",),
    "language": ("language", "lang", "locale"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "licence": ("licence", "license"),
    "split": ("split",),
    "native_rate": ("native_rate", "native_sample_rate"),
    "text": ("text", "transcript", "sentence", "transcription", "normalized_text", "raw_text", "normalised_text"),
}
_LONGEST_CELL = 10_000_000  # characters


def find_column(names: Iterable[str], columns: Iterable[str]) -> str | None:
    """The first of `names` that is one of a table's columns."""
    return next((name for name in names if name in columns), None)


def read_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) for each line of a JSONL file that is not empty. Raises `CodecctlError` for a bad line."""
    try:
        with open(path, "rb") as file:
            lines = iter(lambda: file.readline(LONGEST_JSON + 1), b"")
            for number, line in enumerate(lines, start=1):
                if line.removeprefix(BOM_UTF8).strip():
                    yield f"{path}:{number}", parse_json(line, f"{path}:{number}")
    except OSError as error:
        raise CodecctlError(f"{path}: cannot be read ({error.strerror})") from None


def json_line(record: Mapping[str, Any]) -> str:
    """A line of a JSONL file, newline included."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_csv(path: Path) -> Iterator[Mapping[str, str]]:
    """The rows of a CSV file by column; quotes enclose cells. Raises `CodecctlError`."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    except (csv.Error, OSError, UnicodeDecodeError) as error:
        raise CodecctlError(f"{path}: cannot be read as a table ({error})") from None


def read_delimited(
    path: Path, delimiter: str = "\t", columns: Sequence[str] | None = None
) -> Iterator[Mapping[str, str]]:
    """The rows of a text file by column. Quotes are letters, as transcripts are full of stray ones.

    `columns` names the columns where no header line does; the last one takes the rest of the line.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            for line in lines:
                text = line.rstrip("\r\n")
                if columns is None:
                    columns = text.split(delimiter)
                elif text:
                    cells = text.split(delimiter, len(columns) - 1)
                    yield dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    except OSError as error:
        raise CodecctlError(f"{path}: cannot be read as a table ({error})") from None


def read_table(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a `.tsv`, `.csv` or `.jsonl` file, by its suffix."""
    if path.suffix == ".jsonl":
        return (record for _, record in read_records(path))
    return read_delimited(path) if path.suffix == ".tsv" else read_csv(path)
