"""Audio items: where a recording is (a file, a part of one, a cell of a Parquet file), what its source states, and how
it is opened. Parquet files with the audio's bytes, as the Hugging Face hub serves them, need pyarrow (extra `data`)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

from codecctl.audio.files import AudioReader
from codecctl.data import StatedSplit
from codecctl.data.tables import COLUMNS, find_column
from codecctl.errors import CodecctlError, UsageError

_STATED = ("speaker", "language", "dataset", "licence", "text", "split")
_AUDIO = ("audio", "audio_filepath")
_SPLITS: dict[str, StatedSplit] = {  # by the word that a split's name begins with, as in "train-clean-100"
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioItem:
    """One recording to prepare. None: unknown, or does not apply."""

    place: str  # unique in the source: the path below its folder, and which part of the file if not all of it
    id: str  # the place without suffix, after the dataset's name
    dataset: str
    language: str | None = None
    speaker: str | None = None
    licence: str | None = None
    text: str | None = None  # transcript
    split: StatedSplit | None = None
    native_rate: int | None = None  # Hz, of the original; None: that of the file
    lossy: str | None = None  # codec of the original; None: as the file shows
    n_bytes: int = 0
    modified_ns: int = 0
    file: str | None = None  # below the source's folder, or absolute; None: it is `place`
    raw_rate: int | None = None  # Hz, of headerless samples
    start_seconds: float | None = None  # where in the file it starts
    n_seconds: float | None = None
    channel: int | None = None  # from 0; None: all of them, mixed down
    row_group: int | None = None  # of a Parquet file
    row: int | None = None  # in the row group
    column: str | None = None  # of the audio
    fault: str | None = None  # why it cannot be prepared, if that is known already

    @property
    def part(self) -> tuple[str, int] | None:
        """File and row group: items that share them are read together and belong in one unit."""
        return None if self.row_group is None else (self.file or "", self.row_group)


def item_of_file(place: str, stem: str, known: Mapping[str, str], dataset: str, path: Path, **more: Any) -> AudioItem:
    """An item from a file and what is known of it, by the names of `tables.COLUMNS`; `dataset` unless that is known."""
    dataset, rate = known.get("dataset") or dataset, known.get("native_rate", "")
    n_bytes, modified_ns = _size_and_time(path)
    return AudioItem(
        place=place,
        id=f"{dataset}/{stem.lstrip('/')}",
        dataset=dataset,
        language=known.get("language"),
        speaker=known.get("speaker"),
        licence=known.get("licence"),
        text=known.get("text"),
        split=_split(known["split"], place) if "split" in known else None,
        native_rate=int(float(rate)) if rate.replace(".", "", 1).isdecimal() and float(rate) < 1e9 else None,
        n_bytes=n_bytes,
        modified_ns=modified_ns,
        **more,
    )


def in_order(items: Sequence[AudioItem]) -> list[AudioItem]:
    """Sorted, a speaker's items together; where two would share an id (a.wav and a.flac), the id is the whole place."""
    counts = Counter(item.id for item in items)
    named = [e if counts[e.id] == 1 else replace(e, id=f"{e.dataset}/{e.place}") for e in items]
    return sorted(named, key=lambda item: (item.part or ("", 0), item.dataset, item.speaker or "", item.place))


def _split(name: str, place: str) -> StatedSplit:
    """What a list means by the name of a split. Raises `CodecctlError` where that is not clear."""
    word, *_ = re.split("[^a-z]", name.strip().lower(), maxsplit=1)
    split = _SPLITS.get(word)
    if split is None:
        raise CodecctlError(
            f"{place}: split {name!r} in its list is none of train, validation (dev) and test; rename it or the column"
        )
    return split


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; zeros for a missing file, which is rejected when it is prepared."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class ItemOpener:
    """Opens the items of a unit; keeps the row group that was read last. `partial` as for `AudioReader`."""

    def __init__(self, root: Path, *, partial: bool = False) -> None:
        self._root, self._partial = str(root), partial
        self._part: tuple[str, int] | None = None
        self._cells: list[dict[str, Any]] = []
        self.name = ""  # of the item opened last, as it starts the messages about it

    def open(self, item: AudioItem) -> AudioReader:
        self.name = item.place
        if item.fault:
            raise CodecctlError(item.fault)
        if item.part is None:
            # Text, since there may be a million files: pathlib takes as long as opening the file.
            file = os.path.join(self._root, item.file or item.place)
            return AudioReader(
                file, name=item.place, raw_rate=item.raw_rate, partial=self._partial, channel=item.channel
            )
        if item.part != self._part:
            path, column = Path(self._root, item.part[0]), item.column or ""
            cells = _read(_open(path), path, item.part[1], [column])[column]
            self._cells = [e if isinstance(e, dict) else {"bytes": e} for e in cells]
            self._part = item.part
        cell = self._cells[item.row or 0]
        if not cell.get("bytes"):
            raise CodecctlError("holds no audio: the bytes are missing")
        # The reader goes by the suffix where the bytes do not show the format.
        self.name += PurePath(cell.get("path") or "").suffix
        return AudioReader(cell["bytes"], name=self.name, partial=self._partial)

    def reason(self, error: CodecctlError) -> str:
        """What is wrong with the item opened last, without its name."""
        return str(error).removeprefix(self.name).lstrip(": ")


def items_of_parquet(
    path: Path,
    folder: Path,
    known: Mapping[str, str],
    *,
    lossy: str | None = None,
    columns: Mapping[str, tuple[str, ...]] = {},
) -> Iterator[AudioItem]:
    """An item for each row of a file below `folder`; one with a fault for a file that cannot be read. No audio is read.

    `known` (dataset, language, licence) holds where no column states it. `columns` lists names for audio, speaker,
    language and text, of which the first that is there counts; without it the usual names are tried.
    """
    place, dataset, number = path.relative_to(folder).as_posix(), known["dataset"], 0
    n_bytes, modified_ns = _size_and_time(path)
    names = {key: COLUMNS[key] for key in ("dataset", "licence")} | dict(columns or {**COLUMNS, "audio": _AUDIO})
    try:
        file = _open(path)
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
                split = _split(stated.pop("split"), place + mark) if "split" in stated else None
                yield AudioItem(
                    place=place + mark,
                    id=f"{stated['dataset']}/{place.removesuffix('.parquet')}{mark}",
                    split=split,
                    lossy=lossy,
                    n_bytes=about.total_byte_size // about.num_rows,
                    modified_ns=modified_ns,
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
        yield AudioItem(
            place=place, id=f"{dataset}/{place}", dataset=dataset, n_bytes=n_bytes, modified_ns=modified_ns, fault=fault
        )


def _open(path: Path) -> Any:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(f'{path}: Parquet files need pyarrow: pip install "codecctl[data]"') from None
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
