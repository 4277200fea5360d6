"""Recipes: one YAML a corpus says where it is, what it weighs, on which terms and how it is laid out; no code each.

A recipe without `parts` is one corpus. With `parts`, each part is a corpus named `<recipe>-<part>`: its keys are laid
over the recipe's and `{part}` is put in. Facts carry a status in `verified`: V (seen in a primary source), T (third
party), D (derived), U (unverified); only what is V is insisted on, the rest may turn out wrong without stopping anyone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from codecctl.config.load import configs_folder, read_yaml
from codecctl.config.schema import Section
from codecctl.errors import ConfigError, UsageError

Status = Literal["V", "T", "D", "U"]
Algorithm = Literal["sha256", "sha1", "md5"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Licence(Section):
    """The terms. Those that need consent are shown and asked once per folder."""

    name: str = Field(description="SPDX where there is one")
    url: str = Field(description="where the terms are to be read")
    consent: bool = Field(False, description="ask before the first byte")
    note: str | None = Field(None, description="what else one must know")


class Gate(Section):
    """What has to be done by hand before the server gives anything, in words that a newcomer can follow."""

    needs: str = Field(description="in two words, for the table")
    url: str
    steps: tuple[str, ...] = Field(min_length=1)


class File(Section):
    """One file to fetch. An archive is unpacked into a folder of its own."""

    name: str = Field(description="as it is called here and, in an address, for {name}")
    bytes: int | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    sha1: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    into: str | None = Field(None, description="folder to unpack into; null: the name without its suffix")
    optional: bool = Field(False, description="the corpus is whole without it")

    @field_validator("name", "into")
    @classmethod
    def _stay_inside(cls, name: str | None) -> str | None:
        if name is not None and (not name or name.startswith("/") or ".." in PurePosixPath(name).parts):
            raise ValueError(f"'{name}' must be a path below the corpus' folder")
        return name


class HttpSource(Section):
    """Files from web servers. The addresses are mirrors of each other, taken in turn."""

    kind: Literal["http"]
    addresses: tuple[str, ...] = Field(min_length=1, description="with {name} for the file's name")
    files: tuple[File, ...] = Field(min_length=1)


class HubSource(Section):
    """Files of a dataset on the Hugging Face hub."""

    kind: Literal["huggingface"]
    repo: str
    revision: str = Field("main", description="a commit where it is known; else the first one seen is kept to")
    files: tuple[str, ...] = Field(min_length=1, description="patterns over the repository's paths")
    bytes: int | None = Field(None, gt=0, description="of all of them, roughly")


class MdcSource(Section):
    """One archive of the Mozilla Data Collective."""

    kind: Literal["mdc"]
    dataset: str | None = Field(None, description="the id at the end of the dataset's address")
    file: File


class ManualSource(Section):
    """Nothing that a program may fetch: `gate.steps` says what to do."""

    kind: Literal["manual"]
    bytes: int | None = Field(None, gt=0)


Source = Annotated[HttpSource | HubSource | MdcSource | ManualSource, Field(discriminator="kind")]


class Table(Section):
    """A text file with a row a recording."""

    path: str = Field(description="glob below the corpus' folder")
    key: str = Field(description="the column that names the recording, with or without folder and suffix")
    columns: tuple[str, ...] | None = Field(None, description="their names, if no first line tells them")
    delimiter: str = Field("\t", description="the last column takes what is left of the line")
    speaker: str | None = Field(None, description="column")
    language: str | None = Field(None, description="column")
    text: str | None = Field(None, description="column")


class Parquet(Section):
    """Parquet files with the audio's bytes inside. Of several column names the first that is there counts."""

    path: str = Field(description="glob below the corpus' folder")
    audio: tuple[str, ...] = Field(("audio",), min_length=1)
    speaker: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


class Layout(Section):
    """Where audio, speaker, language and transcript are."""

    audio: str | None = Field(None, description="glob below the corpus' folder")
    pattern: str | None = Field(None, description="regex on the path: groups speaker, language, utterance, split")
    transcript: str | None = Field(None, description="path of a text file an utterance, with {speaker} and {utterance}")
    table: Table | None = None
    parquet: Parquet | None = None
    speaker: str | None = Field(None, description="the one speaker of it all")
    sample_rate: int | None = Field(None, gt=0, description="Hz, nominal")
    raw_pcm: bool = Field(False, description="headerless mono 16-bit little-endian samples at sample_rate")
    lossy: str | None = Field(None, description="the codec that all of it went through")

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if (self.audio is None) == (self.parquet is None):
            raise ValueError("either 'audio' or 'parquet' says where the recordings are")
        if self.raw_pcm and self.sample_rate is None:
            raise ValueError("headerless samples need their sample_rate")
        if self.pattern is not None:
            re.compile(self.pattern)
        return self


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
    tier: Literal[1, 2, 3] | None = Field(None, description="for --tier; null: by name or language only")
    enabled: bool = Field(True, description="false: only when asked for by name")
    hours: float | None = Field(None, gt=0, description="of audio, as honestly as it is known")
    speakers: int | None = Field(None, gt=0)
    unpacked_ratio: float = Field(1.3, gt=0, description="bytes on disk for a byte of archive, to check for room")
    licence: Licence
    gate: Gate | None = None
    source: Source
    fallback: Source | None = Field(None, description="another place with the same recordings, laid out alike")
    layout: Layout
    verified: Verified
    note: str | None = None

    @field_validator("tier", mode="before")
    @classmethod
    def _read_tier(cls, tier: Any) -> Any:
        return int(tier) if isinstance(tier, str) and tier.isdecimal() else tier  # YAML scalars arrive as text

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be a folder's name")
        return name

    @model_validator(mode="after")
    def _check_facts(self) -> Corpus:
        stated = {
            "address": not isinstance(self.source, ManualSource),
            "files": not isinstance(self.source, ManualSource),
            "bytes": self.n_bytes is not None,
            "checksum": any(getattr(file, kind) for file in self.files for kind in ALGORITHMS),
            "gate": self.gate is not None,
            "speaker": self.speakers is not None or _tells(self.layout, "speaker"),
            "sample_rate": self.layout.sample_rate is not None,
            "hours": self.hours is not None,
        }
        missing = [fact for fact, there in stated.items() if there and getattr(self.verified, fact) is None]
        if missing:
            raise ValueError(f"verified must say how '{missing[0]}' is known: V, T, D or U")
        if isinstance(self.source, ManualSource) and self.gate is None:
            raise ValueError("a manual source needs a gate that says what to do")
        if len(self.languages) > 1 and not _tells(self.layout, "language"):
            raise ValueError("several languages: the layout must say which recording is in which")
        return self

    @property
    def files(self) -> tuple[File, ...]:
        """The files of the first source that are named in the recipe (those on the hub are named by the hub)."""
        if isinstance(self.source, HttpSource):
            return self.source.files
        return (self.source.file,) if isinstance(self.source, MdcSource) else ()

    @property
    def n_bytes(self) -> int | None:
        """What there is to fetch, if the recipe knows of every file."""
        if isinstance(self.source, HubSource | ManualSource):
            return self.source.bytes
        sizes = [file.bytes for file in self.files if not file.optional]
        return None if None in sizes else sum(size or 0 for size in sizes)


def recipes_folder() -> Path:
    """Where the shipped recipes lie."""
    return configs_folder() / "datasets"


def read_recipes(folder: Path | None = None) -> list[Corpus]:
    """Every corpus of every recipe, sorted by file and part. Raises `ConfigError`."""
    paths = sorted((folder or recipes_folder()).glob("*.yaml"))
    return [corpus for path in paths for corpus in read_recipe(path)]


def read_recipe(path: Path) -> list[Corpus]:
    """The corpora of one YAML: itself, or one a part. Raises `ConfigError` that names file, key and the way out."""
    values = read_yaml(path)
    parts = values.pop("parts", None)
    if parts is None:
        return [_parse(values, source=str(path))]
    if not isinstance(parts, dict) or not parts:
        raise ConfigError(f"{path}: parts: expected a name and keys for each part")
    corpora = []
    for part, own in parts.items():
        merged = _lay_over(values, own or {}) | {"name": f"{values.get('name', path.stem)}-{part}"}
        corpora.append(_parse(_put_in(merged, part), source=f"{path}: parts.{part}"))
    return corpora


def choose(
    corpora: Sequence[Corpus], names: Sequence[str], *, tiers: Sequence[int] = (), languages: Sequence[str] = ()
) -> list[Corpus]:
    """The corpora of these names (a recipe's name means all its parts, a path another recipe), tiers and languages.

    Without names: every enabled one that fits. Raises `UsageError` for a name that is none.
    """
    chosen = [corpus for name in names for corpus in _named(corpora, name)] if names else _enabled(corpora)
    if tiers:
        chosen = [corpus for corpus in chosen if corpus.tier in tiers]
    if languages:
        chosen = [corpus for corpus in chosen if set(languages) & set(corpus.languages)]
    return list({corpus.name: corpus for corpus in chosen}.values())


def _named(corpora: Sequence[Corpus], name: str) -> list[Corpus]:
    if name.endswith((".yaml", ".yml")):
        return read_recipe(Path(name))
    exact = [corpus for corpus in corpora if corpus.name == name]
    family = [corpus for corpus in _enabled(corpora) if corpus.name.startswith(f"{name}-")]
    if not exact and not family:
        names = [corpus.name for corpus in corpora]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"no corpus '{name}'{hint} (`codecctl download --list` shows all)")
    return exact or family


def _enabled(corpora: Iterable[Corpus]) -> list[Corpus]:
    return [corpus for corpus in corpora if corpus.enabled]


def _tells(layout: Layout, what: Literal["speaker", "language"]) -> bool:
    """Whether the layout says whose recording it is, or in which language."""
    column = (layout.table and getattr(layout.table, what)) or (layout.parquet and getattr(layout.parquet, what))
    constant = layout.speaker if what == "speaker" else None
    return bool(column or constant or (layout.pattern and f"(?P<{what}>" in layout.pattern))


def _lay_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _lay_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _put_in(value: Any, part: str) -> Any:
    if isinstance(value, str):
        return value.replace("{part}", part)
    if isinstance(value, list):
        return [_put_in(item, part) for item in value]
    return {key: _put_in(item, part) for key, item in value.items()} if isinstance(value, dict) else value


def _parse(values: dict[str, Any], *, source: str) -> Corpus:
    try:
        return Corpus.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """What is wrong, by its dotted key, on one line."""
    problems = error.errors(include_url=False)
    # A mistyped key is also a missing one: the mistype says more.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    tags = ("http", "huggingface", "mdc", "manual")
    key = ".".join(str(part) for part in first["loc"] if part not in tags) or "recipe"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _all_keys(), n=1, cutoff=0.5)
        return f"unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else "")
    if first["type"] == "missing":
        return f"{key} is missing"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said[:1].lower()}{said[1:]}"


def _all_keys() -> list[str]:
    sections: tuple[type[Section], ...] = (
        *(Corpus, Licence, Gate, File, HttpSource, HubSource, MdcSource, ManualSource),
        *(Table, Parquet, Layout, Verified),
    )
    return sorted({name for section in sections for name in section.model_fields})
