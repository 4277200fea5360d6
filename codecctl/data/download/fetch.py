"""Resumable, verified downloads: a file gets its final name only when it is complete."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from codecctl.data.download.disk import Reservations, is_full
from codecctl.data.download.part import Digests, Part, sidecar_of
from codecctl.data.download.progress import Progress
from codecctl.data.download.remote import Address, FetchedFile, PermanentError, RemoteFile, Stopped, TransientError
from codecctl.data.download.transfer import Transfer, check_content
from codecctl.data.download.web import RetryPolicy, open_client
from codecctl.errors import CodecctlError

FILES_AT_ONCE = 4
FILES_PER_HOST = 2
_T = TypeVar("_T")
_CLOSING_SECONDS = 3.0  # for writing down what has arrived, after Ctrl-C


class Fetcher:
    """Fetches files, several at a time and a few from one host. `sleep` waits before a retry, by default until `stop`
    at the most."""

    def __init__(
        self,
        *,
        progress: Progress | None = None,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.progress = progress or Progress()
        self._policy = policy or RetryPolicy()
        self.client = open_client(self._policy)
        self._is_stopped = False
        self._ending = threading.Event()  # after `stop`, or when one of several files has failed
        self._sleep = sleep or self._ending.wait
        self.reservations = Reservations()
        self._hosts: dict[str, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def stop(self) -> None:
        """End all work within a moment, with `Stopped`."""
        with self._lock:
            self._is_stopped = True
            self._ending.set()

    def check_stop(self) -> None:
        if self._ending.is_set():
            raise Stopped

    def fetch_all(
        self,
        files: Sequence[RemoteFile],
        folder: Path,
        *,
        on_arrival: Callable[[FetchedFile], None] = lambda fetched: None,
    ) -> list[FetchedFile]:
        """Fetch files below `folder`; optional ones may be missing. Raises the first `CodecctlError`.

        `on_arrival` receives each complete file in the thread that fetched it. After a failure or Ctrl-C, complete
        files and parts stay, and the next run continues from them.
        """
        waiting = iter(files)  # which the threads share
        results: dict[str, FetchedFile] = {}
        problems: list[BaseException] = []

        def work() -> None:
            for file in waiting:
                if self._ending.is_set():
                    return
                try:
                    fetched = self.fetch(file, folder / file.name)
                    on_arrival(fetched)
                    results[file.name] = fetched
                except Stopped:
                    return
                except BaseException as error:  # raised in the caller's thread
                    if not (file.optional and isinstance(error, PermanentError)):
                        problems.append(error)
                        self._ending.set()

        ends = [_start(work) for _ in range(min(FILES_AT_ONCE, len(files)))]
        try:
            for end in ends:
                end.wait()
        except BaseException:
            self.stop()
            until = time.monotonic() + _CLOSING_SECONDS
            for end in ends:  # a thread that waits for a silent server has nothing left to write
                end.wait(max(0.0, until - time.monotonic()))
            raise
        with self._lock:
            if not self._is_stopped:
                self._ending.clear()
        if problems:
            raise problems[0]
        self.check_stop()
        return [results[file.name] for file in files if file.name in results]

    def fetch(self, file: RemoteFile, target: Path) -> FetchedFile:
        """Fetch one file to `target`, from its addresses in turn; a file that is there is checked and kept.

        Raises `PermanentError` if it cannot be had, `CodecctlError` if the disk is full, and `Stopped` after `stop`.
        """
        if target.is_file():
            return self._check_existing(file, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        refusals: list[PermanentError] = []
        try:
            for address in file.addresses:
                try:
                    return self._fetch_from(address, file, target)
                except PermanentError as refusal:
                    refusals.append(refusal)
                    if len(refusals) < len(file.addresses):
                        self.progress.say(f"{file.name}: {refusal}; trying the next mirror")
        except OSError as error:
            if is_full(error):
                raise CodecctlError(
                    f"{target.parent}: the disk is full; what has arrived of {target.name} is kept: "
                    "make room and run the same command again"
                ) from None
            raise CodecctlError(f"{error.filename or target}: {error.strerror}") from None
        finally:
            self.progress.end(file.name)
            self.reservations.release(file.name)
        reasons = "; ".join(map(str, refusals))
        raise PermanentError(f"{file.name}: {reasons}", is_gate=any(refusal.is_gate for refusal in refusals))

    def persist(self, ask: Callable[[], _T], *, host: str = "") -> _T:
        """The result of a request, repeated after each `TransientError` as the retry policy says. Raises
        `PermanentError` that names `host`."""
        failures, policy = 0, self._policy
        while True:
            self.check_stop()
            try:
                return ask()
            except TransientError as error:
                failures = 1 if error.made_progress else failures + 1
                reason = f"{host}: {error}" if host else str(error)
                if failures >= policy.attempts:
                    raise PermanentError(f"{reason}, {failures} times in a row") from None
                if (error.wait_seconds or 0) > policy.longest_wait_seconds:
                    raise PermanentError(f"{reason}; Retry-After is {error.wait_seconds:.0f} s") from None
                wait = min(policy.first_wait_seconds * 2.0 ** (failures - 1), policy.longest_wait_seconds)
                self._sleep(wait * random.uniform(0.75, 1.25) if error.wait_seconds is None else error.wait_seconds)

    def _fetch_from(self, address: Address, file: RemoteFile, target: Path) -> FetchedFile:
        with self._host_limit(address.host), Part(target, file) as part:
            part.recount(self.check_stop)
            return self.persist(Transfer(self, file, address, part).attempt, host=address.host)

    def _check_existing(self, file: RemoteFile, target: Path) -> FetchedFile:
        """A complete file from a run that ended early, or one that was put there by hand."""
        total = target.stat().st_size
        digests = Digests(file.algorithms, total)
        self.progress.begin(file.name, 0, total, verb="check")
        for done in digests.feed_file(target):
            self.check_stop()
            self.progress.advance(file.name, done)
        self.progress.end(file.name)
        try:
            check_content(file, target, digests, total, self.progress)
        except PermanentError as refusal:
            raise PermanentError(f"{target}: {refusal}; remove it and run the same command again") from None
        sidecar_of(target).unlink(missing_ok=True)  # of a process that was killed right after it named the file
        return file.fetched(total, digests.value(), "this folder")

    @contextmanager
    def _host_limit(self, host: str) -> Iterator[None]:
        with self._lock:
            limit = self._hosts.setdefault(host, threading.BoundedSemaphore(FILES_PER_HOST))
        while not limit.acquire(timeout=0.2):
            self.check_stop()
        try:
            yield
        finally:
            limit.release()


def _start(work: Callable[[], None]) -> threading.Event:
    """Run `work` in a daemon thread; the event is set at its end.

    No executor: after Ctrl-C the process must not wait for a thread that waits for a silent server. No `Thread.join`:
    when Ctrl-C interrupts it, the thread counts as ended.
    """
    end = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            end.set()

    threading.Thread(target=run, daemon=True).start()
    return end
