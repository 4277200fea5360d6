"""Parquet files that contain the audio's bytes, as the Hugging Face hub serves them (pyarrow, the extra `data`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from codecctl.data.prepare.items import AudioItem, size_and_time
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
    dataset, number = known["dataset"], 0
    try:
        file, usual = _open(path), {**COLUMNS, "audio": _AUDIO}
        names: dict[str, Sequence[str]] = {**usual}
        if columns:
            names = {"dataset": usual["dataset"], "licence": usual["licence"], **columns}
        there = file.schema_arrow.names
        if (audio := find_column(names["audio"], there)) is None:
            expected = ", ".join(names["audio"])
            raise CodecctlError(f"{path}: no column of audio; expected one of {expected} among {', '.join(there)}")
        stating = {ours: name for ours in _STATED if (name := find_column(names.get(ours, ()), there))}
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            cells = _read(file, path, group, sorted(set(stating.values()))) if stating else {}
            for row in range(about.num_rows):
                stated = {ours: cells[name][row] for ours, name in stating.items()}
                stated = {**known, **{ours: str(cell) for ours, cell in stated.items() if cell not in (None, "")}}
                mark = f"#{number:07d}"
                yield AudioItem(
                    place=place + mark,
                    id=f"{stated['dataset']}/{place.removesuffix('.parquet')}{mark}",
                    lossy=lossy,
                    n_bytes=about.total_byte_size // about.num_rows,
                    modified_ns=size_and_time(path)[1],
                    file=place,
                    row_group=group,
                    row=row,
                    column=audio,
                    **stated,
                )
                number += 1
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


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].strip().rstrip(".") if str(error) else type(error).__name__
