"""Parquet files with the audio's bytes inside, as the Hugging Face hub serves them (pyarrow, the extra `data`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from codecctl.errors import CodecctlError, UsageError

AUDIO = ("audio", "audio_filepath")
SPEAKER = ("speaker_id", "speaker", "client_id")
LANGUAGE = ("language", "lang", "locale")
DATASET = ("dataset",)
LICENCE = ("licence", "license")


@dataclass(frozen=True, slots=True)
class Row:
    """One recording: where it is, and what the other columns tell. Nothing of its audio is read for this."""

    row_group: int
    row: int  # in the row group
    number: int  # in the file
    column: str  # of the audio
    n_bytes: int  # about
    speaker: str | None
    language: str | None
    dataset: str | None
    licence: str | None


def list_rows(
    path: Path,
    *,
    audio: Sequence[str] = AUDIO,
    speaker: Sequence[str] = SPEAKER,
    language: Sequence[str] = LANGUAGE,
) -> Iterator[Row]:
    """The recordings of a file. Of several column names the first that is there counts.

    Raises `CodecctlError` if the file is broken or has no column of audio.
    """
    file = _open(path)
    there = file.schema_arrow.names
    column = _first(audio, there)
    if column is None:
        raise CodecctlError(f"{path}: no column of audio; expected one of {', '.join(audio)} among {', '.join(there)}")
    wanted = {"speaker": speaker, "language": language, "dataset": DATASET, "licence": LICENCE}
    columns = {what: name for what, names in wanted.items() if (name := _first(names, there))}
    number = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        told = _read(file, path, group, sorted(set(columns.values()))) if columns else {}
        for row in range(about.num_rows):
            known = {what: _text(told[columns[what]][row]) if what in columns else None for what in wanted}
            yield Row(group, row, number, column, about.total_byte_size // about.num_rows, **known)
            number += 1


def read_row_group(path: Path, row_group: int, column: str) -> list[tuple[bytes | None, str]]:
    """The audio of each row of a row group: its bytes, and the name that the row gives it ('' if none)."""
    cells = _read(_open(path), path, row_group, [column])[column]
    return [(cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "") for cell in cells]


def _open(path: Path) -> Any:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(f"{path}: Parquet files need pyarrow: pip install 'codecctl[data]'") from None
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise CodecctlError(f"{path}: cannot be read as Parquet ({_line(error)})") from None


def _read(file: Any, path: Path, row_group: int, columns: list[str]) -> dict[str, list[Any]]:
    arrow = import_module("pyarrow")
    try:
        table: dict[str, list[Any]] = file.read_row_group(row_group, columns=columns).to_pydict()
        return table
    except (arrow.ArrowException, OSError) as error:
        raise CodecctlError(f"{path}: broken in row group {row_group} ({_line(error)})") from None


def _first(names: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in names if name in there), None)


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].strip().rstrip(".") if str(error) else type(error).__name__
