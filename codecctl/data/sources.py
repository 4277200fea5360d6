"""What to prepare: the recordings of a source, and what the source tells of each.

A source is a downloaded corpus (its recipe tells), a folder of audio or Parquet files, one such file, or a JSONL list.

A folder's list is a `.tsv`, `.csv` or `.jsonl` with the folder's name beside it (`speech/train.tsv` for
`speech/train/`), or `metadata.tsv` (`.csv`, `.jsonl`) inside it. One column names the recording: `id`, `path`, `file`,
`filename` or `audio_filepath`, the place under the folder with or without suffix. Others may tell `speaker`,
`language`, `licence`, `dataset`, `native_rate` (Hz). Without a list the folder that a file lies in counts as its
speaker, and files at the top have none.

A JSONL source has one object a line with the same keys; `audio_filepath` is absolute or relative to the list's folder,
and `offset` and `duration` in seconds pick a stretch of the file.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from codecctl.audio.files import find_audio, find_files
from codecctl.data.corpus import AudioFile, ParquetFile, describe, is_unfinished, read_marker
from codecctl.data.lists import Told, known_of, read_list
from codecctl.data.manifest import read_lines
from codecctl.data.parquet import AUDIO, LANGUAGE, SPEAKER, list_rows
from codecctl.errors import CodecctlError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One recording to prepare. What is None is unknown or does not apply."""

    place: str  # unique in the source: the path under its folder, and what of the file where it is not all
    id: str  # the place without suffix, the dataset's name before it
    dataset: str
    language: str | None = None
    speaker: str | None = None
    licence: str | None = None
    native_rate: int | None = None  # Hz, of the original, where the source tells; else the file's own
    lossy: str | None = None  # the codec it went through, where the source tells; else as the file shows
    n_bytes: int = 0
    modified_ns: int = 0
    file: str | None = None  # where it is not `place`: under the source's folder, or absolute
    raw_rate: int | None = None  # Hz, of headerless samples
    start_seconds: float | None = None  # a stretch of the file
    n_seconds: float | None = None
    row_group: int | None = None  # of a Parquet file
    row: int | None = None
    column: str | None = None
    fault: str | None = None  # why it cannot be prepared, if that shows already

    @property
    def part(self) -> tuple[str, int] | None:
        """What is read in one go and so belongs in one unit."""
        return None if self.row_group is None else (self.file or "", self.row_group)


def root_of(source: Path) -> Path:
    """The folder that the places of a source's recordings are under."""
    return source if source.is_dir() else source.parent


def read_source(source: Path, name: str) -> list[Entry]:
    """The recordings of a source in the order in which they are prepared: each speaker's in a row.

    `name` is the dataset's where the source tells none. Raises `CodecctlError` if there are no recordings.
    """
    if not source.exists():
        raise CodecctlError(f"{source}: no such file or folder")
    if source.is_dir() and is_unfinished(source):
        raise CodecctlError(f"{source}: its download is not finished; run the same `codecctl download` again")
    marker = read_marker(source) if source.is_dir() else None
    if marker is not None:
        entries = _corpus_entries(describe(marker.corpus, source), source)
    elif source.is_dir():
        rows = [
            entry
            for path in sorted(map(Path, find_files(source, (".parquet",))))
            for entry in _row_entries(path, source, name)
        ]
        entries = rows + _folder_entries(source, name)
    elif source.suffix == ".jsonl":
        entries = list(_listed_entries(source, name))
    elif source.suffix == ".parquet":
        entries = list(_row_entries(source, source.parent, name))
    else:
        entries = [_file_entry(source.parent, source, name, None)]
    if not entries:
        raise CodecctlError(f"{source}: no recordings in it")
    return _in_order(entries)


def read_folder(folder: Path, name: str) -> list[Entry]:
    """The audio files under a folder and what its list tells of them, in the same order as `read_source`."""
    entries = _folder_entries(folder, name)
    if not entries:
        raise CodecctlError(f"{folder}: no audio files in it")
    return _in_order(entries)


def _in_order(entries: list[Entry]) -> list[Entry]:
    """Sorted; where two would have one id (a.wav beside a.flac), the id is the whole place."""
    counts = Counter(entry.id for entry in entries)
    named = [e if counts[e.id] == 1 else replace(e, id=f"{e.dataset}/{e.place}") for e in entries]
    return sorted(named, key=lambda entry: (entry.part or ("", 0), entry.dataset, entry.speaker or "", entry.place))


def _folder_entries(folder: Path, name: str) -> list[Entry]:
    told = read_list(folder)
    return [_file_entry(folder, path, name, told) for path in find_audio([folder])]


def _file_entry(folder: Path, path: Path, name: str, told: Told | None) -> Entry:
    # Plain text, for there may be a million: pathlib would cost as much as all checks of the sound.
    place = os.path.relpath(path, folder) if str(folder) == "." else str(path)[len(str(folder)) :].lstrip(os.sep)
    place = place.replace(os.sep, "/")
    stem, parent = posixpath.splitext(place)[0], posixpath.dirname(place)
    known = dict((told or {}).get(place) or (told or {}).get(stem) or {})
    if told is None and parent:
        known["speaker"] = parent
    return _entry(place, stem, known, name, path)


def _entry(place: str, stem: str, known: Mapping[str, str], name: str, path: Path, **more: Any) -> Entry:
    dataset, rate = known.get("dataset") or name, known.get("native_rate")
    n_bytes, modified_ns = _status(path)
    return Entry(
        place=place,
        id=f"{dataset}/{stem.lstrip('/')}",
        dataset=dataset,
        language=known.get("language"),
        speaker=known.get("speaker"),
        licence=known.get("licence"),
        native_rate=int(float(rate)) if rate and rate.replace(".", "", 1).isdecimal() else None,
        n_bytes=n_bytes,
        modified_ns=modified_ns,
        **more,
    )


def _corpus_entries(found: Iterable[AudioFile | ParquetFile], folder: Path) -> list[Entry]:
    """What a recipe's layout tells of a downloaded corpus."""
    entries: list[Entry] = []
    for item in found:
        known = {"dataset": item.dataset, "language": item.language, "licence": item.licence}
        if isinstance(item, ParquetFile):
            columns = {"audio": item.columns.audio, "speaker": item.columns.speaker, "language": item.columns.language}
            entries += _row_entries(item.path, folder, item.dataset, known=known, lossy=item.lossy, columns=columns)
        else:
            known |= {"speaker": item.speaker} if item.speaker else {}
            more = {"lossy": item.lossy, "raw_rate": item.raw_pcm_rate}
            stem = str(PurePosixPath(item.key).with_suffix(""))
            entries.append(_entry(item.key, stem, known, item.dataset, item.path, **more))
    return entries


def _row_entries(
    path: Path,
    folder: Path,
    name: str,
    *,
    known: Mapping[str, str] | None = None,
    lossy: str | None = None,
    columns: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Entry]:
    """An entry for each row of a Parquet file; one that says what is wrong if it cannot be read."""
    file = path.relative_to(folder).as_posix()
    n_bytes, modified_ns = _status(path)
    try:
        for row in list_rows(path, **(columns or {"audio": AUDIO, "speaker": SPEAKER, "language": LANGUAGE})):
            keys = ("speaker", "language", "dataset", "licence")
            told = {**(known or {}), **{key: value for key in keys if (value := getattr(row, key))}}
            dataset = told.pop("dataset", name)
            place = f"{file}#{row.number:07d}"
            stem = f"{file.removesuffix('.parquet')}#{row.number:07d}"
            yield Entry(
                place=place, id=f"{dataset}/{stem}", dataset=dataset, lossy=lossy, n_bytes=row.n_bytes,
                modified_ns=modified_ns, file=file, row_group=row.row_group, row=row.row, column=row.column, **told,
            )  # fmt: skip
    except UsageError:
        raise
    except CodecctlError as error:
        fault = str(error).removeprefix(f"{path}: ")
        yield Entry(
            place=file, id=f"{name}/{file}", dataset=name, n_bytes=n_bytes, modified_ns=modified_ns, fault=fault
        )


def _listed_entries(path: Path, name: str) -> Iterator[Entry]:
    """The recordings of a JSONL list."""
    for where, record in read_lines(path):
        known, file = known_of(record), record.get("audio_filepath") or record.get("path") or record.get("file")
        if not isinstance(file, str):
            raise CodecctlError(f"{where}: 'audio_filepath' is missing")
        start, length = (_seconds(record, key, where) for key in ("offset", "duration"))
        stretch = {"start_seconds": start or 0.0, "n_seconds": length} if start is not None else {}
        mark = f"@{start:g}" if start is not None else ""
        stem = Path(file).with_suffix("").as_posix()
        yield _entry(f"{file}{mark}", f"{stem}{mark}", known, name, path.parent / file, file=file, **stretch)


def _seconds(record: Mapping[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise CodecctlError(f"{where}: '{key}' must be seconds, not {value!r}")
    return value


def _status(path: Path) -> tuple[int, int]:
    """Size and time of change; of a file that is not there nothing: it is rejected when its turn comes."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
