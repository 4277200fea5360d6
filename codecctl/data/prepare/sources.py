"""The sources that `prepare` takes, and the audio items in them.

A source is a downloaded corpus (described by its recipe), a folder of audio or Parquet files, one such file, or a JSONL
list.

A folder's list is a `.tsv`, `.csv` or `.jsonl` of the folder's name beside it (`speech/train.tsv` for `speech/train/`),
or `metadata.tsv` (`.csv`, `.jsonl`) in it. One column names the recording: `id`, `path`, `file`, `file_name`,
`audio_filepath` and others (`tables.COLUMNS`), the path below the folder with or without suffix. Others may state
`speaker`, `language`, `licence`, `dataset`, `text`, `native_rate` (Hz). Without a list the folder of a file is its
speaker, and files at the top have none.

A JSONL source has one object a line with the same keys; `audio_filepath` is absolute or relative to the list's folder,
and `offset` and `duration` in seconds select a part of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from codecctl.audio.files import find_files
from codecctl.data.download.corpus import is_unfinished, read_marker
from codecctl.data.prepare.folders import file_item, folder_items
from codecctl.data.prepare.items import AudioItem, in_order, item_of_file
from codecctl.data.prepare.layouts import items_of_corpus
from codecctl.data.prepare.lists import known_of
from codecctl.data.prepare.parquet import items_of_parquet
from codecctl.data.tables import read_records
from codecctl.errors import CodecctlError


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
        raise CodecctlError(f"{source}: no recordings in it")
    with_speaker, with_language, with_text = (
        sum(getattr(item, key) is not None for item in items) for key in ("speaker", "language", "text")
    )
    note(
        f"{source}: {len(items)} recordings, {with_speaker} with a speaker, {with_language} with a language, "
        f"{with_text} with a transcript"
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
        yield from _listed_items(source, name)
    elif source.suffix == ".parquet":
        yield from items_of_parquet(source, source.parent, {"dataset": name})
    else:
        yield file_item(source.parent, source, name, None)


def _listed_items(path: Path, name: str) -> Iterator[AudioItem]:
    """The items of a JSONL list."""
    for where, record in read_records(path):
        file = record.get("audio_filepath") or record.get("path") or record.get("file")
        if not isinstance(file, str):
            raise CodecctlError(f"{where}: 'audio_filepath' is missing")
        start, length = (_seconds(record, key, where) for key in ("offset", "duration"))
        part = {"start_seconds": start, "n_seconds": length} if start is not None else {}
        mark = f"@{start:g}" if start is not None else ""
        stem = Path(file).with_suffix("").as_posix()
        yield item_of_file(
            f"{file}{mark}", f"{stem}{mark}", known_of(record), name, path.parent / file, file=file, **part
        )


def _seconds(record: Mapping[str, Any], key: str, where: str) -> float | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise CodecctlError(f"{where}: '{key}' must be seconds, not {value!r}")
    return value
