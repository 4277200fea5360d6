"""Files on servers: where they are, what is known of them, and how fetching them fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from codecctl.config.model import Section
from codecctl.errors import CodecctlError

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")


class TransientError(Exception):
    """A request failed in a way that may not happen again: retry."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds  # as the server asks
        self.made_progress = False  # bytes arrived before it failed


class PermanentError(CodecctlError):
    """A server will not provide a file: try another one, or give up."""

    def __init__(self, reason: str, *, is_gate: bool = False) -> None:
        super().__init__(reason)
        self.is_gate = is_gate  # it asks for a token, a key or accepted terms


class Stopped(Exception):
    """The work was asked to end; never shown."""


@dataclass(frozen=True)
class Address:
    """A URL, and the Authorization header for its host alone. Messages and files show `host` or `place` only, since
    the rest may contain a key."""

    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def place(self) -> str:
        """The address without user, query and fragment."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self.host}{parts.path}"


@dataclass(frozen=True)
class Checksum:
    """A published checksum."""

    algorithm: str  # of hashlib, or "git-sha1": of a file as git stores it
    value: str  # lower-case hex
    is_binding: bool = True  # False: it was never verified; a difference is reported, and the file is kept


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch."""

    name: str  # POSIX path below the folder it goes to
    addresses: tuple[Address, ...]  # mirrors, in the order in which they are tried
    n_bytes: int | None = None
    is_exact: bool = True  # False: n_bytes is approximate
    checksums: tuple[Checksum, ...] = ()
    first_seen: str | None = None  # its SHA-256 when it was first downloaded
    renew: Callable[[], Address] | None = None  # gets a new address when the first one has expired
    optional: bool = False
    into: str | None = None  # folder to unpack it into; None: it is no archive

    @property
    def hash_is_known(self) -> bool:
        return self.first_seen is not None or any(checksum.is_binding for checksum in self.checksums)

    @property
    def algorithms(self) -> set[str]:
        return {checksum.algorithm for checksum in self.checksums}

    def fetched(self, n_bytes: int, sha256: str, host: str) -> FetchedFile:
        """It has arrived, from this host."""
        return FetchedFile(name=self.name, bytes=n_bytes, sha256=sha256, host=host, into=self.into)


class FetchedFile(Section):
    """A file that has arrived, as `corpus.json` lists it."""

    name: str
    bytes: int
    sha256: str
    host: str = Field(description="where it came from")
    into: str | None = Field(None, description="the folder it was unpacked into; null: it is kept as it is")

    def is_in(self, folder: Path) -> bool:
        """Whether it, or what was unpacked from it, is there."""
        if self.into is not None:
            unpacked = folder / self.into
            return unpacked.is_dir() and any(unpacked.iterdir())
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.bytes


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def without_suffix(name: str) -> str:
    """`data/train.tar.gz` -> `data/train`."""
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix))
    return name[: -len(suffix)]
