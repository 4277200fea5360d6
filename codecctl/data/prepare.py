"""Any audio -> checked 16 kHz mono shards, one manifest, one index.

Work goes by units (`units.py`): each is decoded into one shard of its own and marked when done; then all results are
put together (`merge.py`). So a run that was killed goes on where it was, and a second run does only what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from codecctl.audio.files import Audio, AudioReader, to_pcm16
from codecctl.audio.resample import Resampler
from codecctl.config.schema import DataConfig
from codecctl.data.checks import Measurement, find_fault
from codecctl.data.corpus import find_corpora
from codecctl.data.manifest import SAMPLE_RATE, write_lines
from codecctl.data.merge import PrepareReport, merge_units
from codecctl.data.parquet import read_row_group
from codecctl.data.shards import ShardWriter
from codecctl.data.sources import Entry, read_source
from codecctl.data.units import UnitFiles, plan_units, read_unit, source_name, unit_names
from codecctl.errors import CodecctlError, UsageError
from codecctl.workers import mark_done, run_units

Progress = Callable[[int, int], None]  # recordings done, recordings in all

_RULES = 6  # raised when the same input is to give another output: then everything is done anew


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    config: DataConfig,
    *,
    n_workers: int = 1,
    executor: str = "processes",
    shard: tuple[int, int] = (1, 1),
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Prepare these sources (see `sources.py`) into `out`, beside what it holds already.

    A folder of downloaded corpora stands for them all. A bad recording is a line in `OUT/rejected.jsonl`. `shard` =
    (i, n) does every n-th unit; the job that finds all of them done writes the index. Raises `CodecctlError` if a
    source is missing or holds no recordings, or if all are rejected.
    """
    out = Path(out)
    for source in _expand(map(Path, sources)):
        name = source_name(out, source)
        plan_units(out, name, source, read_source(source, name))
    names = unit_names(out)
    hashes, counts = {}, {}
    for name in names:
        unit = read_unit(out, name)
        hashes[name], counts[name] = unit.input_hash(_settings(config)), len(unit.entries)
    mine = names[shard[0] - 1 :: shard[1]]
    todo = [(name, hashes[name]) for name in mine if not UnitFiles(out, name).is_done(hashes[name])]
    n_all, n_done = sum(counts[name] for name, _ in todo), 0
    work = partial(prepare_unit, out=out, config=config)
    for (name, _), _ in run_units(work, todo, n_workers=n_workers, executor=executor):
        n_done += counts[name]
        if on_progress:
            on_progress(n_done, n_all)
    n_left = sum(not UnitFiles(out, name).is_done(hashes[name]) for name in names)
    if n_left:
        return PrepareReport(n_units_done=len(todo), n_units_left=n_left)
    report = merge_units(out, names, config)
    report.n_units_done = len(todo)
    if not report.n_utterances:
        raise CodecctlError(f"{out}: every recording was rejected; {out / 'rejected.jsonl'} says why")
    return report


def prepare_unit(todo: tuple[str, str], *, out: Path, config: DataConfig) -> None:
    """Decode, check and store the recordings of one unit, then mark it done; `todo` is its name and input hash."""
    name, input_hash = todo
    # glibc learns from the first large array that is freed: it keeps the memory of smaller ones for the next recording
    # instead of handing it back to the system and asking for it anew, which costs a tenth of the time.
    np.empty(1 << 24, np.uint8)
    unit, files = read_unit(out, name), UnitFiles(out, name)
    with ShardWriter(files.shard) as writer:
        opened = _Opener(unit.root)
        records = [_prepare_entry(entry, opened, writer, config) for entry in unit.entries]
    shard = f"shards/{writer.path.name}" if writer.path else None
    for record in records:
        if "rejected" not in record:
            record["shard"] = shard
    write_lines(files.results, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    mark_done(files.marker, input_hash, shard=shard)


class _Opener:
    """Opens the recordings of a unit; what several of them are read from in one go is kept for the next."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._part: tuple[str, int] | None = None
        self._cells: list[tuple[bytes | None, str]] = []

    def open(self, entry: Entry) -> AudioReader:
        if entry.fault:
            raise CodecctlError(entry.fault)
        if entry.part is None:
            # Text, for there may be a million: pathlib takes as long as opening the file.
            path = os.path.join(self._root, entry.file or entry.place)
            return AudioReader(path, name=entry.place, raw_rate=entry.raw_rate)
        if entry.part != self._part:
            self._cells = read_row_group(Path(self._root, entry.part[0]), entry.part[1], entry.column or "")
            self._part = entry.part
        data, told_name = self._cells[entry.row or 0]
        if not data:
            raise CodecctlError("holds no audio: the bytes are missing")
        return AudioReader(data, name=entry.place + PurePath(told_name).suffix)


def _prepare_entry(entry: Entry, opener: _Opener, writer: ShardWriter, config: DataConfig) -> dict[str, Any]:
    """One recording into the shard; returns its line of the unit's results."""
    about = {"id": entry.id, "source": entry.place, "dataset": entry.dataset}
    writer.start()
    try:
        with opener.open(entry) as reader:
            measured, info = _copy(reader, entry, writer), reader.info
    except UsageError:
        raise  # something is to be installed
    except CodecctlError as error:
        writer.drop()
        return {**about, "rejected": str(error).removeprefix(entry.place).lstrip(": ")}
    if fault := find_fault(measured, config):
        writer.drop()
        return {**about, "rejected": fault}
    return {
        **about,
        "language": entry.language,
        "speaker": entry.speaker,
        "licence": entry.licence,
        "native_sample_rate": entry.native_rate or info.sample_rate,
        "lossy": entry.lossy or info.lossy,
        "bandwidth_hz": measured.bandwidth_hz,
        "level_db": round(measured.level_db, 2),
        "clipping": round(measured.clipping, 6),
        "first_sample": writer.first_sample,
        "n_samples": measured.n_samples,
        "digest": writer.keep(),
    }


def _copy(reader: AudioReader, entry: Entry, writer: ShardWriter) -> Measurement:
    """Decode, mix down and resample one recording into the shard, in constant memory."""
    measured, resampler = Measurement(), Resampler(reader.sample_rate, SAMPLE_RATE)
    for block in reader.blocks(start_seconds=entry.start_seconds or 0.0, n_seconds=entry.n_seconds):
        measured.add_source(block, reader.lows, reader.highs)
        _store(resampler.push(reader.to_mono(block)), measured, writer)
    _store(resampler.flush(), measured, writer)
    return measured


def _store(audio: Audio, measured: Measurement, writer: ShardWriter) -> None:
    """[1, L]"""
    measured.add(audio[0])
    writer.append(to_pcm16(audio[0]))


def _expand(sources: Iterable[Path]) -> Iterator[Path]:
    """A folder that holds downloaded corpora stands for each of them."""
    for source in sources:
        yield from (source.is_dir() and find_corpora(source)) or [source]


def _settings(config: DataConfig) -> list[Any]:
    """What a unit's result depends on besides its recordings."""
    return [_RULES, config.min_seconds, config.max_clipping]
