"""Recipes: a YAML file states where a corpus is, its size, its licence and its layout; no code is needed for one.

A recipe without `parts` is one corpus. With `parts`, each part is a corpus named `<recipe>-<part>`: its keys override
the recipe's, and `{part}` is replaced by its name. `verified` states how each fact is known: V (seen in a primary
source), T (third party), D (derived), U (unverified). Only facts that are V are enforced.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, ValidationError, field_validator, model_validator

from codecctl.audio.opening import AUDIO_SUFFIXES
from codecctl.config.load import configs_folder, first_problem, merge, read_yaml
from codecctl.config.model import Section
from codecctl.data.download.sources import ALGORITHMS, HttpSource, HubSource, ManualSource, MdcSource
from codecctl.errors import ConfigError, UsageError

_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # and the forks that macOS puts into archives
Status = Literal["V", "T", "D", "U"]
# A new kind of source is one class in sources.py and one row here.
Source = Annotated[HttpSource | HubSource | MdcSource | ManualSource, Field(discriminator="kind")]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        return {"audio": self.audio, "speaker": self.speaker, "language": self.language, "text": self.text}


class Layout(Section):
    """Where audio files are, and how speaker, language and transcript follow."""

    audio: str | None = Field(None, description="glob below the corpus' folder")
    pattern: str | None = Field(None, description="regex on the path: groups speaker, language, utterance")
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


class Licence(Section):
    """The terms of use. Those that need consent are shown, and asked for once per folder."""

    name: str = Field(description="SPDX name where there is one")
    url: str = Field(description="of the terms")
    consent: bool = Field(False, description="ask before anything is fetched")
    note: str | None = Field(None, description="what else a user must know")


class Gate(Section):
    """What a person has to do before the server provides anything, as steps for a newcomer."""

    needs: str = Field(description="two words, for the table")
    url: str
    steps: tuple[str, ...] = Field(min_length=1)


class Verified(Section):
    """How each stated fact is known."""

    address: Status | None = Field(None, description="addresses, repository, dataset id")
    files: Status | None = Field(None, description="names of the files")
    bytes: Status | None = None
    checksum: Status | None = None
    licence: Status
    gate: Status | None = None
    layout: Status
    speaker: Status | None = None
    sample_rate: Status | None = None
    hours: Status | None = None


class Corpus(Section):
    """One thing to download: a recipe, or a part of one."""

    name: str
    title: str
    languages: tuple[str, ...] = Field(min_length=1, description="BCP 47")
    tier: int | None = Field(None, ge=1, le=3, description="for --tier; null: selected by name or language only")
    enabled: bool = Field(True, description="false: selected by name only")
    hours: float | None = Field(None, gt=0, description="of audio")
    speakers: int | None = Field(None, gt=0)
    unpacked_ratio: float = Field(1.3, gt=0, description="unpacked bytes per byte of archive, to check for room")
    licence: Licence
    gate: Gate | None = None
    source: Source
    fallback: Source | None = Field(None, description="another place with the same recordings in the same layout")
    layout: Layout
    verified: Verified
    note: str | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be a folder's name")
        return name

    @model_validator(mode="after")
    def _check_facts(self) -> Corpus:
        stated = {
            "address": not self.source.is_manual,
            "files": not self.source.is_manual,
            "bytes": self.source.n_bytes is not None,
            "checksum": any(getattr(file, kind) for file in self.source.known_files for kind in ALGORITHMS),
            "gate": self.gate is not None,
            "speaker": self.speakers is not None or _states(self.layout, "speaker"),
            "sample_rate": self.layout.sample_rate is not None,
            "hours": self.hours is not None,
        }
        missing = [fact for fact, there in stated.items() if there and getattr(self.verified, fact) is None]
        if missing:
            raise ValueError(f"verified must state how '{missing[0]}' is known: V, T, D or U")
        if self.source.is_manual and self.gate is None:
            raise ValueError("a manual source needs a gate with steps")
        if len(self.languages) > 1 and not _states(self.layout, "language"):
            raise ValueError("several languages: the layout must state the language of each recording")
        return self


def read_recipes() -> list[Corpus]:
    """Every corpus of every recipe, sorted by file and part. Raises `ConfigError`."""
    paths = sorted((configs_folder() / "datasets").glob("*.yaml"))
    return [corpus for path in paths for corpus in read_recipe(path)]


def read_recipe(path: Path) -> list[Corpus]:
    """The corpora of one YAML: one, or one a part. Raises `ConfigError` that names file and key."""
    values = read_yaml(path)
    parts = values.pop("parts", None)
    if parts is None:
        return [_parse(values, source=str(path))]
    if not isinstance(parts, dict) or not parts:
        raise ConfigError(f"{path}: parts: expected a name and keys for each part")
    corpora = []
    for part, own in parts.items():
        if own and not isinstance(own, dict):
            raise ConfigError(f"{path}: parts.{part}: expected keys and values, or nothing")
        merged = copy.deepcopy(values)
        merge(merged, own or {})
        merged["name"] = f"{values.get('name', path.stem)}-{part}"
        corpora.append(_parse(_replace_part(merged, part), source=f"{path}: parts.{part}"))
    return corpora


def choose(
    corpora: Sequence[Corpus], names: Sequence[str], *, tiers: Sequence[int] = (), languages: Sequence[str] = ()
) -> list[Corpus]:
    """The corpora of these names (a recipe's name means all its parts, a path another recipe), tiers and languages.

    Without names: every enabled one that fits. Raises `UsageError` for an unknown name.
    """
    enabled = [corpus for corpus in corpora if corpus.enabled]
    chosen = [corpus for name in names for corpus in _named(corpora, name)] if names else enabled
    if tiers:
        chosen = [corpus for corpus in chosen if corpus.tier in tiers]
    if languages:
        chosen = [corpus for corpus in chosen if set(languages) & set(corpus.languages)]
    return list({corpus.name: corpus for corpus in chosen}.values())


def _named(corpora: Sequence[Corpus], name: str) -> list[Corpus]:
    if name.endswith((".yaml", ".yml")):
        return read_recipe(Path(name))
    exact = [corpus for corpus in corpora if corpus.name == name]
    family = [corpus for corpus in corpora if corpus.enabled and corpus.name.startswith(f"{name}-")]
    if not exact and not family:
        names = [corpus.name for corpus in corpora]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"no corpus '{name}'{hint} (`codecctl download --list` shows all corpora)")
    return exact or family


def _states(layout: Layout, what: Literal["speaker", "language"]) -> bool:
    """Whether the layout states speaker or language of a recording."""
    column = (layout.table and getattr(layout.table, what)) or (layout.parquet and getattr(layout.parquet, what))
    constant = layout.speaker if what == "speaker" else None
    return bool(column or constant or (layout.pattern and f"(?P<{what}>" in layout.pattern))


def _replace_part(value: Any, part: str) -> Any:
    if isinstance(value, str):
        return value.replace("{part}", part)
    if isinstance(value, list):
        return [_replace_part(item, part) for item in value]
    return {key: _replace_part(item, part) for key, item in value.items()} if isinstance(value, dict) else value


def _parse(values: dict[str, Any], *, source: str) -> Corpus:
    try:
        corpus = Corpus.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error, Corpus)}") from None
    if problem := corpus.source.overlap:  # not in the model, by which the markers of downloaded corpora are read, too
        raise ConfigError(f"{source}: source.files: {problem}")
    return corpus
