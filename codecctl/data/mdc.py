"""Mozilla Data Collective: a key and a dataset's id give an address for a while, with the file's size and checksum."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import httpx2

from codecctl.data.digest import Checksum
from codecctl.data.fetch import RemoteFile
from codecctl.data.recipes import File, MdcSource
from codecctl.data.web import Address, BrokenError, RefusedError, reason_of, refuse_status, send

KEY_VARIABLE = "MDC_API_KEY"
BASE_VARIABLE = "MDC_API_URL"
DEFAULT_BASE = "https://mozilladatacollective.com/api"


@dataclass(frozen=True)
class Session:
    """What the service says of a dataset's archive."""

    address: Address  # signed: it needs no key and expires
    n_bytes: int
    sha256: str
    filename: str = field(default="")


def open_session(client: httpx2.Client, dataset: str) -> Session:
    """Ask for the archive of a dataset. Raises `RefusedError`, `BrokenError`."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise RefusedError(f"the environment variable {KEY_VARIABLE} is not set", gate=True)
    base = os.environ.get(BASE_VARIABLE, DEFAULT_BASE).rstrip("/")
    address = Address(f"{base}/datasets/{dataset}/download", f"Bearer {key}")
    with send(client, "POST", address, headers={"Accept": "application/json"}) as response:
        if response.status_code == 404:
            raise RefusedError(f"{address.host}: knows no dataset '{dataset}'; look its id up and give it as NAME@ID")
        if response.status_code != 201:
            refuse_status(response, address)
        try:
            response.read()
            told = response.json()
            value = str(told["checksum"]).removeprefix("sha256:").lower()
            return Session(Address(told["downloadUrl"]), int(told["sizeBytes"]), value, str(told.get("filename", "")))
        except httpx2.HTTPError as error:
            raise BrokenError(f"{address.host}: {reason_of(error)}") from None
        except (KeyError, TypeError, ValueError):
            raise RefusedError(
                f"{address.host}: answers something else than an address, a size and a checksum"
            ) from None


def list_mdc(
    client: httpx2.Client, source: MdcSource, *, pin: str | None = None, binding: bool = True
) -> tuple[str, RemoteFile]:
    """The dataset's id and its archive.

    `pin` is an id to take instead of the recipe's: then, or if they are not `binding`, its size and hash do not count.
    """
    dataset = pin or source.dataset
    if dataset is None:
        raise RefusedError("its dataset id is not known: look it up in the dataset's address and give it as NAME@ID")
    first = open_session(client, dataset)
    file = source.file
    if pin is None and binding:
        _compare(file, first, dataset)
    current = [first]

    def locate(fresh: bool) -> Address:
        if fresh:
            session = open_session(client, dataset)
            if session.sha256 != first.sha256:
                raise RefusedError(f"dataset {dataset} was replaced meanwhile; run the same command again")
            current[0] = session
        return current[0].address

    checksums = (Checksum("sha256", first.sha256),)
    return dataset, RemoteFile(file.name, (locate,), n_bytes=first.n_bytes, checksums=checksums, refreshable=True)


def _compare(file: File, session: Session, dataset: str) -> None:
    """Before the first byte: is it the release that the recipe is about?"""
    if file.sha256 is not None and session.sha256 != file.sha256:
        raise RefusedError(
            f"dataset {dataset} is not the release of the recipe (sha256 {session.sha256}, expected {file.sha256}); "
            "to take it all the same, or another, give an id as NAME@ID"
        )
