"""What every kind of source answers, and how a recipe describes one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from codecctl.config.schema import Section
from codecctl.data.download.remote import Address, Checksum, RemoteFile, is_archive, without_suffix

if TYPE_CHECKING:
    import httpx2

Algorithm = Literal["sha256", "sha1", "md5"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


@dataclass(frozen=True)
class Query:
    """What a source needs to know to list its files."""

    client: httpx2.Client
    pin: str | None = None  # commit or dataset id that the user asked for
    first_pin: str | None = None  # the one of the first download
    sizes_verified: bool = True  # the recipe's sizes are certain
    hashes_verified: bool = True


@dataclass(frozen=True)
class Listing:
    """The files of a source."""

    files: tuple[RemoteFile, ...]
    pin: str | None = None  # commit or dataset id that they belong to
    keep_pin: bool = False  # the next download must get this one, too


class File(Section):
    """One file to fetch. An archive is unpacked into a folder of its own."""

    name: str = Field(description="of the file here and, for {name}, in the address")
    bytes: int | None = Field(None, gt=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    sha1: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    into: str | None = Field(None, description="folder to unpack into; null: the name without its suffix")
    optional: bool = Field(False, description="the corpus is complete without it")

    @field_validator("name", "into")
    @classmethod
    def _stay_inside(cls, name: str | None) -> str | None:
        if name is not None and (not name or name.startswith("/") or ".." in PurePosixPath(name).parts):
            raise ValueError(f"'{name}' must be a path below the corpus' folder")
        return name

    @property
    def folder(self) -> str | None:
        """Where it is unpacked; None if it is no archive."""
        return (self.into or without_suffix(self.name)) if is_archive(self.name) else None

    def at(self, addresses: tuple[Address, ...], query: Query) -> RemoteFile:
        """This file at these addresses."""
        sums = ((kind, value) for kind in ALGORITHMS if (value := getattr(self, kind)))
        return RemoteFile(
            self.name,
            addresses,
            n_bytes=self.bytes,
            is_exact=query.sizes_verified,
            checksums=tuple(Checksum(kind, value, query.hashes_verified) for kind, value in sums),
            optional=self.optional,
            into=self.folder,
        )


class BaseSource(Section):
    """Where the files of a corpus are. Subclasses add `kind`, their keys, and the answers."""

    is_manual: ClassVar[bool] = False  # a program cannot fetch it
    has_versions: ClassVar[bool] = False  # NAME@PIN selects one

    @property
    def origin(self) -> str:
        """Host or repository, for people."""
        raise NotImplementedError

    @property
    def known_files(self) -> tuple[File, ...]:
        """The files that the recipe names."""
        return ()

    @property
    def n_bytes(self) -> int | None:
        """What is to be fetched; None if the recipe does not state it for every file."""
        sizes = [file.bytes for file in self.known_files if not file.optional]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def has_archives(self) -> bool:
        return any(is_archive(file.name) for file in self.known_files)

    def list_files(self, query: Query) -> Listing:
        """The files to fetch. Raises `PermanentError`, `TransientError`."""
        raise NotImplementedError
