"""From recipes to folders that hold whole corpora: what to do, whether it fits, and doing it.

`ROOT/NAME/` holds a corpus; `corpus.json` in it is written last, and without it nothing there counts as done. Receipts
in `ROOT/NAME/.receipts/` remember what is complete in the meantime. `ROOT/NAME.lock.json` keeps the hashes that were
first seen where none is published, and the commit where none is pinned; `ROOT/licences.json` the licences agreed to.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from codecctl.data.corpus import MARKER_NAME, FetchedFile, Marker, find_recordings, read_marker
from codecctl.data.digest import Checksum
from codecctl.data.extract import is_archive, unpack, without_suffix
from codecctl.data.fetch import Fetched, Fetcher, FetchError, GateError, RemoteFile, Stopped
from codecctl.data.hub import is_commit, list_hub
from codecctl.data.lease import Lease, Timing
from codecctl.data.mdc import list_mdc
from codecctl.data.part import read_json, write_json
from codecctl.data.progress import Progress, Silence
from codecctl.data.recipes import (
    ALGORITHMS,
    Corpus,
    File,
    HttpSource,
    HubSource,
    Licence,
    ManualSource,
    MdcSource,
    Source,
)  # fmt: skip
from codecctl.data.web import Address, Patience, fixed
from codecctl.errors import CodecctlError, UsageError


@dataclass(frozen=True)
class Plan:
    """What `download` would do for one corpus."""

    corpus: Corpus
    folder: Path
    done: bool
    origins: tuple[str, ...]  # hosts or repositories, in the order they are tried
    n_bytes: int | None  # to fetch still; None: only the server knows
    n_bytes_needed: int | None  # on the disk, archives and what is in them
    asks_consent: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one corpus."""

    corpus: Corpus
    folder: Path
    state: Literal["downloaded", "already there", "by hand", "failed"]
    message: str = ""  # one line, if it failed
    steps: tuple[str, ...] = ()  # what to do by hand
    n_bytes: int = 0
    n_audio_files: int = 0


def split_pins(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """`NAME@PIN` -> the names, and the dataset id or commit to take instead of the recipe's."""
    split = [name.partition("@") for name in names]
    empty = [name for name, at, pin in split if at and not pin]
    if empty:
        raise UsageError(f"{empty[0]}@: a dataset id or a commit belongs behind the @")
    return [name for name, _, _ in split], {name: pin for name, _, pin in split if pin}


def make_plan(corpora: Sequence[Corpus], root: Path) -> list[Plan]:
    """What there is to do below `root`, by what the recipes and the disk say; no server is asked."""
    agreed = read_json(_licences(root))
    return [_plan(corpus, root / corpus.name, agreed) for corpus in corpora]


def free_bytes(root: Path) -> int:
    """Of the disk that `root` is or will be on."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def download(
    corpora: Sequence[Corpus],
    root: Path,
    *,
    pins: Mapping[str, str] | None = None,
    accepted: Collection[str] = (),
    ask: Callable[[Licence], bool] = lambda licence: False,
    progress: Progress | None = None,
    patience: Patience | None = None,
    timing: Timing | None = None,
) -> list[Outcome]:
    """Bring each corpus to `root/<name>/`, one after the other; one that fails does not stop the rest.

    `accepted` names licences that the user agrees to, `ask` asks for one. Raises `CodecctlError` if all of it together
    cannot fit, and `UsageError` for a pin that has no use.
    """
    pins = pins or {}
    progress = progress or Silence()
    for corpus in corpora:
        if corpus.name in pins and not isinstance(corpus.source, MdcSource | HubSource):
            raise UsageError(f"{corpus.name}@{pins[corpus.name]}: this corpus has no versions to choose from")
    unused = set(pins) - {corpus.name for corpus in corpora}
    if unused:
        raise UsageError(f"{min(unused)}@{pins[min(unused)]}: an @ needs the name of a single corpus")
    _check_room([plan for plan in make_plan(corpora, root) if not plan.done], root)
    outcomes = []
    for corpus in corpora:
        job = _Job(corpus, root, pins.get(corpus.name), progress, patience or Patience(), timing or Timing())
        try:
            _agree(corpus.licence, root, accepted, ask, needed=not job.is_done())
            outcomes.append(job.run())
        except GateError as error:
            steps = corpus.gate.steps if corpus.gate else ()
            outcomes.append(Outcome(corpus, job.folder, "failed", str(error), steps))
        except CodecctlError as error:
            outcomes.append(Outcome(corpus, job.folder, "failed", str(error)))
    return outcomes


class _Job:
    """One corpus on its way to its folder."""

    def __init__(
        self, corpus: Corpus, root: Path, pin: str | None, progress: Progress, patience: Patience, timing: Timing
    ) -> None:
        self.folder = root / corpus.name
        self._corpus, self._pin, self._progress = corpus, pin, progress
        self._patience, self._timing = patience, timing
        self._receipts = self.folder / ".receipts"
        self._lock_path = root / f"{corpus.name}.lock.json"
        self._lock = read_json(self._lock_path)
        self._writing = threading.Lock()

    def is_done(self) -> bool:
        marker = read_marker(self.folder)
        return marker is not None and is_whole(marker, self.folder)

    def run(self) -> Outcome:
        if (marker := self._finished()) is not None:
            return self._outcome(marker, "already there")
        fetcher = Fetcher(progress=self._progress, patience=self._patience)
        try:
            with Lease(self.folder, waiting=self._tell_waiting, lost=fetcher.stop.set, timing=self._timing):
                if (marker := self._finished()) is not None:  # by the process that was waited for
                    return self._outcome(marker, "already there")
                (self.folder / MARKER_NAME).unlink(missing_ok=True)
                return self._run(fetcher)
        except Stopped:
            raise CodecctlError(f"{self.folder}: another process took over; run the same command again") from None
        finally:
            fetcher.close()

    def _run(self, fetcher: Fetcher) -> Outcome:
        if isinstance(self._corpus.source, ManualSource):
            if not find_recordings(self._corpus, self.folder):
                assert self._corpus.gate is not None  # the schema sees to it
                return Outcome(self._corpus, self.folder, "by hand", steps=self._corpus.gate.steps)
            return self._outcome(self._finish((), None), "downloaded")
        files, pin = self._fetch(fetcher)
        return self._outcome(self._finish(files, pin), "downloaded")

    def _fetch(self, fetcher: Fetcher) -> tuple[tuple[FetchedFile, ...], str | None]:
        try:
            return self._fetch_from(self._corpus.source, fetcher)
        except FetchError as error:
            if self._corpus.fallback is None:
                raise
            self._progress.say(f"{self._corpus.name}: {error}; trying {_origin(self._corpus.fallback)}")
            return self._fetch_from(self._corpus.fallback, fetcher)

    def _fetch_from(self, source: Source, fetcher: Fetcher) -> tuple[tuple[FetchedFile, ...], str | None]:
        remotes, folders, pin = self._list(source, fetcher)
        there = {remote.name: done for remote in remotes if (done := self._done(remote)) is not None}
        missing = [remote for remote in remotes if remote.name not in there]
        unsafe = {remote.name for remote in remotes if not remote.hash_is_known}

        def arrived(fetched: Fetched) -> None:
            if fetched.name in unsafe:
                self._remember(fetched)

        for fetched in fetcher.fetch_all(missing, self.folder, arrived=arrived):
            there[fetched.name] = self._keep(fetched, folders.get(fetched.name), fetcher)
        return tuple(there[remote.name] for remote in remotes if remote.name in there), pin

    def _list(self, source: Source, fetcher: Fetcher) -> tuple[list[RemoteFile], dict[str, str], str | None]:
        """The files of a source, the folders that archives among them go to, and what pins them."""
        verified = self._corpus.verified
        if isinstance(source, HubSource):
            locked = None if is_commit(source.revision) else self._lock.get("revision")
            commit, remotes = fetcher.persist(lambda: list_hub(source, revision=self._pin or locked))
            if self._pin is None and not is_commit(source.revision):
                self._write_lock({"revision": commit})
            return remotes, {file.name: without_suffix(file.name) for file in remotes if is_archive(file.name)}, commit
        if isinstance(source, MdcSource):
            binding = verified.checksum == "V"
            dataset, remote = fetcher.persist(lambda: list_mdc(fetcher.client, source, pin=self._pin, binding=binding))
            return [remote], _folders([source.file]), dataset
        assert isinstance(source, HttpSource)
        return [self._remote(source, file) for file in source.files], _folders(source.files), None

    def _remote(self, source: HttpSource, file: File) -> RemoteFile:
        verified = self._corpus.verified
        binding = verified.checksum == "V"
        sums = [(kind, value) for kind in ALGORITHMS if (value := getattr(file, kind))]
        seen = self._lock.get("files", {}).get(file.name, {}).get("sha256")
        return RemoteFile(
            file.name,
            tuple(fixed(Address(address.replace("{name}", file.name))) for address in source.addresses),
            n_bytes=file.bytes,
            exact=verified.bytes == "V",
            checksums=tuple(Checksum(kind, value, binding) for kind, value in sums),
            first_seen=None if sums and binding else seen,
            optional=file.optional,
        )

    def _keep(self, fetched: Fetched, into: str | None, fetcher: Fetcher) -> FetchedFile:
        """Unpack what is an archive, write the receipt, and only then let go of the archive."""
        path = self.folder / fetched.name
        if into is not None:
            self._progress.begin(fetched.name, 0, fetched.n_bytes, verb="unpack")

            def advance(n_bytes: int) -> None:
                if fetcher.stop.is_set():
                    raise Stopped
                self._progress.advance(fetched.name, n_bytes)

            unpack(path, self.folder / into, advance=advance)
            self._progress.end(fetched.name)
        kept = FetchedFile(
            name=fetched.name, bytes=fetched.n_bytes, sha256=fetched.sha256, host=fetched.host, into=into
        )
        self._receipts.mkdir(exist_ok=True)
        write_json(self._receipt(fetched.name), kept.model_dump(mode="json"))
        if into is not None:
            path.unlink()
        return kept

    def _done(self, remote: RemoteFile) -> FetchedFile | None:
        """What a receipt says of a file, if it is about this one and what it speaks of is there."""
        told = read_json(self._receipt(remote.name))
        if not told:
            return None
        kept = FetchedFile.model_validate(told)
        expected = {checksum.value for checksum in remote.checksums if checksum.binding and len(checksum.value) == 64}
        if not _is_there(kept, self.folder) or (expected and kept.sha256 not in expected):
            return None
        if kept.into is not None:
            (self.folder / kept.name).unlink(missing_ok=True)  # the archive, if the end came right before this
        return kept

    def _receipt(self, name: str) -> Path:
        return self._receipts / f"{name.replace('/', '__')}.json"

    def _finish(self, files: tuple[FetchedFile, ...], pin: str | None) -> Marker:
        gone = next((file.name for file in files if not _is_there(file, self.folder)), None)
        if gone is not None:
            raise CodecctlError(f"{self.folder / gone}: has come and is not there any more; run the same command again")
        recordings = find_recordings(self._corpus, self.folder)
        if not recordings:
            raise CodecctlError(
                f"{self.folder}: everything has come and there is no recording in it: the recipe is wrong"
            )
        marker = Marker(
            corpus=self._corpus,
            pin=pin,
            files=files,
            n_audio_files=len(recordings),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(self.folder / MARKER_NAME, marker.model_dump(mode="json"))
        shutil.rmtree(self._receipts, ignore_errors=True)
        return marker

    def _finished(self) -> Marker | None:
        marker = read_marker(self.folder)
        if marker is None or not is_whole(marker, self.folder):
            return None
        if self._pin is not None and marker.pin != self._pin:
            raise CodecctlError(f"{self.folder}: holds {marker.pin}, not {self._pin}; move the folder away first")
        return marker

    def _outcome(self, marker: Marker, state: Literal["downloaded", "already there"]) -> Outcome:
        n_bytes = sum(file.bytes for file in marker.files)
        return Outcome(self._corpus, self.folder, state, n_bytes=n_bytes, n_audio_files=marker.n_audio_files)

    def _remember(self, fetched: Fetched) -> None:
        """The first hash seen of a file that nobody publishes one for."""
        if fetched.name in self._lock.get("files", {}):
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        seen = {"sha256": fetched.sha256, "bytes": fetched.n_bytes, "host": fetched.host, "first_seen": now}
        self._write_lock({"files": {**self._lock.get("files", {}), fetched.name: seen}})

    def _write_lock(self, more: Mapping[str, object]) -> None:
        with self._writing:
            self._lock = {"format": "codecctl.lock/1", **self._lock, **more}
            write_json(self._lock_path, self._lock)

    def _tell_waiting(self, holder: str) -> None:
        self._progress.say(f"{self.folder}: {holder} is at work there; waiting for it to end")


def is_whole(marker: Marker, folder: Path) -> bool:
    """Whether what the marker lists is still there."""
    return all(_is_there(file, folder) for file in marker.files)


def _is_there(file: FetchedFile, folder: Path) -> bool:
    if file.into is not None:
        unpacked = folder / file.into
        return unpacked.is_dir() and any(unpacked.iterdir())
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


def _folders(files: Sequence[File]) -> dict[str, str]:
    return {file.name: file.into or without_suffix(file.name) for file in files if is_archive(file.name)}


def _plan(corpus: Corpus, folder: Path, agreed: Mapping[str, object]) -> Plan:
    marker = read_marker(folder)
    done = marker is not None and is_whole(marker, folder)
    total = corpus.n_bytes
    arrived = sum(_size(folder / file.name) or _size(folder / f"{file.name}.part") for file in corpus.files)
    source = corpus.source
    names = source.files if isinstance(source, HubSource) else [file.name for file in corpus.files]
    packed = any(map(is_archive, names))
    left = None if total is None else 0 if done else max(0, total - arrived)
    needed = (
        None if left is None or total is None else 0 if done else left + int(total * corpus.unpacked_ratio) * packed
    )
    origins = tuple(_origin(source) for source in (corpus.source, corpus.fallback) if source is not None)
    asks = corpus.licence.consent and corpus.licence.name not in agreed
    return Plan(corpus, folder, done, origins, left, needed, asks)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _origin(source: Source) -> str:
    if isinstance(source, HttpSource):
        return ", ".join(dict.fromkeys(urlsplit(address).netloc for address in source.addresses))
    if isinstance(source, HubSource):
        return f"huggingface.co/datasets/{source.repo}"
    return "mozilladatacollective.com" if isinstance(source, MdcSource) else "by hand"


def _check_room(plans: Sequence[Plan], root: Path) -> None:
    needed = sum(plan.n_bytes_needed or 0 for plan in plans)
    free = free_bytes(root)
    if needed > free:
        raise CodecctlError(
            f"{root}: {needed / 1e9:,.1f} GB are needed, archives and what is in them, {free / 1e9:,.1f} GB are free; "
            "make room, choose fewer or give another --root"
        )


def _licences(root: Path) -> Path:
    return root / "licences.json"


def _agree(
    licence: Licence, root: Path, accepted: Collection[str], ask: Callable[[Licence], bool], *, needed: bool
) -> None:
    """Have the user's consent, given before, given now or asked for. Raises `CodecctlError` without it."""
    agreed = read_json(_licences(root))
    if not licence.consent or not needed or licence.name in agreed:
        return
    if licence.name not in accepted and not ask(licence):
        raise CodecctlError(
            f"its licence needs your consent: read {licence.url} and add --accept-licence {licence.name}"
        )
    root.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(_licences(root), {**agreed, licence.name: {"url": licence.url, "agreed": now}})
