"""Download corpora, each into a folder of its own.

`ROOT/NAME/` holds a corpus; `corpus.json` in it is written last, and without it the corpus is not complete. Receipts in
`ROOT/NAME/.receipts/` record the files that are complete meanwhile. `ROOT/NAME.lock.json` keeps the hashes of the first
download where none are published, and its commit where none is pinned.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from codecctl.config.model import Count, Section
from codecctl.data.download.corpus import MARKER_NAME, Marker, agree, check_room, make_plan, read_complete
from codecctl.data.download.extract import unpack
from codecctl.data.download.fetch import Fetcher
from codecctl.data.download.progress import Progress
from codecctl.data.download.recipes import Corpus, Licence, Source
from codecctl.data.download.remote import FetchedFile, PermanentError, RemoteFile, Stopped
from codecctl.data.download.sources import Listing, Query
from codecctl.data.download.web import RetryPolicy
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import write_json
from codecctl.lock import Lease, LeaseTiming
from codecctl.parsing import read_json


@dataclass(frozen=True)
class Outcome:
    """The result for one corpus."""

    corpus: Corpus
    folder: Path
    state: Literal["downloaded", "already there", "by hand", "failed"]
    message: str = ""  # one line, if it failed
    steps: tuple[str, ...] = ()  # what a person has to do
    n_bytes: int = 0
    n_audio_files: int = 0


def split_pins(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """`NAME@PIN` -> the names, and the dataset id or commit to take instead of the recipe's."""
    split = [name.partition("@") for name in names]
    empty = [name for name, at, pin in split if at and not pin]
    if empty:
        raise UsageError(f"{empty[0]}@: expected a dataset id or a commit after the @")
    return [name for name, _, _ in split], {name: pin for name, _, pin in split if pin}


def download(
    corpora: Sequence[Corpus],
    root: Path,
    *,
    pins: Mapping[str, str] | None = None,
    accepted: Collection[str] = (),
    ask: Callable[[Licence], bool] = lambda licence: False,
    progress: Progress | None = None,
    policy: RetryPolicy | None = None,
    timing: LeaseTiming | None = None,
) -> list[Outcome]:
    """Download each corpus to `root/<name>/`, one after the other; a failure does not stop the others.

    `accepted` names licences that the user agrees to; `ask` asks for one. Raises `CodecctlError` if all corpora
    together do not fit on the disk, and `UsageError` for a pin that does not apply.
    """
    pins = pins or {}
    _check_pins(corpora, pins)
    check_room([plan for plan in make_plan(corpora, root) if not plan.done], root)
    outcomes = []
    for corpus in corpora:
        job = _Job(corpus, root, pins.get(corpus.name), progress or Progress(), policy, timing or LeaseTiming())
        try:
            if read_complete(job.folder) is None:
                agree(corpus.licence, root, accepted, ask)
            outcomes.append(job.run())
        except CodecctlError as error:
            is_gate = isinstance(error, PermanentError) and error.is_gate
            steps = corpus.gate.steps if is_gate and corpus.gate else ()
            outcomes.append(Outcome(corpus, job.folder, "failed", str(error), steps))
    return outcomes


def _check_pins(corpora: Sequence[Corpus], pins: Mapping[str, str]) -> None:
    for corpus in corpora:
        if corpus.name in pins and not corpus.source.has_versions:
            raise UsageError(f"{corpus.name}@{pins[corpus.name]}: this corpus has no versions to choose from")
    unused = set(pins) - {corpus.name for corpus in corpora}
    if unused:
        raise UsageError(f"{min(unused)}@{pins[min(unused)]}: an @ needs the name of a single corpus")


class _Seen(Section):
    """A file of the first download whose hash is not published."""

    sha256: str
    bytes: Count
    host: str
    first_seen: str  # UTC


class _Lock(Section):
    """`NAME.lock.json`."""

    format: Literal["codecctl.lock/1"] = "codecctl.lock/1"
    revision: str | None = None  # of the first download, where none is pinned
    files: Mapping[str, _Seen] = {}


def _read_lock(path: Path) -> _Lock:
    """Raises `CodecctlError` for a damaged file: the hashes in it must not be forgotten in silence."""
    if not path.exists():
        return _Lock()
    if (lock := read_json(path, _Lock)) is None:
        raise CodecctlError(f"{path}: damaged; remove it to accept the files as the server has them now")
    return lock


@dataclass
class _Job:
    """The download of one corpus."""

    corpus: Corpus
    root: Path
    pin: str | None
    progress: Progress
    policy: RetryPolicy | None
    timing: LeaseTiming

    def __post_init__(self) -> None:
        self.folder = self.root / self.corpus.name
        self._receipts = self.folder / ".receipts"
        self._lock_path = self.root / f"{self.corpus.name}.lock.json"
        self._lock, self._writing = _Lock(), threading.Lock()

    def run(self) -> Outcome:
        if (marker := self._find_marker()) is not None:
            return self._outcome(marker, "already there")
        fetcher, gate = Fetcher(progress=self.progress, policy=self.policy), self.corpus.gate

        def report(holder: str) -> None:
            self.progress.say(f"{self.folder}: {holder} works there; waiting for it to finish")

        try:
            with Lease(self.folder, on_wait=report, on_lost=fetcher.stop, timing=self.timing):
                if (marker := self._find_marker()) is not None:  # another process has finished it meanwhile
                    return self._outcome(marker, "already there")
                (self.folder / MARKER_NAME).unlink(missing_ok=True)
                self._lock = _read_lock(self._lock_path)
                if self.corpus.source.is_manual and gate and not self.corpus.layout.find_recordings(self.folder):
                    return Outcome(self.corpus, self.folder, "by hand", steps=gate.steps)
                return self._outcome(self._finish(*self._fetch(fetcher)), "downloaded")
        except Stopped:
            raise CodecctlError(f"{self.folder}: another process took over; run the same command again") from None
        finally:
            fetcher.close()

    def _fetch(self, fetcher: Fetcher) -> tuple[tuple[FetchedFile, ...], str | None]:
        """The files, from the source or its fallback, and their pin."""
        try:
            return self._fetch_from(self.corpus.source, fetcher)
        except PermanentError as error:
            if self.corpus.fallback is None:
                raise
            self.progress.say(f"{self.corpus.name}: {error}; trying {self.corpus.fallback.origin}")
            return self._fetch_from(self.corpus.fallback, fetcher)

    def _fetch_from(self, source: Source, fetcher: Fetcher) -> tuple[tuple[FetchedFile, ...], str | None]:
        listing = self._list(source, fetcher)
        there = {file.name: done for file in listing.files if (done := self._read_receipt(file)) is not None}
        unverified = {file.name for file in listing.files if not file.hash_is_known}

        def on_arrival(fetched: FetchedFile) -> None:
            """Record the hash of a first download."""
            if fetched.name in unverified and fetched.name not in self._lock.files:
                seen = _Seen(sha256=fetched.sha256, bytes=fetched.bytes, host=fetched.host, first_seen=_now())
                self._write_lock({"files": {**self._lock.files, fetched.name: seen}})

        missing = [file for file in listing.files if file.name not in there]
        for fetched in fetcher.fetch_all(missing, self.folder, on_arrival=on_arrival):
            self._keep(fetched, fetcher)
            there[fetched.name] = fetched
        return tuple(there[file.name] for file in listing.files if file.name in there), listing.pin

    def _list(self, source: Source, fetcher: Fetcher) -> Listing:
        """The files of a source, with the hashes and the pin of the first download where none are published."""
        verified = self.corpus.verified
        is_certain = (verified.bytes == "V", verified.checksum == "V")
        query = Query(fetcher.client, self.pin, self._lock.revision, *is_certain)
        listing = fetcher.persist(lambda: source.list_files(query))
        if listing.keep_pin:
            self._write_lock({"revision": listing.pin})
        seen = {name: file.sha256 for name, file in self._lock.files.items()}
        files = [
            file if file.hash_is_known else replace(file, first_seen=seen.get(file.name)) for file in listing.files
        ]
        return replace(listing, files=tuple(files))

    def _keep(self, fetched: FetchedFile, fetcher: Fetcher) -> None:
        """Unpack an archive, write the receipt, and only then remove the archive."""
        path = self.folder / fetched.name
        if fetched.into is not None:
            self.progress.begin(fetched.name, 0, fetched.bytes, verb="unpack")

            def advance(n_bytes: int) -> None:
                fetcher.check_stop()
                self.progress.advance(fetched.name, n_bytes)

            unpack(path, self.folder / fetched.into, advance=advance)
            self.progress.end(fetched.name)
        self._receipts.mkdir(exist_ok=True)
        write_json(self._receipt(fetched.name), fetched.model_dump(mode="json"))
        if fetched.into is not None:
            path.unlink()

    def _read_receipt(self, file: RemoteFile) -> FetchedFile | None:
        """The receipt of a file, if its hash is the expected one and the file is there."""
        kept = read_json(self._receipt(file.name), FetchedFile)
        if kept is None:
            return None
        expected = {sum_.value for sum_ in file.checksums if sum_.is_binding and sum_.algorithm == "sha256"}
        if not kept.is_in(self.folder) or (expected and kept.sha256 not in expected):
            return None
        if kept.into is not None:
            (self.folder / kept.name).unlink(missing_ok=True)  # the archive, if the last run ended before that
        return kept

    def _receipt(self, name: str) -> Path:
        return self._receipts / f"{name.replace('/', '__')}.json"

    def _finish(self, files: tuple[FetchedFile, ...], pin: str | None) -> Marker:
        gone = next((file.name for file in files if not file.is_in(self.folder)), None)
        if gone is not None:
            raise CodecctlError(f"{self.folder / gone}: was downloaded but has disappeared; run the same command again")
        recordings = self.corpus.layout.find_recordings(self.folder)
        if not recordings:
            raise CodecctlError(
                f"{self.folder}: everything was downloaded, but no recording in it: the recipe is wrong"
            )
        marker = Marker(corpus=self.corpus, pin=pin, files=files, n_audio_files=len(recordings), finished=_now())
        write_json(self.folder / MARKER_NAME, marker.model_dump(mode="json"))
        shutil.rmtree(self._receipts, ignore_errors=True)
        return marker

    def _find_marker(self) -> Marker | None:
        """Of a complete corpus. Raises `CodecctlError` if it has another pin than the one asked for."""
        marker = read_complete(self.folder)
        if marker is not None and self.pin not in (None, marker.pin):
            raise CodecctlError(f"{self.folder}: holds {marker.pin}, not {self.pin}; move the folder away first")
        return marker

    def _outcome(self, marker: Marker, state: Literal["downloaded", "already there"]) -> Outcome:
        n_bytes = sum(file.bytes for file in marker.files)
        return Outcome(self.corpus, self.folder, state, n_bytes=n_bytes, n_audio_files=marker.n_audio_files)

    def _write_lock(self, more: Mapping[str, object]) -> None:
        with self._writing:
            self._lock = self._lock.model_copy(update=more)
            write_json(self._lock_path, self._lock.model_dump(mode="json"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
