"""A corpus read from end to end, in any container, and checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codecctl.bitstream import Codes
from codecctl.codes.container import check_shard
from codecctl.codes.containers import CONTAINERS
from codecctl.codes.folder import About, CodedUtterance, read_complete, read_index, read_manifest
from codecctl.errors import CodecctlError, UsageError
from codecctl.evaluate.codebooks import CodebookCounter, CodebookStats

Progress = Callable[[int, int], object]  # utterances done, utterances in all


@dataclass
class CorpusCheck:
    """What a folder holds, and what is wrong with it."""

    about: About
    codebooks: list[CodebookStats] = field(default_factory=list)
    seconds_by: dict[str, dict[str, float]] = field(default_factory=lambda: {"split": {}, "language": {}})
    """By split and by language, 'unknown' where none is stated."""
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For `files.to_json`."""
        about = self.about.model_dump(exclude={"format", "version", "is_complete", "index", "shards"})
        found = {key: value for key, value in asdict(self).items() if key != "about"}
        return {**about, "n_shards": len(self.about.shards), "seconds": self.about.seconds, **found}


def read_utterances(
    folder: Path, about: About, ids: Collection[str] | None = None
) -> Iterator[tuple[CodedUtterance, Codes]]:
    """The utterances of a folder with their codes, uint16 `[K, T]`, or those with these ids, shard by shard.

    Each shard that is read is checked whole. Raises `CodecctlError` for one that is damaged or does not fit the
    manifest, and for an id that is not there, before the first shard.
    """
    if ids is not None:
        missing = set(ids) - {utterance.id for utterance in read_manifest(folder)}
        if missing:
            raise CodecctlError(f"{folder}: holds no utterance '{min(missing)}'; manifest.jsonl there lists the ids")
    for shard, group in groupby(read_manifest(folder), key=lambda utterance: utterance.shard):
        chosen = [utterance for utterance in group if ids is None or utterance.id in ids]
        if chosen:
            yield from _read_shard(folder, about, shard, chosen)


def check_corpus(folder: Path, on_progress: Progress | None = None) -> CorpusCheck:
    """Read a folder from end to end: its shards, manifest and index fit each other and are intact.

    `problems` has a line for each shard that is not. Raises `CodecctlError` for a folder that is not complete.
    """
    check = CorpusCheck(read_complete(folder))
    about, n_done = check.about, 0
    if about.container == "shards":
        _check_index(folder, check)
    counter = CodebookCounter(about.codebook_sizes, pairs=True)
    for shard, group in groupby(read_manifest(folder), key=lambda utterance: utterance.shard):
        utterances = list(group)
        try:
            for utterance, codes in _read_shard(folder, about, shard, utterances):
                counter.update(torch.from_numpy(codes.astype(np.int64))[None])
                for key, seconds in check.seconds_by.items():
                    name = getattr(utterance, key) or "unknown"
                    seconds[name] = seconds.get(name, 0.0) + utterance.seconds
        except UsageError:  # a package is missing
            raise
        except CodecctlError as error:
            check.problems.append(str(error))
        n_done += len(utterances)
        if on_progress:
            on_progress(n_done, about.n_utterances)
    if n_done != about.n_utterances:
        check.problems.append(f"{folder / 'manifest.jsonl'}: {n_done} lines, codes.json says {about.n_utterances}")
    check.codebooks = counter.stats()
    return check


def _read_shard(
    folder: Path, about: About, shard: str, utterances: list[CodedUtterance]
) -> Iterator[tuple[CodedUtterance, Codes]]:
    if shard not in about.shards:
        raise CodecctlError(f"{folder / 'manifest.jsonl'}: names {shard!r}, which codes.json does not")
    header, codes = CONTAINERS[about.container].read(folder / shard)
    check_shard(folder / shard, header, codes, about)
    for utterance in utterances:
        if utterance.row >= len(codes) or codes[utterance.row].shape[1] != utterance.n_frames:
            raise CodecctlError(f"{folder / shard}: does not fit the manifest at {utterance.id!r}; run encode again")
        yield utterance, codes[utterance.row]


def _check_index(folder: Path, check: CorpusCheck) -> None:
    try:
        rows = read_index(folder, check.about)
    except CodecctlError as error:
        check.problems.append(str(error))
        return
    keys, n_lines, fits = ("row", "n_frames", "n_samples"), 0, True
    for row, utterance in zip(rows, read_manifest(folder), strict=False):
        fits &= all(row[key] == getattr(utterance, key) for key in keys)
        n_lines += 1
    if not fits or n_lines != len(rows):
        check.problems.append(f"{folder / (check.about.index or '')}: does not fit the manifest; run encode again")
