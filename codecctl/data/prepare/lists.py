"""Lists beside audio: a TSV, CSV or JSONL file with a row a recording, matched with files by their names."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from codecctl.data.tables import COLUMNS, find_column, read_table
from codecctl.errors import CodecctlError

SUFFIXES = (".tsv", ".csv", ".jsonl")


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
        name = _normalise(place, self.folder_name)
        key = next((key for key in (name, posixpath.splitext(name)[0]) if key in self.rows), None)
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
    for path in filter(Path.is_file, _candidates(folder)):
        rows = read_table(path)
        first = next(rows, {})
        columns = {ours: name for ours in COLUMNS if (name := _column(ours, first))}
        if "file" in columns:
            named = ((str(row.get(columns["file"]) or ""), row) for row in chain([first], rows))
            stated = {_normalise(name, folder.name): known_of(row) for name, row in named if name}
            return AudioList(path, columns, stated, folder.name)
        note(f"{path}: not used: no column names the recordings; expected one of {', '.join(COLUMNS['file'])}")
    return None


def list_above(folder: Path) -> Path | None:
    """A list in the folder above, which covers that folder and is not read for this one."""
    above = Path(os.path.abspath(folder)).parent
    return next((path for path in (above / f"metadata{suffix}" for suffix in SUFFIXES) if path.is_file()), None)


def known_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row states, by our names; empty cells are left out."""
    columns = {ours: _column(ours, row) for ours in COLUMNS}
    return {ours: str(row[name]) for ours, name in columns.items() if name and row.get(name) not in (None, "")}


def _candidates(folder: Path) -> list[Path]:
    beside = [folder.with_name(folder.name + suffix) for suffix in SUFFIXES]
    return [*beside, *(folder / f"metadata{suffix}" for suffix in SUFFIXES)]


def _column(ours: str, row: Mapping[str, Any]) -> str | None:
    return find_column(COLUMNS[ours], row)


def _normalise(name: str, folder_name: str) -> str:
    """A name that is equal for the same file: NFC, '/' between parts, without './' and the folder's own name in front,
    the suffix in lower case."""
    path = posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    path = path.removeprefix(unicodedata.normalize("NFC", folder_name) + "/")
    stem, suffix = posixpath.splitext(path)
    return stem + suffix.lower()
