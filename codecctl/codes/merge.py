"""The results of all units -> one manifest, one index, one list of failed recordings, and `codes.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.codes.folder import ROW, SPLIT_NUMBERS, About, CodedUtterance, write_about
from codecctl.data.prepare.units import UnitFiles, tidy
from codecctl.data.shards import write_rows
from codecctl.data.tables import json_line, read_records
from codecctl.errors import CodecctlError
from codecctl.files import write_lines
from codecctl.parsing import as_type


def merge_units(out: Path, names: Sequence[str], about: About) -> About:
    """Complete a folder whose units are all done; returns its new `codes.json`."""
    write_about(out, about)  # a kill from here on leaves a folder that says that it is not complete
    failed = (record for record in _records(out, names) if "failed" in record)
    write_lines(out / "failed.jsonl", map(json_line, failed))
    shards, counts, rows = list[str](), Counter[str](), bytearray()
    write_lines(out / "manifest.jsonl", _lines(_records(out, names), shards, counts, rows))
    changes: dict[str, Any] = {"is_complete": True, "shards": tuple(shards), **counts}
    if about.container == "shards":
        changes["index"] = write_rows(out, np.frombuffer(rows, ROW))
    about = about.model_copy(update=changes)
    write_about(out, about)
    tidy(out, names, {*about.shards, about.index})
    return about


def _lines(
    records: Iterator[dict[str, Any]], shards: list[str], counts: Counter[str], rows: bytearray
) -> Iterator[str]:
    """The lines of the manifest; a shard's records are adjacent. Adds to shards, counts and the rows of the index on
    the way, since reading all results takes time."""
    place = first_frame = 0
    for record in records:
        if "failed" in record:
            counts["n_failed"] += 1
            continue
        if record["shard"] not in shards[-1:]:
            shards.append(record["shard"])
            first_frame = 0
        line, n_frames, n_samples = json_line(record), record["n_frames"], record["n_samples"]
        split = SPLIT_NUMBERS[record["split"]]
        row = (len(shards) - 1, record["row"], first_frame, n_frames, n_samples, place, split)
        rows += np.array(row, ROW).tobytes()  # as tuples they would take ten times the memory
        counts.update(n_utterances=1, n_samples=n_samples)
        first_frame += n_frames
        place += len(line.encode(errors="backslashreplace"))
        yield line


def _records(out: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Raises `CodecctlError` for damaged results; the next run encodes those recordings again."""
    for name in names:
        files = UnitFiles(out, name)
        try:
            for where, record in read_records(files.results):
                if "failed" not in record:
                    as_type(CodedUtterance, record, where)
                yield record
        except CodecctlError as error:
            files.marker.unlink(missing_ok=True)
            raise CodecctlError(f"{error}; run the same command again") from None
