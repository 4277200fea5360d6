"""Prepare sources into a folder.

The work is divided into units (`units.py`): each is decoded into one shard of its own and marked when done; then all
results are merged (`merge.py`). So a killed run continues where it was, and a second run does only what is new.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.audio import Audio, pyav
from codecctl.audio.files import AudioReader, to_pcm16
from codecctl.audio.resample import Resampler
from codecctl.config.schema import DataConfig
from codecctl.data import SAMPLE_RATE
from codecctl.data.download.corpus import find_corpora
from codecctl.data.prepare.checks import Measurement, find_fault
from codecctl.data.prepare.items import AudioItem, ItemOpener
from codecctl.data.prepare.merge import PrepareReport, merge_units
from codecctl.data.prepare.sources import read_source
from codecctl.data.prepare.units import Plan, UnitFiles, plan_units, read_unit, source_name
from codecctl.data.shards import ShardWriter, read_about
from codecctl.data.tables import json_line
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import write_lines
from codecctl.lock import Lease
from codecctl.workers import run_units

_FOREIGN = ("codes.json", "last.pt", "best.pt", "metrics.jsonl", "corpus.json")  # of codes, runs and downloads

Progress = Callable[[int, int], None]  # items done, items in all

_RULES = 6  # raised when the same input is to give another output: then everything is prepared anew


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    config: DataConfig,
    *,
    n_workers: int = 1,
    executor: str = "processes",
    shard: tuple[int, int] = (1, 1),
    on_progress: Progress | None = None,
    on_wait: Callable[[str], None] = lambda message: None,
) -> PrepareReport:
    """Prepare these sources (see `sources.py`) into `out`, in addition to what it holds.

    A folder of downloaded corpora stands for all of them. A rejected recording is a line of `OUT/rejected.jsonl`.
    `shard` = (i, n) does every n-th unit; the job that finds all of them done writes the index. Jobs of an array, and
    jobs with other sources, may work in `out` at the same time; `on_wait` gets a line where one waits for another.
    Raises `CodecctlError` if a source is missing, cannot be listed or holds no audio, if every recording is rejected,
    and if an older version prepared `out`.
    """
    out, notes = Path(out), list[str]()
    settings = [_RULES, config.min_seconds, config.max_clipping]
    if (out / "prepared.json").is_file():
        read_about(out)
    elif taken := next((name for name in _FOREIGN if (out / name).exists()), None):
        raise UsageError(f"{out}: holds other data ({taken}); --out needs a new folder, or one of prepared audio")
    for source in map(Path, sources):
        # A folder that holds downloaded corpora stands for each of them.
        for path in (source.is_dir() and find_corpora(source, notes.append)) or [source]:
            name = source_name(out, path)  # depends on the sources that are planned already
            plan_units(out, name, path, read_source(path, name, note=notes.append))
    plan = Plan(out, settings, shard)
    n_done, work = 0, partial(prepare_unit, out=out, config=config)
    for (name, _), _ in run_units(work, plan.todo, n_workers=n_workers, executor=executor):
        n_done += plan.n_items[name]
        if on_progress:
            on_progress(n_done, plan.n_items_todo)
    with _alone(out, on_wait):
        whole = Plan(out, settings, shard)  # another job may have added units meanwhile
        n_left = whole.count_left()
        report = PrepareReport() if n_left else merge_units(out, whole.names, config)
    report.n_units_done, report.n_units_left = len(plan.todo), n_left
    report.notes[:0] = notes
    if not n_left and not report.n_utterances:
        raise CodecctlError(f"{out}: every recording was rejected; see {out / 'rejected.jsonl'} for the reasons")
    return report


@contextmanager
def _alone(out: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Within: no other process merges the units of the folder."""
    lost = threading.Event()

    def report(holder: str) -> None:
        on_wait(f"{out}: {holder} writes the index; waiting for it to finish")

    with Lease(out / ".jobs", on_wait=report, on_lost=lost.set):
        yield
    if lost.is_set():
        raise CodecctlError(f"{out}: another process took over; run the same command again")


def prepare_unit(todo: tuple[str, str], *, out: Path, config: DataConfig) -> None:
    """Decode, check and store the items of one unit, then mark it as done; `todo` is its name and input hash."""
    name, input_hash = todo
    # glibc adapts to the first large array that is freed: it then keeps the memory of smaller ones for the next item
    # instead of returning it to the system and asking for it again, which costs a tenth of the time.
    np.empty(1 << 24, np.uint8)
    unit, files = read_unit(out, name), UnitFiles(out, name)
    with ShardWriter(files.shard) as writer:
        opener = ItemOpener(unit.root)
        records = [_prepare_item(item, opener, writer, config) for item in unit.items]
    shard = f"shards/{writer.path.name}" if writer.path else None
    for record in records:
        if "rejected" not in record:
            record["shard"] = shard
    write_lines(files.results, map(json_line, records))
    lacked_av = not pyav.is_installed() and any("rejected" in record for record in records)
    files.mark_done(input_hash, shard=shard, lacked_av=lacked_av)


def _prepare_item(item: AudioItem, opener: ItemOpener, writer: ShardWriter, config: DataConfig) -> dict[str, Any]:
    """Write one item to the shard; returns its line of the unit's results."""
    about = {"id": item.id, "source": item.place, "dataset": item.dataset}
    if item.split == "test":
        return {**about, "rejected": "test data of its list"}
    try:
        with opener.open(item) as reader:
            measured, info = _copy(reader, item, writer), reader.info
    except UsageError:
        raise  # a package is missing
    except CodecctlError as error:
        writer.drop()
        return {**about, "rejected": opener.reason(error)}
    if fault := find_fault(measured, config):
        writer.drop()
        return {**about, "rejected": fault}
    return {
        **about,
        "language": item.language,
        "speaker": item.speaker,
        "licence": item.licence,
        "text": item.text,
        "stated_split": item.split,
        "native_sample_rate": item.native_rate or info.sample_rate,
        "lossy": item.lossy or info.lossy,
        "channel": info.channel,
        "bandwidth_hz": measured.bandwidth_hz,
        "level_db": round(measured.level_db, 2),
        "clipping": round(measured.clipping, 6),
        "first_sample": writer.first_sample,
        "n_samples": measured.n_samples,
        "digest": writer.keep(),
    }


def _copy(reader: AudioReader, item: AudioItem, writer: ShardWriter) -> Measurement:
    """Decode, mix down and resample one item into the shard, in constant memory."""
    measured, resampler = Measurement(), Resampler(reader.sample_rate, SAMPLE_RATE)

    def store(samples: Audio) -> None:
        measured.add(samples)
        writer.append(to_pcm16(samples))

    for block in reader.blocks(start_seconds=item.start_seconds or 0.0, n_seconds=item.n_seconds):
        measured.add_source(block, reader.lows, reader.highs)
        store(resampler.push(reader.to_mono(block))[0])
    store(resampler.flush()[0])
    return measured
