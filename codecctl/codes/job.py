"""Encode a corpus into a folder.

The work is divided into units, as `prepare` divides it (`data/prepare/units.py`): each is encoded into one shard of its
own and marked when done; then all results are merged (`merge.py`). So a killed run continues where it was, and a second
run encodes only what is new.
"""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from codecctl.audio import pyav
from codecctl.codes.batches import BatchEncoder, Encoded
from codecctl.codes.container import ShardHeader
from codecctl.codes.containers import CONTAINERS
from codecctl.codes.folder import About, Coded, is_corpus, read_about, write_about
from codecctl.codes.merge import merge_units
from codecctl.codes.sources import is_prepared, read_items
from codecctl.data import SPLITS
from codecctl.data.download.corpus import find_corpora
from codecctl.data.prepare.items import AudioItem
from codecctl.data.prepare.units import Plan, UnitFiles, plan_units, read_unit, source_name
from codecctl.data.tables import json_line
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing, write_lines
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.device import find_device
from codecctl.inference.find import find_checkpoint
from codecctl.inference.load import Codec
from codecctl.lock import Lease, LeaseHeld
from codecctl.workers import hash_of, run_units

_RULES = 1  # raised when the same input is to give another output: then everything is encoded anew
_FOREIGN = ("prepared.json", "units", "shards", "manifest.jsonl", "last.pt", "best.pt", "metrics.jsonl", "corpus.json")


@dataclass(frozen=True)
class Job:
    """What the codes of a recording depend on besides its audio, and where they are computed."""

    checkpoint: Path
    about: About
    n_quantizers: int | None = None
    partial: bool = False
    device: str = "auto"
    n_devices: int = 1

    @property
    def settings(self) -> list[Any]:
        about = self.about
        return [_RULES, about.fingerprint, about.container, len(about.codebook_sizes), self.partial]


@dataclass
class Work:
    """What was encoded, and what it took."""

    n_done: int = 0  # recordings, failed ones included
    n_failed: int = 0
    seconds: float = 0.0  # of audio
    wait_seconds: float = 0.0  # of the time of all workers, for reading and resampling
    encode_seconds: float = 0.0


@dataclass
class CorpusReport(Work):
    """What a run did, and what the folder holds in the end."""

    n_recordings: int = 0  # to do in this run
    n_units_left: int = 0  # for other jobs; until they are done the manifest is not written
    about: About | None = None  # of the complete folder
    notes: list[str] = field(default_factory=list)

    @property
    def waiting(self) -> float:
        """The share of the workers' time spent waiting for reading and resampling."""
        return self.wait_seconds / max(self.wait_seconds + self.encode_seconds, 1e-9)

    def add(self, work: Work) -> None:
        for key, value in vars(work).items():
            setattr(self, key, getattr(self, key) + value)


def encode_corpus(
    sources: Sequence[str | Path],
    out: str | Path,
    checkpoint: str | Path,
    *,
    container: str = "shards",
    n_quantizers: int | None = None,
    partial_audio: bool = False,
    n_workers: int = 1,
    executor: str = "processes",
    shard: tuple[int, int] = (1, 1),
    device: str = "auto",
    n_devices: int = 1,
    on_progress: Callable[[CorpusReport], Any] | None = None,
) -> CorpusReport:
    """Encode the recordings of these sources into `out`, in addition to what it holds.

    A source is a prepared folder or anything that `prepare` takes. A recording that cannot be encoded is a line of
    `OUT/failed.jsonl`. Each of the `n_workers` processes reads and encodes whole units, on one core or on one of the
    first `n_devices` cards. `shard` = (i, n) does every n-th unit; the job that finds all of them done completes the
    folder. Raises `CodecctlError` if a source holds no recordings, if another process works in `out` or `out` holds
    codes of another model or other data, and if every recording failed.
    """
    out = Path(out)
    job = _plan(checkpoint, container, n_quantizers, partial_audio, device, n_devices)
    _check_folder(out, job.about)
    n_workers = max(n_workers, n_devices)
    with _held(out, shard) as lost:
        report = CorpusReport()
        _plan_units(sources, out, job, report)
        plan = Plan(out, job.settings, shard)
        report.n_recordings = plan.n_items_todo
        work = partial(encode_unit, out=out, job=job)
        n_gpus = 0.0 if find_device(device).type == "cpu" else n_devices / n_workers
        for _, result in run_units(work, plan.todo, n_workers=n_workers, executor=executor, n_gpus=n_gpus):
            report.add(result)
            if on_progress:
                on_progress(report)
            if lost.is_set():
                raise CodecctlError(f"{out}: another process took over; run the same command again")
        report.n_units_left = plan.count_left()
        if not report.n_units_left:
            report.about = merge_units(out, plan.names, job.about)
    if report.about and not report.about.n_utterances:
        raise CodecctlError(f"{out}: every recording failed; see {out / 'failed.jsonl'} for the reasons")
    return report


def encode_unit(todo: tuple[str, str], *, out: Path, job: Job) -> Work:
    """Encode the recordings of one unit into its shard, then mark it as done; `todo` is its name and input hash."""
    name, input_hash = todo
    unit, files = read_unit(out, name), UnitFiles(out, name)
    device = _own_device(job)
    codec = _load(str(job.checkpoint), str(device), job.about.fingerprint)
    encoder = BatchEncoder(codec, job.n_quantizers, partial=job.partial)
    with _one_thread():
        encoded = sorted(encoder.encode(unit.root, unit.items), key=lambda each: each.number)
    coded, lines, row = list[Coded](), list[dict[str, Any]](), 0
    for item, each in zip(unit.items, encoded, strict=True):
        record = _record(item, each, codec.sample_rate, row)
        lines.append(record)
        if each.codes is not None:
            coded.append((record, each.codes))
            row += 1
    shard = _write_shard(files, coded, job) if coded else None
    for record, _ in coded:
        record["shard"] = shard
    write_lines(files.results, map(json_line, lines))
    lacked_av = not pyav.is_installed() and len(coded) < len(lines)
    files.mark_done(input_hash, shard=shard, lacked_av=lacked_av)
    seconds = sum(each.n_samples for each in encoded) / codec.sample_rate
    return Work(len(encoded), len(encoded) - len(coded), seconds, encoder.wait_seconds, encoder.encode_seconds)


def _plan(
    checkpoint: str | Path,
    container: str,
    n_quantizers: int | None,
    partial_audio: bool,
    device: str,
    n_devices: int,
) -> Job:
    """Raises `UsageError` for what does not fit, before anything is read."""
    if container not in CONTAINERS:
        raise UsageError(f"--format {container}: expected {', '.join(CONTAINERS)} for a corpus")
    CONTAINERS[container].check_installed()
    n_cards = torch.cuda.device_count() if find_device(device).type == "cuda" else 0
    if n_devices > max(1, n_cards):
        raise UsageError(f"--devices {n_devices}: {n_cards} CUDA cards can be used here")
    path = find_checkpoint(checkpoint)
    model = Checkpoint.read(path)
    sizes = model.model.quantizer.codebook_sizes
    if n_quantizers is not None and not 1 <= n_quantizers <= len(sizes):
        raise UsageError(f"n_quantizers must be 1 to {len(sizes)}, got {n_quantizers}")
    about = About(
        container=container,
        fingerprint=model.fingerprint,
        sample_rate=model.model.sample_rate,
        hop_length=model.model.hop_length,
        codebook_sizes=sizes[:n_quantizers],
    )
    return Job(path, about, n_quantizers, partial_audio, device, n_devices)


def _check_folder(out: Path, about: About) -> None:
    """Raises `UsageError` for a folder of other data, or of codes that these would not fit to."""
    if not is_corpus(out):
        if taken := next((name for name in _FOREIGN if (out / name).exists()), None):
            raise UsageError(f"{out}: holds other data ({taken}); --out-dir needs a new folder")
        return
    before = read_about(out)
    for key, what in (
        ("fingerprint", "codes of the model"),
        ("container", "codes with --format"),
        ("codebook_sizes", "codes of the codebook sizes"),
    ):
        there, ours = getattr(before, key), getattr(about, key)
        if there != ours:
            raise UsageError(f"{out}: holds {what} {there}, and these would be {ours}; --out-dir needs a new folder")


def _plan_units(sources: Sequence[str | Path], out: Path, job: Job, report: CorpusReport) -> None:
    for source in map(Path, sources):
        corpora = list[Path]()  # a folder that holds downloaded ones stands for each of them
        if source.is_dir() and not is_prepared(source):
            corpora = find_corpora(source, report.notes.append)
        for path in corpora or [source]:
            name = source_name(out, path)  # depends on the sources that are planned already
            items = read_items(path, name, note=report.notes.append)
            if not is_corpus(out):
                write_about(out, job.about)  # from now on the folder is this model's
            _check_folder(out, job.about)  # another job may have been the first
            plan_units(out, name, path, items)


@contextmanager
def _held(out: Path, shard: tuple[int, int]) -> Iterator[threading.Event]:
    """Within: no other process does this part of the folder, nor parts of another division; the event is set if one
    took over. Raises `UsageError` if one works there."""
    lost, own = threading.Event(), out / ".jobs" / f"{shard[0]}-of-{shard[1]}"
    try:
        for other in sorted(own.parent.glob("*-of-*")):
            if not other.name.endswith(f"-of-{shard[1]}"):
                with Lease(other, wait=False):
                    pass
        with Lease(own, wait=False, on_lost=lost.set):
            yield lost
    except LeaseHeld as holder:
        raise UsageError(
            f"{out}: another process encodes there ({holder}); wait for it, or choose another folder"
        ) from None


def _own_device(job: Job) -> torch.device:
    """The processes of a pool take turns with the cards."""
    device = find_device(job.device)
    number = re.search(r"\d+$", multiprocessing.current_process().name)
    if job.n_devices == 1 or number is None:
        return device
    return torch.device("cuda", int(number[0]) % job.n_devices)


@lru_cache(maxsize=1)
def _load(checkpoint: str, device: str, fingerprint: str) -> Codec:
    codec = Codec.load(checkpoint, device)
    if codec.fingerprint != fingerprint:
        raise CodecctlError(f"{checkpoint}: was replaced by another model meanwhile; name a file that stays")
    return codec


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one core: how sums are split among threads changes their rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(item: AudioItem, encoded: Encoded, sample_rate: int, row: int) -> dict[str, Any]:
    """The line of a recording in the results of its unit, without its shard."""
    about = {"id": item.id, "source": item.place, "dataset": item.dataset}
    if encoded.codes is None:
        return {**about, "failed": encoded.failure}
    return {
        **about,
        "language": item.language,
        "speaker": item.speaker,
        "licence": item.licence,
        "text": item.text,
        "split": item.split if item.split in SPLITS else None,
        "n_frames": encoded.codes.shape[1],
        "n_samples": encoded.n_samples,
        "seconds": round(encoded.n_samples / sample_rate, 4),
        "row": row,
    }


def _write_shard(files: UnitFiles, coded: Sequence[Coded], job: Job) -> str:
    """Write the shard under a name that follows from its content; returns its place in the folder."""
    header = ShardHeader.of(job.about, [codes for _, codes in coded])
    digest = hash_of(header.model_dump(mode="json"), [record for record, _ in coded])[:12]
    container = CONTAINERS[job.about.container]
    path = files.shard.with_name(f"{files.shard.name}-{digest}{container.suffix}")
    with replacing(path, durable=True) as partial_path:
        container.write(partial_path, header, coded)
    return f"shards/{path.name}"
