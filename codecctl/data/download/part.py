"""A file that is being fetched: `NAME.part`, its hash so far, and a sidecar that says what the bytes belong to.

`NAME.part.json` holds the address, the ETag, and how many of the bytes are on the disk for certain. The rest of a file
is requested only where an answer about another file can be detected: by If-Range with a validator from the same
address, or because the hash of the whole file is known (RFC 9110, 13 and 14).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx2

from codecctl.config.model import Count
from codecctl.data.download.remote import Address, RemoteFile
from codecctl.files import sync, write_json
from codecctl.parsing import read_json

BLOCK_BYTES = 1 << 20
SYNC_SECONDS = 2.0  # between two writes of the sidecar


@dataclass(frozen=True)
class _Sidecar:
    """What the bytes of a part belong to."""

    place: str | None = None  # the address without user, query and fragment
    etag: str | None = None
    last_modified: str | None = None
    total: Count | None = None  # bytes of the whole file
    n_bytes: Count = 0  # on the disk for certain


class Digests:
    """SHA-256, and other algorithms, of the bytes that are fed in."""

    def __init__(self, algorithms: Iterable[str], n_bytes: int | None) -> None:
        """`n_bytes` is the file's size, which git-sha1 hashes first."""
        self._hashes: dict[str, Any] = {"sha256": hashlib.sha256()}
        for algorithm in algorithms:
            if algorithm == "git-sha1":
                self._hashes[algorithm] = hashlib.sha1(b"blob %d\0" % (n_bytes or 0), usedforsecurity=False)
            elif algorithm != "sha256":
                self._hashes[algorithm] = hashlib.new(algorithm, usedforsecurity=False)

    def feed(self, data: bytes | memoryview) -> None:
        for hasher in self._hashes.values():
            hasher.update(data)

    def feed_file(self, path: Path) -> Iterator[int]:
        """Hash a file; yields the number of bytes done after each block."""
        done = 0
        with open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                self.feed(block)
                done += len(block)
                yield done

    def value(self, algorithm: str = "sha256") -> str:
        return str(self._hashes[algorithm].hexdigest())


def sidecar_of(target: Path) -> Path:
    """The sidecar of the part of a file."""
    return target.with_name(target.name + ".part.json")


class Part:
    """`NAME.part` and its sidecar."""

    def __init__(self, target: Path, file: RemoteFile) -> None:
        self.path = target.with_name(target.name + ".part")
        self._target, self._file_info = target, file
        self._sidecar = sidecar_of(target)
        self._last_sync = time.monotonic()
        self._about = read_json(self._sidecar, _Sidecar) or _Sidecar()
        self._reset()

    def _reset(self) -> None:
        self.n_bytes = 0
        self.total = self._file_info.n_bytes if self._file_info.is_exact else None
        self.is_resumed = False  # contains bytes of an earlier connection
        self.digests = Digests(self._file_info.algorithms, self._file_info.n_bytes)

    def __enter__(self) -> Self:
        self._file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.path.is_file() and self.path.stat().st_size == 0:
            self.discard()

    def recount(self, check_stop: Callable[[], None]) -> None:
        """Truncate to the length that the sidecar guarantees, and hash that."""
        certain = min(self._about.n_bytes, self.path.stat().st_size)
        if self.total is not None and certain > self.total:
            certain = 0
        os.truncate(self.path, certain)
        for done in self.digests.feed_file(self.path):
            self.n_bytes = done
            check_stop()
        self.is_resumed = self.n_bytes > 0
        if self.total is None and self.n_bytes:
            self.total = self._about.total

    def validator(self, address: Address) -> str | None:
        """For If-Range: what identifies this version of the file at this address."""
        if self._about.place != address.place:
            return None
        known = (self._about.etag, self._about.last_modified)
        usable = (value for value in known if value and value.isascii() and value.isprintable())
        return next((value for value in usable if not value.startswith("W/")), None)

    def matches(self, address: Address, response: httpx2.Response) -> bool:
        """Whether an answer is about the file whose start is here."""
        if self._about.place != address.place:
            return True
        known = {"ETag": self._about.etag, "Last-Modified": self._about.last_modified}
        return all(value is None or response.headers.get(header) in (None, value) for header, value in known.items())

    def begin(self, address: Address, response: httpx2.Response, total: int | None) -> None:
        """Record where the next bytes come from, before the first of them."""
        etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
        self.total = total
        self._about = _Sidecar(address.place, etag, modified, total)
        self.is_resumed = self.n_bytes > 0
        self.sync()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.digests.feed(data)
        self.n_bytes += len(data)
        if time.monotonic() - self._last_sync > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the bytes to the disk, then update the sidecar."""
        os.fsync(self._file.fileno())
        write_json(self._sidecar, asdict(replace(self._about, n_bytes=self.n_bytes)), durable=False)
        self._last_sync = time.monotonic()

    def restart(self) -> None:
        """Drop all bytes."""
        os.truncate(self.path, 0)
        self._about = _Sidecar()
        self._reset()

    def discard(self) -> None:
        """Remove both files."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the complete file its name."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.path, self._target)
        sync(self._target.parent)
        self._sidecar.unlink(missing_ok=True)
