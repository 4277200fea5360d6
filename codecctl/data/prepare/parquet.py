"""Parquet files that contain the audio's bytes, as the Hugging Face hub serves them (pyarrow, the extra `data`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from codecctl.data.prepare.units import AudioItem, size_and_time
from codecctl.data.tables import COLUMNS, find_column
from codecctl.errors import CodecctlError, UsageError

_STATED = ("speaker", "language", "dataset", "licence", "text")
_AUDIO = ("audio", "audio_filepath")


def items_of_parquet(
    path: Path,
    folder: Path,
    known: Mapping[str, str],
    *,
    lossy: str | None = None,
    columns: Mapping[str, Sequence[str]] = {},
) -> Iterator[AudioItem]:
    """An item for each row of a file below `folder`; one with a fault for a file that cannot be read. No audio is read.

    `known` (dataset, language, licence) holds where no column states it. `columns` lists names for audio, speaker,
    language and text, of which the first that is there counts; without it the usual names are tried.
    """
    place = path.relative_to(folder).as_posix()
    dataset = known["dataset"]
    try:
        for row in _rows(path, columns or {**COLUMNS, "audio": _AUDIO}):
            stated = {**known, **{name: row[name] for name in _STATED if row.get(name)}}
            mark = f"#{row['number']:07d}"
            yield AudioItem(
                place=place + mark,
                id=f"{stated['dataset']}/{place.removesuffix('.parquet')}{mark}",
                lossy=lossy,
                modified_ns=size_and_time(path)[1],
                file=place,
                **{name: row[name] for name in ("n_bytes", "row_group", "row", "column")},
                **stated,
            )
    except UsageError:
        raise  # pyarrow is missing
    except CodecctlError as error:
        fault = str(error).removeprefix(f"{path}: ")
        n_bytes, modified_ns = size_and_time(path)
        yield AudioItem(
            place=place, id=f"{dataset}/{place}", dataset=dataset, n_bytes=n_bytes, modified_ns=modified_ns, fault=fault
        )


def read_row_group(path: Path, row_group: int, column: str) -> list[tuple[bytes | None, str]]:
    """The audio of each row of a row group: its bytes, and the file name that the row states ('' if none)."""
    cells = _read(_open(path), path, row_group, [column])[column]
    return [(cell.get("bytes"), cell.get("path") or "") if isinstance(cell, dict) else (cell, "") for cell in cells]


def _rows(path: Path, names: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Place and stated facts of each row."""
    file = _open(path)
    there = file.schema_arrow.names
    column = find_column(names["audio"], there)
    if column is None:
        expected = ", ".join(names["audio"])
        raise CodecctlError(f"{path}: no column of audio; expected one of {expected} among {', '.join(there)}")
    names = {"dataset": COLUMNS["dataset"], "licence": COLUMNS["licence"], **names}
    columns = {ours: name for ours in _STATED if (name := find_column(names.get(ours, ()), there))}
    number = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        cells = _read(file, path, group, sorted(set(columns.values()))) if columns else {}
        for row in range(about.num_rows):
            stated = {ours: _text(cells[name][row]) for ours, name in columns.items()}
            n_bytes = about.total_byte_size // about.num_rows
            yield {**stated, "row_group": group, "row": row, "number": number, "column": column, "n_bytes": n_bytes}
            number += 1


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


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].strip().rstrip(".") if str(error) else type(error).__name__
