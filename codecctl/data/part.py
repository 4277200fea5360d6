"""The part of a file that has arrived, and the sidecar that says whose part it is.

While a file arrives it is `NAME.part`; `NAME.part.json` says where it comes from, its ETag and how many of its bytes
have reached the disk for certain. A range is asked for only where an answer can be told from another file's: by
If-Range with a validator from the same address, or because the hash of the whole is known (RFC 9110, 13 and 14).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx2

from codecctl.data.digest import BLOCK_BYTES, Digests
from codecctl.data.web import Address
from codecctl.files import replacing, sync


class Part:
    """`NAME.part` and its sidecar: what has arrived, from where, and its hash so far."""

    def __init__(
        self, target: Path, *, n_bytes: int | None, exact: bool, algorithms: set[str], sync_seconds: float
    ) -> None:
        """`n_bytes` is what the whole should have: for certain if `exact`."""
        self.path = target.with_name(target.name + ".part")
        self._target = target
        self._sidecar = target.with_name(target.name + ".part.json")
        self._whole, self._exact, self._algorithms = n_bytes, exact, algorithms
        self._sync_seconds, self._last_sync = sync_seconds, time.monotonic()
        self._about = read_json(self._sidecar)
        self._forget()

    def _forget(self) -> None:
        self.n_bytes = 0
        self.total = self._whole if self._exact else None
        self.resumed = False  # holds bytes of an earlier connection
        self.digests = Digests(self._algorithms, self._whole)

    def __enter__(self) -> Self:
        self._file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.path.is_file() and self.path.stat().st_size == 0:
            self.discard()

    def recount(self, check_stop: Callable[[], None]) -> None:
        """Take what the disk holds for certain, and hash it."""
        certain = min(int(self._about.get("n_bytes") or 0), self.path.stat().st_size)
        if self.total is not None and certain > self.total:
            certain = 0
        os.truncate(self.path, certain)
        for done in feed_blocks(self.digests, self.path):
            self.n_bytes = done
            check_stop()
        self.resumed = self.n_bytes > 0
        if self.total is None and self.n_bytes:
            self.total = self._about.get("total")

    def validator(self, address: Address) -> str | None:
        """For If-Range: what tells this very file of this very address from any other."""
        if self._about.get("place") != address.place:
            return None
        etag = self._about.get("etag")
        return etag if etag and not etag.startswith("W/") else self._about.get("last_modified")

    def agrees_with(self, address: Address, response: httpx2.Response) -> bool:
        """Whether an answer is about the file that we have the start of."""
        if self._about.get("place") != address.place:
            return True
        told = ((self._about.get("etag"), "ETag"), (self._about.get("last_modified"), "Last-Modified"))
        return all(mine is None or response.headers.get(header) in (None, mine) for mine, header in told)

    def remember(self, address: Address, response: httpx2.Response, total: int | None) -> None:
        """Where the next bytes come from, before the first of them."""
        told = {"etag": response.headers.get("ETag"), "last_modified": response.headers.get("Last-Modified")}
        self.total = total
        self._about = {"place": address.place, **told, "total": total}
        self.resumed = self.n_bytes > 0
        self.sync()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self.digests.feed(data)
        self.n_bytes += len(data)
        if time.monotonic() - self._last_sync > self._sync_seconds:
            self.sync()

    def sync(self) -> None:
        """Bring it to the disk, then say so in the sidecar."""
        os.fsync(self._file.fileno())
        write_json(self._sidecar, {**self._about, "n_bytes": self.n_bytes}, durable=False)
        self._last_sync = time.monotonic()

    def restart(self) -> None:
        """Throw away what has arrived."""
        os.truncate(self.path, 0)
        self._about = {}
        self._forget()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self._sidecar.unlink(missing_ok=True)

    def publish(self) -> None:
        """From now on it is the file."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.path, self._target)
        sync(self._target.parent)
        self._sidecar.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """All or nothing. `durable`: on the disk when this returns."""
    with replacing(path, durable=durable) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def feed_blocks(digests: Digests, path: Path) -> Iterator[int]:
    """Hash a file; after each block how far."""
    done = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digests.feed(block)
            done += len(block)
            yield done
