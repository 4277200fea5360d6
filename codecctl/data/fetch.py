"""Fetch files: what bears a file's name is whole: resumed where that is safe, hashed on the way, renamed last."""

from __future__ import annotations

import errno
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import httpx2

from codecctl.data.digest import Checksum, Digests
from codecctl.data.part import Part, feed_blocks
from codecctl.data.progress import Progress, Silence
from codecctl.data.web import (
    Address,
    BrokenError,
    Locate,
    Patience,
    RefusedError,
    open_client,
    reason_of,
    refuse_status,
    send,
)  # fmt: skip
from codecctl.errors import CodecctlError

FILES_AT_ONCE = 4
FILES_PER_HOST = 2
_TEXT_SUFFIXES = frozenset({"", ".csv", ".htm", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml"})
_MAGIC = {  # what a file of this suffix starts with: a page of words does not
    ".zip": (0, b"PK"), ".gz": (0, b"\x1f\x8b"), ".tgz": (0, b"\x1f\x8b"), ".bz2": (0, b"BZh"), ".xz": (0, b"\xfd7zXZ"),
    ".tar": (257, b"ustar"), ".parquet": (0, b"PAR1"),
}  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_T = TypeVar("_T")
_FAREWELL_SECONDS = 3.0  # for writing down what has arrived
_SPARE_BYTES = 64 << 20  # a disk is never filled to the last byte


class FetchError(CodecctlError):
    """A file could not be had; what has arrived of it is kept."""


class GateError(FetchError):
    """The server wants a token, a key or accepted terms."""


class Stopped(Exception):
    """Somebody asked for the work to end; never shown."""


@dataclass(frozen=True)
class RemoteFile:
    """What to fetch."""

    name: str  # POSIX path below the folder it goes to
    mirrors: Sequence[Locate]
    n_bytes: int | None = None
    exact: bool = True  # n_bytes is certain
    checksums: tuple[Checksum, ...] = ()
    first_seen: str | None = None  # the SHA-256 it had when it came here first
    refreshable: bool = False  # a refused address may have expired: ask for a fresh one once
    optional: bool = False

    @property
    def hash_is_known(self) -> bool:
        return self.first_seen is not None or any(checksum.binding for checksum in self.checksums)


@dataclass(frozen=True)
class Fetched:
    """What arrived."""

    name: str
    n_bytes: int
    sha256: str
    host: str


class Fetcher:
    """Fetches files, several at a time, a few from one host. `stop` ends the work within a moment."""

    def __init__(self, *, progress: Progress | None = None, patience: Patience | None = None) -> None:
        self.progress: Progress = progress or Silence()
        self.patience = patience or Patience()
        self.stop = threading.Event()
        self._failed = threading.Event()
        self.client = open_client(self.patience)
        self._room = _Room()
        self._everywhere = threading.BoundedSemaphore(FILES_AT_ONCE)
        self._hosts: dict[str, threading.BoundedSemaphore] = {}
        self._hosts_lock = threading.Lock()

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def fetch_all(
        self, files: Sequence[RemoteFile], folder: Path, *, arrived: Callable[[Fetched], None] = lambda fetched: None
    ) -> list[Fetched]:
        """Fetch them all below `folder`; those that are optional may be missing. Raises the first `CodecctlError`.

        `arrived` is told of each as it is complete, from the thread that fetched it.

        What has been fetched when one fails, or at Ctrl-C, stays, and the rest goes on from there the next time.
        """
        self._failed.clear()
        results: dict[str, Fetched] = {}
        problems: list[BaseException] = []

        def work(file: RemoteFile) -> None:
            try:
                with self._seat(self._everywhere):
                    fetched = self.fetch(file, folder / file.name)
                arrived(fetched)
                results[file.name] = fetched
            except Stopped:
                pass
            except FetchError as error:
                if not file.optional:
                    problems.append(error)
                    self._failed.set()
            except BaseException as error:  # carried to the caller's thread
                problems.append(error)
                self._failed.set()

        ends: list[threading.Event] = []
        try:
            ends.extend(self._start(work, file) for file in files)
            for end in ends:
                while not end.wait(0.2):  # in steps, so that Ctrl-C is heard
                    pass
        except BaseException:
            self.stop.set()
            until = time.monotonic() + _FAREWELL_SECONDS
            for end in ends:  # one that waits for a silent server has nothing left to write
                end.wait(max(0.0, until - time.monotonic()))
            raise
        if problems:
            raise problems[0]
        if self.stop.is_set():
            raise Stopped
        return [results[file.name] for file in files if file.name in results]

    def _start(self, work: Callable[[RemoteFile], None], file: RemoteFile) -> threading.Event:
        """A thread for one file, and the event of its end. (`Thread.join` is of no use: one that Ctrl-C interrupts
        leaves the thread marked as ended.)"""
        end = threading.Event()

        def run() -> None:
            try:
                work(file)
            finally:
                end.set()

        threading.Thread(target=run, name=file.name, daemon=True).start()
        return end

    def fetch(self, file: RemoteFile, target: Path) -> Fetched:
        """Fetch one file to `target`, from its mirrors in turn.

        A file that is already there is checked and taken. Raises `GateError`, `FetchError`, or `CodecctlError` when
        the disk is full or the hash is not the one first seen; `Stopped` after `stop`.
        """
        if target.is_file():
            return self._take(file, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        refusals: list[str] = []
        gated = False
        try:
            for locate in file.mirrors:
                try:
                    return self._fetch_from(locate, file, target)
                except RefusedError as refusal:
                    refusals.append(str(refusal))
                    gated = gated or refusal.gate
                    if len(refusals) < len(file.mirrors):
                        self.progress.say(f"{file.name}: {refusal}; trying the next mirror")
        except OSError as error:
            raise _disk_error(error, target) from None
        finally:
            self.progress.end(file.name)
            self._room.release(file.name)
        kind = GateError if gated else FetchError
        raise kind(f"{file.name}: {'; '.join(refusals)}")

    def _take(self, file: RemoteFile, target: Path) -> Fetched:
        """A whole file that lies there: from a run that ended before its end, or put there by hand."""
        total = target.stat().st_size
        digests = Digests({checksum.algorithm for checksum in file.checksums}, total)
        self.progress.begin(file.name, 0, total, verb="check")
        for done in feed_blocks(digests, target):
            self._check_stop()
            self.progress.advance(file.name, done)
        self.progress.end(file.name)
        try:
            self._check(file, target, digests, total)
        except RefusedError as refusal:
            raise FetchError(f"{target}: {refusal}; remove it and run the same command again") from None
        return Fetched(file.name, total, digests.value(), "this folder")

    def _fetch_from(self, locate: Locate, file: RemoteFile, target: Path) -> Fetched:
        address = self._persist(lambda: locate(False))
        failures, renewed_at = 0, -1
        with self._seat(self._host(address.host)), self._part(target, file) as part:
            part.recount(self._check_stop)
            while True:
                self._check_stop()
                before = part.n_bytes
                try:
                    self._transfer(address, file, part)
                    try:
                        self._check(file, part.path, part.digests, part.n_bytes)
                    except RefusedError:
                        if not part.resumed:
                            part.discard()
                            raise
                        part.restart()  # two halves that do not fit: once more from the start
                        continue
                    part.publish()
                    return Fetched(file.name, part.n_bytes, part.digests.value(), address.host)
                except RefusedError as refusal:
                    if not (refusal.gate and file.refreshable and part.n_bytes > renewed_at):
                        raise
                    renewed_at = part.n_bytes
                    address = self._persist(lambda: locate(True))
                except BrokenError as broken:
                    failures = 1 if part.n_bytes > before else failures + 1
                    if failures >= self.patience.attempts:
                        raise RefusedError(f"{address.host}: {broken}, {failures} times in a row") from None
                    self._wait(broken, failures, f"{address.host}: ")

    def _part(self, target: Path, file: RemoteFile) -> Part:
        algorithms = {checksum.algorithm for checksum in file.checksums}
        wait = self.patience.sync_seconds
        return Part(target, n_bytes=file.n_bytes, exact=file.exact, algorithms=algorithms, sync_seconds=wait)

    def persist(self, ask: Callable[[], _T]) -> _T:
        """What a question to a server brings, asked again while that may help. Raises `FetchError`, `GateError`."""
        try:
            return self._persist(ask)
        except RefusedError as refusal:
            raise (GateError if refusal.gate else FetchError)(str(refusal)) from None

    def _persist(self, ask: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            self._check_stop()
            try:
                return ask()
            except BrokenError as broken:
                failures += 1
                if failures >= self.patience.attempts:
                    raise RefusedError(f"{broken}, {failures} times in a row") from None
                self._wait(broken, failures, "")

    def _transfer(self, address: Address, file: RemoteFile, part: Part) -> None:
        """One request: append what it brings. Returns when the whole file is there."""
        if part.total is not None and part.n_bytes == part.total:
            return
        validator = part.validator(address)
        if part.n_bytes and validator is None and not (file.hash_is_known and part.total):
            part.restart()
        headers = {"Accept-Encoding": "identity"}
        if part.n_bytes:
            headers["Range"] = f"bytes={part.n_bytes}-"
            if validator is not None:
                headers["If-Range"] = validator
        with send(self.client, "GET", address, headers=headers) as response:
            if response.status_code == 416 and part.n_bytes:
                if re.fullmatch(rf"bytes \*/{part.n_bytes}", response.headers.get("Content-Range", "")):
                    part.total = part.n_bytes
                    return
                part.restart()
                raise BrokenError("has another file now")
            refuse_status(response, address)
            self._read(response, address, file, part)

    def _read(self, response: httpx2.Response, address: Address, file: RemoteFile, part: Part) -> None:
        total = _check_answer(response, address, file, part)
        if response.status_code == 200 and part.n_bytes:
            self.progress.say(f"{file.name}: {address.host} gives the file from its start only")
            part.restart()
        part.remember(address, response, total)
        if total is not None:
            self._room.claim(file.name, total - part.n_bytes, part.path)
        self.progress.begin(file.name, part.n_bytes, total or file.n_bytes, verb="fetch")
        try:
            for data in response.iter_raw():
                self._check_stop()
                if total is not None and part.n_bytes + len(data) > total:
                    part.restart()
                    raise RefusedError(f"{address.host}: sent more than the {total} bytes it announced")
                part.write(data)
                self._room.used(file.name, len(data))
                self.progress.advance(file.name, part.n_bytes)
        except httpx2.HTTPError as error:
            raise BrokenError(reason_of(error)) from None
        finally:
            part.sync()
        if total is not None and part.n_bytes < total:
            raise BrokenError(f"ended after {part.n_bytes} of {total} bytes")
        part.total = part.n_bytes

    def _check(self, file: RemoteFile, path: Path, digests: Digests, n_bytes: int) -> None:
        """Raises `RefusedError` unless the bytes are those that were promised."""
        if file.exact and file.n_bytes is not None and n_bytes != file.n_bytes:
            raise RefusedError(f"{n_bytes} bytes arrived where {file.n_bytes} are published")
        for checksum in file.checksums:
            value = digests.value(checksum.algorithm)
            if value == checksum.value:
                continue
            differs = f"its {checksum.algorithm} is {value} where {checksum.value} is expected"
            if checksum.binding:
                raise RefusedError(differs)
            self.progress.say(f"{file.name}: {differs} (an expectation that was never verified; the file is kept)")
        if file.first_seen is not None and digests.value() != file.first_seen:
            raise RefusedError(
                f"its sha256 is {digests.value()} where it was {file.first_seen} when it came here first"
            )
        offset, magic = _MAGIC.get(PurePosixPath(file.name).suffix.lower(), (0, b""))
        with open(path, "rb") as opened:
            opened.seek(offset)
            if opened.read(len(magic)) != magic:
                raise RefusedError(f"what came is no {PurePosixPath(file.name).suffix} file")

    def _wait(self, broken: BrokenError, failures: int, host: str) -> None:
        """Before the next attempt: as long as the server asks for, else twice as long as the last time."""
        longest = self.patience.longest_wait_seconds
        if broken.wait_seconds is not None and broken.wait_seconds > longest:
            raise RefusedError(f"{host}{broken}; it wants us back in {broken.wait_seconds:.0f} seconds")
        backoff = min(self.patience.first_wait_seconds * 2 ** (failures - 1), longest) * random.uniform(0.75, 1.25)
        until = time.monotonic() + (backoff if broken.wait_seconds is None else broken.wait_seconds)
        while (left := until - time.monotonic()) > 0:
            self.stop.wait(min(left, 0.2))
            self._check_stop()

    def _host(self, host: str) -> threading.BoundedSemaphore:
        with self._hosts_lock:
            return self._hosts.setdefault(host, threading.BoundedSemaphore(FILES_PER_HOST))

    @contextmanager
    def _seat(self, seats: threading.BoundedSemaphore) -> Iterator[None]:
        while not seats.acquire(timeout=0.2):
            self._check_stop()
        try:
            yield
        finally:
            seats.release()

    def _check_stop(self) -> None:
        if self.stop.is_set() or self._failed.is_set():
            raise Stopped


class _Room:
    """Free bytes of the disk less what the files under way still need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed: dict[str, int] = {}

    def claim(self, name: str, n_bytes: int, path: Path) -> None:
        """Before the first byte. Raises `CodecctlError` if it does not fit beside the others."""
        with self._lock:
            others = sum(needed for other, needed in self._needed.items() if other != name)
            free = shutil.disk_usage(path.parent).free
            if n_bytes + others + _SPARE_BYTES > free:
                raise CodecctlError(
                    f"{path.parent}: {name} needs {n_bytes + others:,} bytes more and {free:,} are free; "
                    "make room and run the same command again"
                )
            self._needed[name] = n_bytes

    def used(self, name: str, n_bytes: int) -> None:
        with self._lock:
            self._needed[name] = max(0, self._needed.get(name, 0) - n_bytes)

    def release(self, name: str) -> None:
        with self._lock:
            self._needed.pop(name, None)


def _check_answer(response: httpx2.Response, address: Address, file: RemoteFile, part: Part) -> int | None:
    """The size of the whole file, if the answer is the file or the rest of it that was asked for."""
    host, headers = address.host, response.headers
    suffix = PurePosixPath(file.name).suffix.lower()
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") and (
        suffix not in _TEXT_SUFFIXES or (kind == "text/html" and suffix not in (".html", ".htm"))
    ):
        raise RefusedError(f"{host}: answers with a page of text ({kind}) in place of the file")
    if headers.get("Content-Encoding", "identity").lower() != "identity" and suffix not in (".gz", ".tgz"):
        raise RefusedError(f"{host}: packs the file on its way, which was not asked for")
    length = headers.get("Content-Length", "")
    rest = int(length) if length.isdecimal() else None
    total = _check_range(response, address, part, rest) if response.status_code == 206 else rest
    known = file.n_bytes if file.exact else None
    if total is None:
        if known is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise RefusedError(f"{host}: does not say how long the file is, so nobody could tell when it is whole")
        return known
    if known is not None and total != known:
        raise RefusedError(f"{host}: offers {total} bytes where {known} are published")
    if file.n_bytes is not None and total < file.n_bytes // 100:
        raise RefusedError(f"{host}: offers {total} bytes where about {file.n_bytes} are expected")
    return total


def _check_range(response: httpx2.Response, address: Address, part: Part, rest: int | None) -> int:
    """A 206 must be about the same file and start where we stand."""
    told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    if told is None or not part.n_bytes:
        raise RefusedError(f"{address.host}: answers 206 without saying which part it sends")
    first, last, total = (int(number) for number in told.groups())
    fits = first == part.n_bytes and last < total and rest in (None, last - first + 1)
    if not fits or part.total not in (None, total) or not part.agrees_with(address, response):
        part.restart()
        raise BrokenError("answers with a part of something else")
    return total


def _disk_error(error: OSError, target: Path) -> CodecctlError:
    if error.errno in _FULL:
        return CodecctlError(
            f"{target.parent}: the disk is full; what has arrived of {target.name} is kept: "
            "make room and run the same command again"
        )
    return CodecctlError(f"{error.filename or target}: {error.strerror}")
