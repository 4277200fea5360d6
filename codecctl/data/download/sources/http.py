"""Files on web servers."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from codecctl.data.download.remote import Address
from codecctl.data.download.sources.base import BaseSource, File, Listing, Query


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
        return Listing(tuple(file.at(self._mirrors(file), query) for file in self.files))

    def _mirrors(self, file: File) -> tuple[Address, ...]:
        return tuple(Address(address.replace("{name}", file.name)) for address in self.addresses)
