"""The audio items of a folder of audio files, with what its list states of them (see `sources.py`)."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from codecctl.audio.files import find_audio, left_out
from codecctl.data.prepare.items import AudioItem, in_order, item_of_file
from codecctl.data.prepare.lists import SUFFIXES, AudioList, list_above, read_list
from codecctl.errors import CodecctlError


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
    elif items and (above := list_above(folder)) is not None:
        note(f"{above}: is not read for {folder}; prepare {above.parent} to use this list")
    return items


def file_item(folder: Path, path: Path, name: str, listed: AudioList | None) -> AudioItem:
    """One of the files below a folder, with what the list states; without a list, its own folder is the speaker."""
    # Text, since there may be a million files: pathlib would take as long as all checks of the sound.
    place = os.path.relpath(path, folder) if str(folder) == "." else str(path)[len(str(folder)) :].lstrip(os.sep)
    place = place.replace(os.sep, "/")
    stem, parent = posixpath.splitext(place)[0], posixpath.dirname(place)
    known = listed.find(place) if listed is not None else {"speaker": parent} if parent else {}
    return item_of_file(place, stem, known, name, path)
