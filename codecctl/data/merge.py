"""The results of all units -> one manifest, one index, one list of what was rejected, and the report."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.config.schema import DataConfig
from codecctl.data.manifest import (
    SAMPLE_RATE,
    SPLITS,
    Split,
    Utterance,
    parse_utterance,
    read_lines,
    read_manifest,
    to_line,
    write_lines,
)
from codecctl.data.shards import ROW, Index, read_about, write_index
from codecctl.data.splits import Group, assign_splits
from codecctl.data.units import UnitFiles
from codecctl.errors import CodecctlError

_REPORTED = ("split", "dataset", "language", "speaker", "licence")


def _seconds_by() -> dict[str, dict[str, float]]:
    return {key: defaultdict(float) for key in (*_REPORTED, "bandwidth", "level")}


@dataclass
class PrepareReport:
    """What lies in a prepared folder, and what was turned away."""

    n_utterances: int = 0
    n_rejected: int = 0
    seconds: float = 0.0
    # split, dataset, language, speaker, licence -> name -> seconds, "unknown" where a source does not tell;
    # bandwidth, level -> a range such as "7 to 8 kHz" -> seconds, in rising order
    seconds_by: dict[str, dict[str, float]] = field(default_factory=_seconds_by)
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> recordings
    n_units_done: int = 0  # in this run
    n_units_left: int = 0  # for other jobs to do; until then the index is not written


def merge_units(out: Path, names: Sequence[str], config: DataConfig) -> PrepareReport:
    """Write index, manifest and `rejected.jsonl` of a folder whose units are all done."""
    report, rows, groups = PrepareReport(), _RowCollector(), dict[str, Group]()
    write_lines(out / "rejected.jsonl", _rejected_lines(out, names, report, groups))
    splits = assign_splits(
        groups, seed=config.split_seed, share=config.validation_share, before=_splits_before(out, config)
    )

    def lines() -> Iterator[str]:
        for utterance in _kept(out, names, splits):
            rows.add(utterance)
            _count(report, utterance)
            yield to_line(utterance)

    write_lines(out / "manifest.jsonl", lines())
    index = rows.index()
    write_index(out, index, split_seed=config.split_seed, validation_share=config.validation_share)
    for key in ("bandwidth", "level"):
        ranges = sorted(report.seconds_by[key].items(), key=lambda item: int(item[0].split()[0]))
        report.seconds_by[key] = dict(ranges)
    write_lines(out / "report.json", [_report_json(report)])
    _tidy(out, set(index.shards))
    return report


def _report_json(report: PrepareReport) -> str:
    lasting = {key: value for key, value in vars(report).items() if not key.startswith("n_units")}
    return json.dumps(lasting, ensure_ascii=False, indent=1) + "\n"


def _tidy(out: Path, shards: set[str]) -> None:
    """Remove shards that nothing points to and what killed runs have left."""
    for shard in (out / "shards").glob("*.pcm"):
        if f"shards/{shard.name}" not in shards:
            shard.unlink(missing_ok=True)
    for folder in (out, out / "shards", out / "units"):
        for part in folder.glob(".*.partial"):
            if not _is_running(part.name.split(".")[-2]):
                part.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    """Whether a process of this number lives here; one that is dead but not yet waited for does not."""
    try:
        return "\nState:\tZ" not in Path("/proc", process, "status").read_text()
    except OSError:
        pass  # no such process, or no such file system
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _records(out: Path, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """(record, None) for each recording that is kept, (record, reason) for each that is not.

    Of recordings with the same samples the first is kept."""
    first: dict[str, str] = {}
    for name in names:
        for where, record in read_lines(UnitFiles(out, name).results):
            reason = record.get("rejected")
            if reason is None and (twin := first.setdefault(record["digest"], record["id"])) != record["id"]:
                reason = f"same sound as {twin}"
            yield {**record, "where": where}, reason


def _kept(out: Path, names: Sequence[str], splits: dict[str, Split]) -> Iterator[Utterance]:
    for record, reason in _records(out, names):
        if reason is None:
            split = splits[record["speaker"] or record["id"]]
            yield parse_utterance({**record, "split": split}, where=record["where"])


def _rejected_lines(out: Path, names: Sequence[str], report: PrepareReport, groups: dict[str, Group]) -> Iterator[str]:
    """What was turned away; the speakers of the rest are gathered on the way, as reading all results takes time."""
    for record, reason in _records(out, names):
        if reason is None:
            group = groups.setdefault(record["speaker"] or record["id"], Group(record["language"]))
            group.seconds += record["n_samples"] / SAMPLE_RATE
        else:
            report.n_rejected += 1
            report.rejected[kind_of(reason)] += 1
            line = {key: record[key] for key in ("id", "source", "dataset")} | {"reason": reason}
            yield json.dumps(line, ensure_ascii=False) + "\n"


def kind_of(reason: str) -> str:
    """The reason without its numbers and names, to count by: what stands before the first colon or bracket."""
    return "duplicate" if reason.startswith("same sound as ") else reason.partition(" (")[0].partition(":")[0]


def _group_of(utterance: Utterance) -> str:
    return utterance.speaker or utterance.id


def _splits_before(out: Path, config: DataConfig) -> dict[str, Split]:
    """Who is in which split already, as long as the seed and the share are the same."""
    try:
        about = read_about(out)
        if (about["split_seed"], about["validation_share"]) == (config.split_seed, config.validation_share):
            return {_group_of(utterance): utterance.split for utterance in read_manifest(out / "manifest.jsonl")}
    except (CodecctlError, KeyError):
        pass  # the first run
    return {}


def _count(report: PrepareReport, utterance: Utterance) -> None:
    report.n_utterances += 1
    report.seconds += utterance.seconds
    for key in _REPORTED:
        report.seconds_by[key][getattr(utterance, key) or "unknown"] += utterance.seconds
    n_khz, level_db = min(int(utterance.bandwidth_hz / 1000), 7), int(utterance.level_db // 10 * 10)
    report.seconds_by["bandwidth"][f"{n_khz} to {n_khz + 1} kHz"] += utterance.seconds
    report.seconds_by["level"][f"{level_db} to {level_db + 10} dB"] += utterance.seconds


class _Numbers(dict[Any, int]):
    """Numbers names in the order in which they come."""

    def __missing__(self, name: Any) -> int:
        self[name] = len(self)
        return self[name]


class _RowCollector:
    """Utterances -> the index."""

    def __init__(self) -> None:
        self._names = {key: _Numbers() for key in ("shard", "dataset", "language", "licence", "speaker")}
        self._parts: list[np.ndarray[Any, np.dtype[np.void]]] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, utterance: Utterance) -> None:
        numbers, it = self._names, utterance
        speaker = numbers["speaker"][it.dataset, it.speaker, it.speaker or it.id]
        names = numbers["dataset"][it.dataset], numbers["language"][it.language], numbers["licence"][it.licence]
        place = numbers["shard"][it.shard], it.first_sample, it.n_samples
        self._rows.append((*place, speaker, *names, SPLITS.index(it.split), it.bandwidth_hz, it.level_db))  # as in ROW
        if len(self._rows) == 10_000:
            self._pack()

    def _pack(self) -> None:
        self._parts.append(np.array(self._rows, ROW))
        self._rows = []

    def index(self) -> Index:
        self._pack()
        names = {key: tuple(numbers) for key, numbers in self._names.items()}
        return Index(np.concatenate(self._parts), names["shard"], names["dataset"], names["language"], names["licence"])
