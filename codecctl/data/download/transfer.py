"""One file from one address: a request for what is missing, and the checks of the answer and of the whole file."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import httpx2

from codecctl.data.download.part import Digests, Part
from codecctl.data.download.progress import Progress
from codecctl.data.download.remote import Address, FetchedFile, PermanentError, RemoteFile, TransientError
from codecctl.data.download.web import check_status, reason_of, send

if TYPE_CHECKING:
    from codecctl.data.download.fetch import Fetcher

_TEXT_SUFFIXES = frozenset({"", ".csv", ".htm", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml"})
_MAGIC = {  # offset and first bytes, which an HTML page under the file's name does not have
    ".zip": (0, b"PK"), ".gz": (0, b"\x1f\x8b"), ".tgz": (0, b"\x1f\x8b"), ".bz2": (0, b"BZh"), ".xz": (0, b"\xfd7zXZ"),
    ".tar": (257, b"ustar"), ".parquet": (0, b"PAR1"),
}  # fmt: skip


class Transfer:
    """Fetches one file from one address into its part, for a `Fetcher`."""

    def __init__(self, fetcher: Fetcher, file: RemoteFile, address: Address, part: Part) -> None:
        self._fetcher, self._file, self._address, self._part = fetcher, file, address, part
        self._renewed_at = -1  # bytes that were there when the address was last renewed

    def attempt(self) -> FetchedFile:
        """Request what is missing, check the whole file, and give it its name. Raises `TransientError` if it makes
        sense to call this again, else `PermanentError`."""
        self._fetcher.check_stop()
        before = self._part.n_bytes
        try:
            self._request()
        except TransientError as error:
            error.made_progress = self._part.n_bytes > before
            raise
        except PermanentError as error:
            if not error.is_gate or self._file.renew is None or self._part.n_bytes <= self._renewed_at:
                raise
            self._address = self._file.renew()
            self._renewed_at = self._part.n_bytes
            return self.attempt()
        try:
            check_content(self._file, self._part.path, self._part.digests, self._part.n_bytes, self._fetcher.progress)
        except PermanentError:
            if not self._part.is_resumed:
                self._part.discard()
                raise
            self._part.restart()  # its two halves may be of different files
            return self.attempt()
        self._part.publish()
        return self._file.fetched(self._part.n_bytes, self._part.digests.value(), self._address.host)

    def _request(self) -> None:
        """One request; appends what it brings. Returns when the whole file is there."""
        part = self._part
        if part.total is not None and part.n_bytes == part.total:
            return
        validator = part.validator(self._address)
        if part.n_bytes and validator is None and not (self._file.hash_is_known and part.total):
            part.restart()
        headers = {"Accept-Encoding": "identity"}
        if part.n_bytes:
            headers["Range"] = f"bytes={part.n_bytes}-"
            if validator is not None:
                headers["If-Range"] = validator
        with send(self._fetcher.client, "GET", self._address, headers=headers) as response:
            if response.status_code == 416 and part.n_bytes:
                if re.fullmatch(rf"bytes \*/{part.n_bytes}", response.headers.get("Content-Range", "")):
                    part.total = part.n_bytes
                    return
                part.restart()
                raise TransientError("the file has changed on the server")
            check_status(response, self._address)
            self._read(response)

    def _read(self, response: httpx2.Response) -> None:
        file, part, host = self._file, self._part, self._address.host
        total = _size_of(response, self._address, file, part)
        if response.status_code == 200 and part.n_bytes:
            self._fetcher.progress.say(f"{file.name}: {host} cannot resume; fetching from the start")
            part.restart()
        part.begin(self._address, response, total)
        if total is not None:
            self._fetcher.reservations.claim(file.name, total - part.n_bytes, part.path.parent)
        self._fetcher.progress.begin(file.name, part.n_bytes, total or file.n_bytes, verb="fetch")
        try:
            for data in response.iter_raw():
                self._fetcher.check_stop()
                if total is not None and part.n_bytes + len(data) > total:
                    part.restart()
                    raise PermanentError(f"{host}: sent more than the {total} bytes it announced")
                part.write(data)
                self._fetcher.reservations.use(file.name, len(data))
                self._fetcher.progress.advance(file.name, part.n_bytes)
        except httpx2.HTTPError as error:
            raise TransientError(reason_of(error)) from None
        finally:
            part.sync()
        if total is not None and part.n_bytes < total:
            raise TransientError(f"ended after {part.n_bytes} of {total} bytes")
        part.total = part.n_bytes


def check_content(file: RemoteFile, path: Path, digests: Digests, n_bytes: int, progress: Progress) -> None:
    """Raises `PermanentError` unless size, hashes and first bytes are as published."""
    if file.is_exact and file.n_bytes is not None and n_bytes != file.n_bytes:
        raise PermanentError(f"has {n_bytes} bytes, {file.n_bytes} are published")
    for checksum in file.checksums:
        value = digests.value(checksum.algorithm)
        if value != checksum.value:
            differs = f"its {checksum.algorithm} is {value}, expected {checksum.value}"
            if checksum.is_binding:
                raise PermanentError(differs)
            progress.say(f"{file.name}: {differs} (an expectation that was never verified; the file is kept)")
    if file.first_seen is not None and digests.value() != file.first_seen:
        raise PermanentError(f"its sha256 is {digests.value()}, but was {file.first_seen} when it was first downloaded")
    suffix = PurePosixPath(file.name).suffix.lower()
    offset, magic = _MAGIC.get(suffix, (0, b""))
    with open(path, "rb") as opened:
        opened.seek(offset)
        if opened.read(len(magic)) != magic:
            raise PermanentError(f"the content is no {suffix} file")


def _size_of(response: httpx2.Response, address: Address, file: RemoteFile, part: Part) -> int | None:
    """The size of the whole file; None if neither the answer nor the recipe states it. Raises `PermanentError` or
    `TransientError` if the answer is not the file, or the rest of it that was requested."""
    host, headers = address.host, response.headers
    suffix = PurePosixPath(file.name).suffix.lower()
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") and (
        suffix not in _TEXT_SUFFIXES or (kind == "text/html" and suffix not in (".html", ".htm"))
    ):
        raise PermanentError(f"{host}: answers with a page of text ({kind}) instead of the file")
    if headers.get("Content-Encoding", "identity").lower() != "identity" and suffix not in (".gz", ".tgz"):
        raise PermanentError(f"{host}: compresses the file for the transfer, which was not requested")
    length = headers.get("Content-Length", "")
    rest = int(length) if length.isdecimal() else None
    total = _check_range(response, address, part, rest) if response.status_code == 206 else rest
    known = file.n_bytes if file.is_exact else None
    if total is None:
        if known is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise PermanentError(f"{host}: does not state the file's length, so a cut one could not be detected")
        return known
    if known is not None and total != known:
        raise PermanentError(f"{host}: offers {total} bytes, {known} are published")
    if file.n_bytes is not None and total < file.n_bytes // 100:
        raise PermanentError(f"{host}: offers {total} bytes, about {file.n_bytes} are expected")
    return total


def _check_range(response: httpx2.Response, address: Address, part: Part, rest: int | None) -> int:
    """The total size in a 206, which must be about the same file and start where the part ends."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    if match is None or not part.n_bytes:
        raise PermanentError(f"{address.host}: answers 206 without stating which part it sends")
    first, last, total = (int(number) for number in match.groups())
    fits = first == part.n_bytes and last < total and rest in (None, last - first + 1)
    if not fits or part.total not in (None, total) or not part.matches(address, response):
        part.restart()
        raise TransientError("answers with a part of another file")
    return total
