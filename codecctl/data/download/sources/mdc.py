"""The Mozilla Data Collective: a key and a dataset's id give an address that expires, the file's size and checksum."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from codecctl.data.download.remote import Address, Checksum, PermanentError, RemoteFile, TransientError
from codecctl.data.download.sources.base import BaseSource, File, Listing, Query

if TYPE_CHECKING:
    import httpx2

KEY_VARIABLE = "MDC_API_KEY"
BASE_VARIABLE = "MDC_API_URL"
DEFAULT_BASE = "https://mozilladatacollective.com/api"


class MdcSource(BaseSource):
    """One archive of the Mozilla Data Collective."""

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


@dataclass(frozen=True)
class _Session:
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
