"""How a corpus' folder is laid out: where audio files are, and how speaker, language and transcript follow."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from pydantic import Field, model_validator

from codecctl.audio.files import AUDIO_SUFFIXES
from codecctl.config.schema import Section

_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # and the forks that macOS puts into archives


class Table(Section):
    """A text file with a line a recording."""

    path: str = Field(description="glob below the corpus' folder")
    key: str = Field(description="the column that names the recording, with or without folder and suffix")
    columns: tuple[str, ...] | None = Field(None, description="their names, if there is no header line")
    delimiter: str = Field("\t", description="the last column takes the rest of the line")
    speaker: str | None = Field(None, description="column")
    language: str | None = Field(None, description="column")
    text: str | None = Field(None, description="column")


class Parquet(Section):
    """Parquet files that contain the audio's bytes. Of several column names the first that is there counts."""

    path: str = Field(description="glob below the corpus' folder")
    audio: tuple[str, ...] = Field(("audio",), min_length=1)
    speaker: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


class Layout(Section):
    """Where audio files are, and how speaker, language and transcript follow."""

    audio: str | None = Field(None, description="glob below the corpus' folder")
    pattern: str | None = Field(None, description="regex on the path: groups speaker, language, utterance, split")
    transcript: str | None = Field(
        None, description="path of a text file per utterance, with {speaker} and {utterance}"
    )
    table: Table | None = None
    parquet: Parquet | None = None
    speaker: str | None = Field(None, description="of a corpus with one speaker")
    sample_rate: int | None = Field(None, gt=0, description="Hz, nominal")
    raw_pcm: bool = Field(False, description="headerless mono 16-bit little-endian samples at sample_rate")
    lossy: str | None = Field(None, description="codec that all recordings went through")

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if (self.audio is None) == (self.parquet is None):
            raise ValueError("expected either 'audio' or 'parquet', where the recordings are")
        if self.raw_pcm and self.sample_rate is None:
            raise ValueError("raw_pcm: headerless samples need their sample_rate")
        if self.pattern is not None:
            re.compile(self.pattern)
        return self

    def find_recordings(self, folder: Path) -> list[Path]:
        """The audio or Parquet files of a corpus, sorted: those of the glob, or by suffix if it matches none.

        Raises `OSError` if a folder cannot be listed.
        """
        for _ in os.walk(folder, onerror=_raise):  # `glob` skips what it cannot list
            pass
        suffixes = {".parquet"} if self.parquet else AUDIO_SUFFIXES
        found = glob_files(folder, self.parquet.path if self.parquet else self.audio or "")
        return found or [path for path in glob_files(folder, "**/*") if path.suffix.lower() in suffixes]


def glob_files(folder: Path, pattern: str) -> list[Path]:
    """Sorted, without hidden ones."""
    found = (path for path in folder.glob(pattern) if path.is_file())
    return sorted(path for path in found if not _HIDDEN.search(path.relative_to(folder).as_posix()))


def _raise(error: OSError) -> NoReturn:
    raise error
