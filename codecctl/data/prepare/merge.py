"""The results of all units -> one manifest, one index, one list of rejected recordings, and the report."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.config.schema import DataConfig
from codecctl.data import SAMPLE_RATE, SPLITS, Split
from codecctl.data.manifest import Utterance, read_manifest, to_line
from codecctl.data.prepare.units import UnitFiles, tidy
from codecctl.data.shards import ROW, Index, read_about, write_index
from codecctl.data.tables import json_line, read_records
from codecctl.errors import CodecctlError
from codecctl.files import write_json, write_lines
from codecctl.parsing import as_type
from codecctl.text import to_bytes

_REPORTED = ("split", "dataset", "language", "speaker", "licence")
_MOST_NAMED = 3  # recordings in a note
_LASTING = ("n_utterances", "n_rejected", "seconds", "seconds_by", "rejected")  # in report.json


@dataclass
class PrepareReport:
    """What a prepared folder holds, and what was rejected."""

    n_utterances: int = 0
    n_rejected: int = 0
    seconds: float = 0.0
    # split, dataset, language, speaker, licence -> name -> seconds, "unknown" where a source does not state it;
    # bandwidth, level -> a range such as "7 to 8 kHz" -> seconds, in rising order
    seconds_by: dict[str, dict[str, float]] = field(
        default_factory=lambda: {key: defaultdict(float) for key in (*_REPORTED, "bandwidth", "level")}
    )
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> recordings
    notes: list[str] = field(default_factory=list)  # lines on what was found and how lists matched
    n_units_done: int = 0  # in this run
    n_units_left: int = 0  # for other jobs; until they are done the index is not written


def merge_units(out: Path, names: Sequence[str], config: DataConfig) -> PrepareReport:
    """Write index, manifest and `rejected.jsonl` of a folder whose units are all done."""
    report, rows, picked = PrepareReport(), _RowCollector(), list[str]()
    split_of = _write_rejected(out, names, config, report)

    def lines() -> Iterator[str]:
        for record, reason in _records(out, names):
            if reason is None:
                if record.get("channel") is not None:
                    picked.append(f"{record['id']} (channel {record['channel'] + 1})")
                utterance = as_type(Utterance, {**record, "split": split_of(record)}, record["where"])
                rows.add(utterance)
                _count(report, utterance)
                yield to_line(utterance)

    write_lines(out / "manifest.jsonl", lines())
    if picked:
        more = ", ..." if len(picked) > _MOST_NAMED else ""
        report.notes.append(
            f"{out}: the channels of {len(picked)} recordings cancel when mixed down; the louder one was taken: "
            f"{', '.join(picked[:_MOST_NAMED])}{more}"
        )
    index = rows.index()
    name = write_index(out, index, split_seed=config.split_seed, validation_share=config.validation_share)
    for key in ("bandwidth", "level"):
        ranges = sorted(report.seconds_by[key].items(), key=lambda item: int(item[0].split()[0]))
        report.seconds_by[key] = dict(ranges)
    write_json(out / "report.json", {key: getattr(report, key) for key in _LASTING})
    tidy(out, names, {*index.shards, name})
    return report


def _write_rejected(
    out: Path, names: Sequence[str], config: DataConfig, report: PrepareReport
) -> Callable[[Mapping[str, Any]], Split]:
    """Write `rejected.jsonl`; returns what gives the split of a record that is kept."""
    before, divided = _splits_before(out, config)
    groups, stated = _Groups(divided), _Stated()
    write_lines(out / "rejected.jsonl", _rejected_lines(out, names, report, groups, stated))
    is_one = len(groups.found) == 1 and report.n_utterances > 1 and config.validation_share > 0
    if is_one and not stated.has_validation:
        divided |= groups.found.keys()  # its utterances stay where they are if other speakers come later
        report.notes.append(
            f"{out}: all recordings have one speaker, '{min(groups.found)}': the validation split is by recording, and "
            "its scores do not show how a codec does with other speakers"
        )
    if is_one or stated.has_validation:
        groups = _Groups(divided)
        for record, reason in _records(out, names):
            if reason is None and stated.split_of(record) is None:
                groups.add(record)
    if stated.has_validation:
        before |= stated.speakers
    splits = assign_splits(groups.found, seed=config.split_seed, share=config.validation_share, before=before)
    return lambda record: stated.split_of(record) or splits[groups.name_of(record)]


@dataclass
class _Stated:
    """What lists state of splits. They count where any states a validation split: without one there is nothing to
    validate on, and a list of training data alone may say `train` in each row."""

    has_validation: bool = False
    speakers: dict[str, Split] = field(default_factory=dict)  # whose other recordings belong in the same split

    def add(self, record: Mapping[str, Any]) -> None:
        if split := record.get("stated_split"):
            self.has_validation |= split == "validation"
            if record["speaker"]:
                self.speakers.setdefault(record["speaker"], split)

    def split_of(self, record: Mapping[str, Any]) -> Split | None:
        """None: it is for us to choose."""
        return record.get("stated_split") if self.has_validation else None


class _Groups:
    """What is in one split as a whole: the utterances of a speaker, of several datasets too, which may be parts of one
    corpus. An utterance whose speaker is unknown or `divided` is a group of its own."""

    def __init__(self, divided: set[str]) -> None:
        self.found: dict[str, Group] = {}
        self._divided = divided

    def name_of(self, record: Mapping[str, Any]) -> str:
        speaker: str | None = record["speaker"]
        return record["id"] if not speaker or speaker in self._divided else speaker

    def add(self, record: Mapping[str, Any]) -> None:
        group = self.found.setdefault(self.name_of(record), Group(record["language"]))
        group.seconds += record["n_samples"] / SAMPLE_RATE


def _splits_before(out: Path, config: DataConfig) -> tuple[dict[str, Split], set[str]]:
    """The split of each speaker and utterance in the last run if seed and share are the same, and the speakers who were
    in both splits."""
    splits: dict[str, Split] = {}
    divided: set[str] = set()
    try:
        about = read_about(out)
        if (about["split_seed"], about["validation_share"]) == (config.split_seed, config.validation_share):
            for utterance in read_manifest(out / "manifest.jsonl"):
                speaker = utterance.speaker or utterance.id
                if splits.setdefault(speaker, utterance.split) != utterance.split:
                    divided.add(speaker)
                splits[utterance.id] = utterance.split
    except (CodecctlError, KeyError):
        pass  # the first run
    return splits, divided


def _records(out: Path, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """(record, None) for each item that is kept, (record, reason) for each that is rejected.

    Of items with the same samples the first is kept."""
    first: dict[str, str] = {}
    for name in names:
        for where, record in read_records(UnitFiles(out, name).results):
            reason = record.get("rejected")
            if reason is None and (twin := first.setdefault(record["digest"], record["id"])) != record["id"]:
                reason = f"same sound as {twin}"
            yield {**record, "where": where}, reason


def _rejected_lines(
    out: Path, names: Sequence[str], report: PrepareReport, groups: _Groups, stated: _Stated
) -> Iterator[str]:
    """The rejected recordings. Groups and counts the others on the way, since reading all results takes time."""
    for record, reason in _records(out, names):
        if reason is None:
            groups.add(record)
            stated.add(record)
            report.n_utterances += 1
        else:
            report.n_rejected += 1
            report.rejected[kind_of(reason)] += 1
            yield json_line({key: record[key] for key in ("id", "source", "dataset")} | {"reason": reason})


def kind_of(reason: str) -> str:
    """The reason without numbers and names, to count by: what precedes the first colon or bracket."""
    return "duplicate" if reason.startswith("same sound as ") else reason.partition(" (")[0].partition(":")[0]


def _count(report: PrepareReport, utterance: Utterance) -> None:
    report.seconds += utterance.seconds
    for key in _REPORTED:
        report.seconds_by[key][getattr(utterance, key) or "unknown"] += utterance.seconds
    n_khz, level_db = min(int(utterance.bandwidth_hz / 1000), 7), int(utterance.level_db // 10 * 10)
    report.seconds_by["bandwidth"][f"{n_khz} to {n_khz + 1} kHz"] += utterance.seconds
    report.seconds_by["level"][f"{level_db} to {level_db + 10} dB"] += utterance.seconds


class _RowCollector:
    """Utterances -> the index."""

    def __init__(self) -> None:
        names = ("shard", "dataset", "language", "licence", "speaker")
        # Each name is numbered when it first comes.
        self._names: dict[str, dict[Any, int]] = {key: defaultdict(itertools.count().__next__) for key in names}
        self._rows = bytearray()  # as tuples they would take ten times the memory

    def add(self, utterance: Utterance) -> None:
        numbers = {
            key: self._names[key][getattr(utterance, key)] for key in ("shard", "dataset", "language", "licence")
        }
        speaker = (utterance.speaker, utterance.speaker or utterance.id)
        numbers |= {"speaker": self._names["speaker"][speaker], "split": SPLITS.index(utterance.split)}
        row = tuple(numbers[key] if key in numbers else getattr(utterance, key) for key in ROW.names or ())
        self._rows += np.array(row, ROW).tobytes()

    def index(self) -> Index:
        shards, datasets, languages, licences, _ = (tuple(numbers) for numbers in self._names.values())
        return Index(np.frombuffer(self._rows, ROW), shards, datasets, languages, licences)


@dataclass
class Group:
    """What must not be divided between the splits: a speaker, or one utterance whose speaker is unknown."""

    language: str | None
    seconds: float = 0.0


def assign_splits(
    groups: Mapping[str, Group], *, seed: int, share: float, before: Mapping[str, Split] | None = None
) -> dict[str, Split]:
    """A split for each group: validation for about `share` of them, by a hash of (seed, group).

    Where the hash selects no group of a language for validation, its smallest one is taken if it has two or more, so
    that every language with two speakers is validated. Groups in `before`, from earlier runs, keep their split.
    """
    before = before or {}
    splits: dict[str, Split] = {
        name: before.get(name) or ("validation" if _uniform(seed, name) < share else "train") for name in sorted(groups)
    }
    if share <= 0 or not groups:
        return splits
    by_language = defaultdict(list)
    for name in splits:
        by_language[groups[name].language].append(name)
    for names in by_language.values():
        _move_one(names, splits, groups, before, to="validation")
    _move_one(list(splits), splits, groups, before, to="validation")
    _move_one(list(splits), splits, groups, before, to="train")
    return splits


def _move_one(
    names: Sequence[str],
    splits: dict[str, Split],
    groups: Mapping[str, Group],
    before: Mapping[str, Split],
    *,
    to: Split,
) -> None:
    """If the split `to` has none of two or more groups, move one of the new ones there: the smallest, or the largest
    for training."""
    new = sorted((name for name in names if name not in before), key=lambda name: (groups[name].seconds, name))
    if new and (len(names) > 1 or to == "train") and all(splits[name] != to for name in names):
        splits[new[-1] if to == "train" else new[0]] = to


def _uniform(seed: int, name: str) -> float:
    """A number in [0, 1) that follows from both."""
    digest = blake2b(to_bytes(f"{seed}\0{name}"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
