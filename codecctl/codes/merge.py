"""The results of all units -> one manifest, one index, one list of failed recordings, and `codes.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.codes.folder import (
    ROW,
    SPLIT_NUMBERS,
    About,
    CodedUtterance,
    manifest_line,
    write_about,
    write_index,
)
from codecctl.data.prepare.units import UnitFiles
from codecctl.data.tables import read_records
from codecctl.errors import CodecctlError
from codecctl.files import remove_partials, write_lines
from codecctl.parsing import as_type

_PACKED = 10_000  # rows at a time: as tuples they take ten times the memory


def merge_units(out: Path, names: Sequence[str], about: About) -> About:
    """Complete a folder whose units are all done; returns its new `codes.json`."""
    write_about(out, about)  # a kill from here on leaves a folder that says that it is not complete
    failed = (record for record in _records(out, names) if "failed" in record)
    write_lines(out / "failed.jsonl", (manifest_line(record) for record in failed))
    merged = _Merged()
    write_lines(out / "manifest.jsonl", merged.lines(_records(out, names)))
    changes: dict[str, Any] = {"is_complete": True, "shards": tuple(merged.shards)}
    changes |= {key: getattr(merged, key) for key in ("n_utterances", "n_failed", "n_samples")}
    if about.container == "shards":
        changes["index"] = write_index(out, merged.rows())
    about = about.model_copy(update=changes)
    write_about(out, about)
    _tidy(out, about)
    return about


class _Merged:
    """Counts and collects the index on the way, since reading all results takes time."""

    def __init__(self) -> None:
        self.shards: list[str] = []
        self.n_utterances = self.n_failed = self.n_samples = 0
        self._parts: list[np.ndarray[Any, np.dtype[np.void]]] = []
        self._rows: list[tuple[int, ...]] = []

    def lines(self, records: Iterator[dict[str, Any]]) -> Iterator[str]:
        """The lines of the manifest; a shard's records are adjacent."""
        place = first_frame = 0
        for record in records:
            if "failed" in record:
                self.n_failed += 1
                continue
            if record["shard"] not in self.shards[-1:]:
                self.shards.append(record["shard"])
                first_frame = 0
            line, n_frames = manifest_line(record), record["n_frames"]
            numbers = (len(self.shards) - 1, record["row"], first_frame, n_frames, record["n_samples"], place)
            self._add(*numbers, SPLIT_NUMBERS[record["split"]])
            first_frame += n_frames
            place += len(line.encode(errors="backslashreplace"))
            yield line

    def _add(self, *row: int) -> None:
        self.n_utterances += 1
        self.n_samples += row[4]
        self._rows.append(row)
        if len(self._rows) == _PACKED:
            self._pack()

    def _pack(self) -> None:
        self._parts.append(np.array(self._rows, ROW))
        self._rows = []

    def rows(self) -> np.ndarray[Any, np.dtype[np.void]]:
        self._pack()
        return np.concatenate(self._parts)


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


def _tidy(out: Path, about: About) -> None:
    """Remove shards and indices that `codes.json` does not name, and temporary files of processes that have ended."""
    named = {*about.shards, about.index}
    for path in (*(out / "shards").iterdir(), *out.glob("index-*.npy")):
        if path.relative_to(out).as_posix() not in named and not path.name.startswith("."):
            path.unlink(missing_ok=True)
    for folder in (out, out / "shards", out / "units"):
        remove_partials(folder)
