"""Corpora that a program cannot fetch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from codecctl.data.download.sources.base import BaseSource, Listing, Query


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
