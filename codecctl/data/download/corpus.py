"""A downloaded corpus: a folder with `corpus.json`, which is written last."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from codecctl.config.schema import Section
from codecctl.data.download.recipes import Corpus
from codecctl.data.download.remote import FetchedFile
from codecctl.errors import CodecctlError
from codecctl.parsing import as_type, parse_json

MARKER_NAME = "corpus.json"


class Marker(Section):
    """`corpus.json`: this folder holds the whole corpus."""

    format: Literal["codecctl.corpus/1"] = "codecctl.corpus/1"
    corpus: Corpus
    pin: str | None = Field(None, description="commit or dataset id that was fetched")
    files: tuple[FetchedFile, ...]
    n_audio_files: int = Field(description="recordings, or Parquet files with recordings")
    finished: str = Field(description="UTC")


def read_marker(folder: Path) -> Marker | None:
    """The marker of a whole downloaded corpus, or None. Raises `CodecctlError` if it is damaged."""
    path = folder / MARKER_NAME
    try:
        return as_type(Marker, parse_json(path.read_bytes(), str(path)), str(path))
    except FileNotFoundError:
        return None
    except CodecctlError as error:
        raise CodecctlError(f"{error}; remove it and run `codecctl download` again") from None


def read_complete(folder: Path) -> Marker | None:
    """As `read_marker`; also None if a file that the marker lists is missing."""
    marker = read_marker(folder)
    return marker if marker is not None and all(file.is_in(folder) for file in marker.files) else None


def find_corpora(root: Path) -> list[Path]:
    """`root` and the folders in it that hold a whole downloaded corpus."""
    return [folder for folder in (root, *sorted(root.glob("*"))) if (folder / MARKER_NAME).is_file()]


def is_unfinished(folder: Path) -> bool:
    """Whether a download into this folder has begun and not finished."""
    return not (folder / MARKER_NAME).is_file() and any(folder.glob(".lease-*"))
