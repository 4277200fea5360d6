"""A downloaded corpus: a folder with `corpus.json`, written last, and what its layout tells of each recording in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from codecctl.audio.files import AUDIO_SUFFIXES
from codecctl.config.schema import Section
from codecctl.data.recipes import Corpus, Parquet, Table, first_problem
from codecctl.errors import CodecctlError

MARKER_NAME = "corpus.json"
_SUFFIXES = AUDIO_SUFFIXES | {".m4a", ".mp4", ".g722", ".sln16", ".wma", ".aac"}


class FetchedFile(Section):
    """What arrived under one name."""

    name: str
    bytes: int
    sha256: str
    host: str = Field(description="where it came from")
    into: str | None = Field(None, description="the folder it was unpacked into; null: it lies there as it is")


class Marker(Section):
    """`corpus.json`: this folder holds the whole corpus."""

    format: Literal["codecctl.corpus/1"] = "codecctl.corpus/1"
    corpus: Corpus
    pin: str | None = Field(None, description="commit or dataset id that was fetched")
    files: tuple[FetchedFile, ...]
    n_audio_files: int = Field(description="recordings, or Parquet files with recordings")
    finished: str = Field(description="UTC")


@dataclass(frozen=True, slots=True)
class AudioFile:
    """One recording that is a file of its own."""

    path: Path
    key: str  # POSIX path below the corpus' folder
    dataset: str
    language: str
    speaker: str | None
    licence: str
    text: str | None
    lossy: str | None  # the codec that the corpus went through, if it says so
    raw_pcm_rate: int | None  # Hz of headerless mono 16-bit little-endian samples; None: a file with a header


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """Many recordings in one Parquet file; `columns` says in which of its columns, first name that is there."""

    path: Path
    key: str
    dataset: str
    language: str  # unless a column tells
    licence: str
    lossy: str | None
    columns: Parquet


def read_marker(folder: Path) -> Marker | None:
    """What lies in this folder if it is a whole downloaded corpus, else None. Raises `CodecctlError` if damaged."""
    path = folder / MARKER_NAME
    try:
        return Marker.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CodecctlError(f"{path}: {first_problem(error)}; remove it and run `codecctl download` again") from None


def find_corpora(root: Path) -> list[Path]:
    """The folders right below `root`, or `root` itself, that hold a whole downloaded corpus."""
    return [folder for folder in (root, *sorted(root.glob("*"))) if (folder / MARKER_NAME).is_file()]


def is_unfinished(folder: Path) -> bool:
    """Whether a download into this folder began and has not come to its end: what lies there is not the whole."""
    return not (folder / MARKER_NAME).is_file() and any(folder.glob(".lease-*"))


def describe(corpus: Corpus, folder: Path) -> Iterator[AudioFile | ParquetFile]:
    """Every recording below a corpus' folder as its layout has it, sorted by path.

    Where the layout's glob finds nothing (it may be a guess), every audio file counts and the rest stays unknown.
    """
    if corpus.layout.parquet is not None:
        yield from _describe_parquet(corpus, folder, corpus.layout.parquet)
        return
    layout = corpus.layout
    rows = _read_table(folder, layout.table) if layout.table else {}
    pattern = re.compile(layout.pattern) if layout.pattern else None
    for path in find_recordings(corpus, folder):
        key = path.relative_to(folder).as_posix()
        match = pattern.search(key) if pattern else None
        known = {name: value for name, value in (match.groupdict() if match else {}).items() if value}
        row = rows.get(path.stem, {})
        text = row.get("text") or (_read_transcript(folder, layout.transcript, known) if layout.transcript else None)
        yield AudioFile(
            path=path,
            key=key,
            dataset=corpus.name,
            language=row.get("language") or known.get("language") or corpus.languages[0],
            speaker=row.get("speaker") or known.get("speaker") or layout.speaker,
            licence=corpus.licence.name,
            text=text,
            lossy=layout.lossy,
            raw_pcm_rate=layout.sample_rate if layout.raw_pcm else None,
        )


def find_recordings(corpus: Corpus, folder: Path) -> list[Path]:
    """The audio or Parquet files of a corpus, sorted: those of the layout's glob, else all that look like it."""
    layout = corpus.layout
    pattern = layout.parquet.path if layout.parquet else layout.audio or ""
    suffixes = {".parquet"} if layout.parquet else _SUFFIXES
    found = _files(folder, pattern)
    return found or [path for path in _files(folder, "**/*") if path.suffix.lower() in suffixes]


def column_of(names: Sequence[str], there: Sequence[str]) -> str | None:
    """The first of `names` that is a column of a Parquet file with the columns `there`."""
    return next((name for name in names if name in there), None)


def _describe_parquet(corpus: Corpus, folder: Path, columns: Parquet) -> Iterator[ParquetFile]:
    for path in find_recordings(corpus, folder):
        yield ParquetFile(
            path=path,
            key=path.relative_to(folder).as_posix(),
            dataset=corpus.name,
            language=corpus.languages[0],
            licence=corpus.licence.name,
            lossy=corpus.layout.lossy,
            columns=columns,
        )


def _files(folder: Path, pattern: str) -> list[Path]:
    """Sorted; without hidden ones and the forks that macOS puts into archives."""
    found = (path for path in folder.glob(pattern) if path.is_file())
    hidden = re.compile(r"(^|/)(\.|__MACOSX/)")
    return sorted(path for path in found if not hidden.search(path.relative_to(folder).as_posix()))


def _read_table(folder: Path, table: Table) -> dict[str, dict[str, str]]:
    """Stem of the recording's name -> speaker, language and text, as far as the table has them."""
    wanted = {what: column for what in ("speaker", "language", "text") if (column := getattr(table, what))}
    rows: dict[str, dict[str, str]] = {}
    for path in _files(folder, table.path):
        for row in _rows(path, table):
            name = Path(row.get(table.key, "")).name
            stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in _SUFFIXES else name
            rows[stem] = {what: row[column] for what, column in wanted.items() if row.get(column)}
    return rows


def _rows(path: Path, table: Table) -> Iterator[Mapping[str, str]]:
    columns = table.columns
    with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as lines:
        for line in lines:
            if columns is None:
                columns = tuple(line.rstrip("\r\n").split(table.delimiter))
                continue
            # No quoting: in lists of transcripts a quotation mark is a letter like any other.
            cells = line.rstrip("\r\n").split(table.delimiter, len(columns) - 1)
            yield dict(zip(columns, (cell.strip() for cell in cells), strict=False))


def _read_transcript(folder: Path, template: str, known: Mapping[str, str]) -> str | None:
    try:
        path = folder / template.format_map(known)
        return path.read_text(encoding="utf-8-sig", errors="replace").strip() or None
    except (KeyError, OSError):
        return None  # some recordings of some corpora have none
