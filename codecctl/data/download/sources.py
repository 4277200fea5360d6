"""The kinds of places that corpora are downloaded from, and how a recipe describes one file."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from codecctl.config.model import Section
from codecctl.data.download.remote import (
    Address,
    Checksum,
    PermanentError,
    RemoteFile,
    TransientError,
    is_archive,
    without_suffix,
)  # fmt: skip

if TYPE_CHECKING:
    import httpx2

ALGORITHMS = ("sha256", "sha1", "md5")
_COMMIT = re.compile(r"[0-9a-f]{40}")
KEY_VARIABLE = "MDC_API_KEY"
BASE_VARIABLE = "MDC_API_URL"
DEFAULT_BASE = "https://mozilladatacollective.com/api"


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


def _is_below(name: str) -> bool:
    """Whether a path leads to a place below the folder that it is joined to."""
    return bool(name) and ".." not in PurePosixPath(name).parts and not name.startswith("/")


def _overlap(files: Iterable[tuple[str, str | None]]) -> str | None:
    """Which of the files would be lost, each a name and the folder that it is unpacked into and that it replaces."""
    pairs = list(files)
    folders = {PurePosixPath(into) for _, into in pairs if into is not None}
    counts = Counter(PurePosixPath(place) for pair in pairs for place in pair if place is not None)
    for place, count in counts.items():
        if count > 1 or not folders.isdisjoint(place.parents):
            return f"'{place}' is where an archive is unpacked, or below it; each archive needs a folder of its own"
    return None


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
        if name is not None and not _is_below(name):
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
    """Where the files of a corpus are.

    Subclasses add `kind`, their keys, `origin` (host or repository, for people), and `list_files`, which raises
    `PermanentError` and `TransientError`.
    """

    is_manual: ClassVar[bool] = False  # a program cannot fetch it
    has_versions: ClassVar[bool] = False  # NAME@PIN selects one

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
    def overlap(self) -> str | None:
        """Which of the known files would be lost when another one is unpacked."""
        return _overlap((file.name, file.folder) for file in self.known_files)

    @property
    def has_archives(self) -> bool:
        return any(is_archive(file.name) for file in self.known_files)


class HttpSource(BaseSource):
    """Files from web servers. The addresses are mirrors, tried in turn."""

    kind: Literal["http"]
    addresses: tuple[str, ...] = Field(min_length=1, description="with {name} for the file's name")
    files: tuple[File, ...] = Field(min_length=1)

    @property
    def origin(self) -> str:
        return ", ".join(dict.fromkeys(urlsplit(address).netloc for address in self.addresses))

    @property
    def known_files(self) -> tuple[File, ...]:
        return self.files

    def list_files(self, query: Query) -> Listing:
        return Listing(
            tuple(
                file.at(tuple(Address(mirror.replace("{name}", file.name)) for mirror in self.addresses), query)
                for file in self.files
            )
        )


class ManualSource(BaseSource):
    """The recipe's `gate.steps` say how a person gets the files; what is put into the folder is taken as it is."""

    is_manual: ClassVar[bool] = True

    kind: Literal["manual"]
    bytes: int | None = Field(None, gt=0)

    @property
    def origin(self) -> str:
        return "by hand"

    @property
    def n_bytes(self) -> int | None:
        return self.bytes

    def list_files(self, query: Query) -> Listing:
        return Listing(())


class HubSource(BaseSource):
    """Files of a dataset on the Hugging Face hub. The hub's client lists them with their sizes and hashes; it resumes
    within one call only, so they are fetched like all others."""

    has_versions: ClassVar[bool] = True

    kind: Literal["huggingface"]
    repo: str
    revision: str = Field("main", description="a commit where it is known; else the first one downloaded is kept to")
    files: tuple[str, ...] = Field(min_length=1, description="patterns for paths in the repository")
    bytes: int | None = Field(None, gt=0, description="of all of them, roughly")

    @property
    def origin(self) -> str:
        return f"huggingface.co/datasets/{self.repo}"

    @property
    def n_bytes(self) -> int | None:
        return self.bytes

    @property
    def has_archives(self) -> bool:
        return any(map(is_archive, self.files))

    def list_files(self, query: Query) -> Listing:
        """The files of one commit that match the patterns."""
        import httpx2
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        is_pinned = _COMMIT.fullmatch(self.revision) is not None
        commit = query.pin or (self.revision if is_pinned else query.first_pin or self.revision)
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        token = hub.get_token()
        api = hub.HfApi(endpoint=endpoint, token=token or False)
        try:
            if not _COMMIT.fullmatch(commit):
                commit = str(api.dataset_info(self.repo, revision=commit, timeout=30).sha)
            tree = api.list_repo_tree(self.repo, recursive=True, revision=commit, repo_type="dataset")
            found = [entry for entry in tree if isinstance(entry, hub.RepoFile)]
        except OfflineModeIsEnabled:
            raise PermanentError(f"{self.repo}: HF_HUB_OFFLINE is set; unset it") from None
        except HfHubHTTPError as error:
            raise _failure(self.repo, error.response.status_code) from None
        except (httpx2.HTTPError, OSError):
            raise TransientError(f"{self.repo}: the hub cannot be reached") from None
        entries = [e for e in found if any(fnmatch.fnmatchcase(e.path, pattern) for pattern in self.files)]
        if not entries:
            raise PermanentError(f"{self.repo}: revision {commit} has no files like {', '.join(self.files)}")
        if outside := next((entry.path for entry in entries if not _is_below(entry.path)), None):
            raise PermanentError(f"{self.repo}: lists {outside[:200]!r}, a path outside of the corpus' folder")

        def remote(entry: hub.RepoFile) -> RemoteFile:
            url = hub.hf_hub_url(self.repo, entry.path, repo_type="dataset", revision=commit, endpoint=endpoint)
            return RemoteFile(
                entry.path,
                (Address(url, f"Bearer {token}" if token else None),),
                n_bytes=entry.size,
                checksums=(Checksum("sha256", entry.lfs.sha256) if entry.lfs else Checksum("git-sha1", entry.blob_id),),
                into=without_suffix(entry.path) if is_archive(entry.path) else None,
            )

        files = tuple(map(remote, entries))
        if problem := _overlap((file.name, file.into) for file in files):
            raise PermanentError(f"{self.repo}: {problem}")
        return Listing(files, commit, keep_pin=query.pin is None and not is_pinned)


def _failure(repo: str, code: int) -> PermanentError | TransientError:
    if code in (401, 403):
        return PermanentError(f"{repo}: the hub answers {code}: it needs a token, or accepted terms", is_gate=True)
    if code == 404:
        return PermanentError(
            f"{repo}: the hub has no such dataset or revision, or hides it from this token", is_gate=True
        )
    if code in (408, 429) or code >= 500:
        return TransientError(f"{repo}: the hub answers {code}")
    return PermanentError(f"{repo}: the hub answers {code}")


class MdcSource(BaseSource):
    """One archive of the Mozilla Data Collective: a key and a dataset's id give an address that expires."""

    has_versions: ClassVar[bool] = True

    kind: Literal["mdc"]
    dataset: str | None = Field(None, description="the id at the end of the dataset's address")
    file: File

    @property
    def origin(self) -> str:
        return "mozilladatacollective.com"

    @property
    def known_files(self) -> tuple[File, ...]:
        return (self.file,)

    def list_files(self, query: Query) -> Listing:
        """The archive. With another dataset than the recipe's (`query.pin`), its size and hash are not compared."""
        dataset = query.pin or self.dataset
        if dataset is None:
            raise PermanentError(
                "its dataset id is unknown: it is at the end of the dataset's address; give it as NAME@ID"
            )
        first = _open_session(query.client, dataset)
        expected = self.file.sha256
        if query.pin is None and query.hashes_verified and expected not in (None, first.sha256):
            raise PermanentError(
                f"dataset {dataset} is not the release of the recipe (sha256 {first.sha256}, expected {expected}); "
                "to use it anyway, or another one, give an id as NAME@ID"
            )

        def renew() -> Address:
            session = _open_session(query.client, dataset)
            if session.sha256 != first.sha256:
                raise PermanentError(f"dataset {dataset} was replaced meanwhile; run the same command again")
            return session.address

        file = RemoteFile(
            self.file.name,
            (first.address,),
            n_bytes=first.n_bytes,
            checksums=(Checksum("sha256", first.sha256),),
            renew=renew,
            into=self.file.folder,
        )
        return Listing((file,), dataset)


class _Session(NamedTuple):
    """What the service states of a dataset's archive."""

    address: Address  # signed: it needs no key, and expires
    n_bytes: int
    sha256: str


def _open_session(client: httpx2.Client, dataset: str) -> _Session:
    """Ask for the archive of a dataset."""
    import httpx2

    from codecctl.data.download.web import check_status, reason_of, send

    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise PermanentError(f"the environment variable {KEY_VARIABLE} is not set", is_gate=True)
    base = os.environ.get(BASE_VARIABLE, DEFAULT_BASE).rstrip("/")
    address = Address(f"{base}/datasets/{dataset}/download", f"Bearer {key}")
    with send(client, "POST", address, headers={"Accept": "application/json"}) as response:
        if response.status_code == 404:
            raise PermanentError(f"{address.host}: has no dataset '{dataset}'; look its id up and give it as NAME@ID")
        if response.status_code != 201:
            check_status(response, address)
        try:
            response.read()
            answer = response.json()
            checksum = str(answer["checksum"]).removeprefix("sha256:").lower()
            return _Session(Address(answer["downloadUrl"]), int(answer["sizeBytes"]), checksum)
        except httpx2.HTTPError as error:
            raise TransientError(f"{address.host}: {reason_of(error)}") from None
        except (KeyError, TypeError, ValueError):
            raise PermanentError(f"{address.host}: the answer lacks an address, a size or a checksum") from None
