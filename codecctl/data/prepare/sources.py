"""The sources that `prepare` takes, and the audio items in them.

A source is a downloaded corpus (described by its recipe), a folder of audio or Parquet files, one such file, or a JSONL
list.

A folder's list is a `.tsv`, `.csv` or `.jsonl` of the folder's name beside it (`speech/train.tsv` for `speech/train/`),
or `metadata.tsv` (`.csv`, `.jsonl`) in it. One column names the recording: `id`, `path`, `file`, `file_name`,
`audio_filepath` and others (`tables.COLUMNS`), the path below the folder with or without suffix. Others may state
`speaker`, `language`, `licence`, `dataset`, `text`, `split` (train, validation or dev, test), `native_rate` (Hz).
Without a list the folder of a file is its speaker, and files at the top have none.

A JSONL source has one object a line with the same keys; `audio_filepath` is absolute or relative to the list's folder,
`offset` and `duration` in seconds select a part of the file, and `channel`, counted from 0, one of its channels.
Other keys are not used.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from codecctl.audio.files import find_audio, find_files, left_out
from codecctl.audio.opening import AUDIO_SUFFIXES
from codecctl.data.download.corpus import is_unfinished, read_marker
from codecctl.data.download.recipes import Corpus, Layout, Table, glob_files
from codecctl.data.prepare.items import AudioItem, in_order, item_of_file, items_of_parquet
from codecctl.data.tables import COLUMNS, find_column, read_delimited, read_records, read_table
from codecctl.errors import CodecctlError
from codecctl.text import counted

SUFFIXES = (".tsv", ".csv", ".jsonl")
_FILE_KEYS = ("audio_filepath", "path", "file")  # of a JSONL source
_USED_KEYS = {*_FILE_KEYS, "offset", "duration", *chain(*(usual for ours, usual in COLUMNS.items() if ours != "file"))}


def read_source(source: Path, name: str, *, note: Callable[[str], None]) -> list[AudioItem]:
    """The items of a source in the order in which they are prepared, each speaker's together.

    `name` is the dataset's where the source states none. `note` receives lines on what was found and matched. Raises
    `CodecctlError` if there is no audio, a folder cannot be listed, or the folder's list matches no file.
    """
    if not source.exists():
        raise CodecctlError(f"{source}: no such file or folder")
    try:
        items = in_order(list(_items(source, name, note)))
    except OSError as error:
        raise CodecctlError(f"{error.filename or source}: {error.strerror}; nothing was prepared") from None
    if not items:
        is_prepared = (source / "prepared.json").is_file()
        problem = "is prepared already; --data takes it" if is_prepared else "no recordings in it"
        raise CodecctlError(f"{source}: {problem}")
    with_speaker, with_language, with_text = (
        sum(getattr(item, key) is not None for item in items) for key in ("speaker", "language", "text")
    )
    note(
        f"{source}: {counted(len(items), 'recording')}, {with_speaker} with a speaker, "
        f"{with_language} with a language, {with_text} with a transcript"
    )
    return items


def _items(source: Path, name: str, note: Callable[[str], None]) -> Iterator[AudioItem]:
    if source.is_dir():
        if is_unfinished(source):
            raise CodecctlError(f"{source}: its download is not finished; run the same `codecctl download` again")
        marker = read_marker(source)
        if marker is not None:
            yield from items_of_corpus(marker.corpus, source)
            return
        for path in sorted(map(Path, find_files(source, (".parquet",)))):
            yield from items_of_parquet(path, source, {"dataset": name})
        yield from folder_items(source, name, note)
    elif source.suffix == ".jsonl":
        yield from _unambiguous(list(_listed_items(source, name, note)))
    elif source.suffix == ".parquet":
        yield from items_of_parquet(source, source.parent, {"dataset": name})
    else:
        yield file_item(source.parent, source, name, None)


def _listed_items(path: Path, name: str, note: Callable[[str], None]) -> Iterator[AudioItem]:
    """The items of a JSONL list; `note` receives a line on the keys that are not used."""
    unused = set[str]()
    for where, record in read_records(path):
        channel = _channel(record, where)
        unused |= record.keys() - _USED_KEYS - ({"channel"} if channel is not None else set())
        file = next(filter(None, map(record.get, _FILE_KEYS)), None)
        if not isinstance(file, str):
            raise CodecctlError(f"{where}: 'audio_filepath' is missing")
        if not Path(file).name or "\0" in file:
            raise CodecctlError(f"{where}: 'audio_filepath' names no file: {file!r}")
        start, length = (_seconds(record, key, where) for key in ("offset", "duration"))
        part = {"start_seconds": start, "n_seconds": length} if start is not None else {}
        mark = (f"@{start:g}" if start is not None else "") + _mark(channel)
        stem = Path(file).with_suffix("").as_posix()
        known, whole = known_of(record), path.parent / file
        yield item_of_file(f"{file}{mark}", f"{stem}{mark}", known, name, whole, file=file, channel=channel, **part)
    if unused:
        is_mixed = any("channel" in key for key in unused)
        mixed = "; all channels are mixed to one unless 'channel' is a number, from 0" if is_mixed else ""
        note(f"{path}: keys not used: {', '.join(sorted(unused))}{mixed}")


def _unambiguous(items: Sequence[AudioItem]) -> Iterator[AudioItem]:
    """The items of a list with places of their own: with exact start and length where the start alone, rounded, does
    not say which part it is. The same part once more has a fault."""
    counts, seen = Counter(item.place for item in items), Counter[str]()
    for item in items:
        if counts[item.place] == 1:
            yield item
            continue
        length = f"+{item.n_seconds!r}" if item.n_seconds is not None else ""
        start = f"@{item.start_seconds!r}" if item.start_seconds is not None else ""
        place = f"{item.file}{start}{length}{_mark(item.channel)}"
        seen[place] += 1
        if seen[place] == 1:
            yield replace(item, place=place)
        else:
            fault = "listed before (the same part of the same file)"
            yield replace(item, place=f"{place}#{seen[place]}", fault=fault)


def _seconds(record: Mapping[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise CodecctlError(f"{where}: '{key}' must be seconds, not {value!r}")
    return value


def _channel(record: Mapping[str, Any], where: str) -> int | None:
    """The channel that a line selects; None where it has none, or says something else of one, as the microphone."""
    value = record.get("channel")
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if value < 0:
        raise CodecctlError(f"{where}: 'channel' must be 0, 1, ..., not {value}")
    return value


def _mark(channel: int | None) -> str:
    return f"-ch{channel}" if channel is not None else ""


@dataclass
class AudioList:
    """What a list states of the recordings of a folder."""

    path: Path
    columns: Mapping[str, str]  # our name -> the list's column
    rows: dict[str, dict[str, str]]  # normalised name of the recording -> what is stated
    folder_name: str
    _matched: set[str] = field(default_factory=set)
    n_files: int = 0
    n_files_matched: int = 0

    def find(self, place: str) -> dict[str, str]:
        """What the list states of the file at `place` (a POSIX path below the folder); empty if it is not listed."""
        name, own = _normalise(place), unicodedata.normalize("NFC", self.folder_name) + "/"
        # The list may have the folder's own name in front, or lack it.
        names = (name, own + name, name.removeprefix(own))
        key = next((key for each in names for key in (each, posixpath.splitext(each)[0]) if key in self.rows), None)
        self.n_files += 1
        if key is None:
            return {}
        self._matched.add(key)
        self.n_files_matched += 1
        return dict(self.rows[key])

    def summary(self) -> str:
        """One line on what matched. Raises `CodecctlError` if nothing did."""
        if self.rows and self.n_files and not self._matched:
            raise CodecctlError(
                f"{self.path}: none of its {len(self.rows)} rows names a file of {self.folder_name}: column "
                f"'{self.columns['file']}' has e.g. '{next(iter(self.rows))}'; expected paths below that folder"
            )
        used = ", ".join(f"{column} ({name})" if column != name else name for name, column in self.columns.items())
        return (
            f"{self.path}: columns {used}; {len(self._matched)} of {len(self.rows)} rows match a file, "
            f"{self.n_files_matched} of {self.n_files} files are listed"
        )


def read_list(folder: Path, note: Callable[[str], None]) -> AudioList | None:
    """The list beside or in a folder; None if there is none, or none with a column that names the recordings, of which
    `note` receives a line. Raises `CodecctlError` for a list that cannot be read."""
    folder = Path(os.path.abspath(folder))  # "." has no name
    beside = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    for path in filter(Path.is_file, [*beside, *(folder / f"metadata{suffix}" for suffix in SUFFIXES)]):
        rows = read_table(path)
        first = next(rows, {})
        columns = {ours: name for ours, usual in COLUMNS.items() if (name := find_column(usual, first))}
        if "file" in columns:
            named = ((str(row.get(columns["file"]) or ""), row) for row in chain([first], rows))
            stated = {_normalise(name): known_of(row) for name, row in named if name}
            return AudioList(path, columns, stated, folder.name)
        note(f"{path}: not used: no column names the recordings; expected one of {', '.join(COLUMNS['file'])}")
    return None


def known_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row states, by our names; empty cells are left out."""
    columns = {ours: find_column(usual, row) for ours, usual in COLUMNS.items()}
    return {ours: str(row[name]) for ours, name in columns.items() if name and row.get(name) not in (None, "")}


def _normalise(name: str) -> str:
    """A name that is equal for the same file: NFC, '/' between parts, without './', the suffix in lower case."""
    path = posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    stem, suffix = posixpath.splitext(path)
    return stem + suffix.lower()


def read_folder(folder: Path, name: str) -> list[AudioItem]:
    """The audio files below a folder and what its list states of them, each speaker's together."""
    items = in_order(folder_items(folder, name, lambda line: None))
    if not items:
        raise CodecctlError(f"{folder}: no audio files in it")
    return items


def folder_items(folder: Path, name: str, note: Callable[[str], None]) -> list[AudioItem]:
    """The audio files below a folder, sorted by path; `note` receives lines on its list. Raises `CodecctlError` for a
    list that matches no file."""
    listed, skipped = read_list(folder, note), Counter[str]()
    items = [file_item(folder, path, name, listed) for path in find_audio([folder], skipped)]
    for suffix in (".parquet", *SUFFIXES):
        skipped.pop(suffix, None)
    if skipped:
        note(f"{folder}: {left_out(skipped)}")
    if listed is not None:
        note(listed.summary())
    elif items:
        above = Path(os.path.abspath(folder)).parent
        if path := next(filter(Path.is_file, (above / f"metadata{suffix}" for suffix in SUFFIXES)), None):
            note(f"{path}: is not read for {folder}; prepare {above} to use this list")
    return items


def file_item(folder: Path, path: Path, name: str, listed: AudioList | None) -> AudioItem:
    """One of the files below a folder, with what the list states; without a list, its own folder is the speaker."""
    # Text, since there may be a million files: pathlib would take as long as all checks of the sound.
    place = os.path.relpath(path, folder) if str(folder) == "." else str(path)[len(str(folder)) :].lstrip(os.sep)
    place = place.replace(os.sep, "/")
    stem, parent = posixpath.splitext(place)[0], posixpath.dirname(place)
    known = listed.find(place) if listed is not None else {"speaker": parent} if parent else {}
    return item_of_file(place, stem, known, name, path)


def items_of_corpus(corpus: Corpus, folder: Path) -> Iterator[AudioItem]:
    """Every recording below a corpus' folder, sorted by path.

    Where the layout's glob matches nothing (it may be a guess), every audio file counts, and the rest is unknown.
    """
    known = {"dataset": corpus.name, "language": corpus.languages[0], "licence": corpus.licence.name}
    layout = corpus.layout
    rows = _read_rows(folder, layout.table) if layout.table else {}
    for path in layout.find_recordings(folder):
        if layout.parquet is not None:
            yield from items_of_parquet(path, folder, known, lossy=layout.lossy, columns=layout.parquet.columns)
            continue
        place = path.relative_to(folder).as_posix()
        match = re.search(layout.pattern, place) if layout.pattern else None
        in_path = {name: value for name, value in (match.groupdict() if match else {}).items() if value}
        stated = {key: value for key, value in in_path.items() if key in ("speaker", "language")}
        stated |= {"text": text} if layout.transcript and (text := _read_text(folder, layout, in_path)) else {}
        stated |= rows.get(path.stem, {})
        yield item_of_file(
            place,
            str(PurePosixPath(place).with_suffix("")),
            ({"speaker": layout.speaker} if layout.speaker else {}) | known | stated,
            corpus.name,
            path,
            lossy=layout.lossy,
            raw_rate=layout.sample_rate if layout.raw_pcm else None,
        )


def _read_rows(folder: Path, table: Table) -> dict[str, dict[str, str]]:
    """Stem of the recording's name -> speaker, language and text, as far as the table has them."""
    wanted = {ours: column for ours in ("speaker", "language", "text") if (column := getattr(table, ours))}
    rows: dict[str, dict[str, str]] = {}
    for path in glob_files(folder, table.path):
        for row in read_delimited(path, table.delimiter, table.columns):
            name = PurePosixPath(row.get(table.key, ""))
            stem = name.stem if name.suffix.lower() in AUDIO_SUFFIXES else name.name
            rows[stem] = {ours: row[column] for ours, column in wanted.items() if row.get(column)}
    return rows


def _read_text(folder: Path, layout: Layout, known: Mapping[str, str]) -> str | None:
    """The transcript in a file of its own; None where there is none, as for some recordings of some corpora."""
    try:
        path = folder / (layout.transcript or "").format_map(known)
        return path.read_text(encoding="utf-8-sig", errors="replace").strip() or None
    except (KeyError, OSError):
        return None
