"""Prepared audio: raw little-endian 16-bit mono shards, memory-mapped, and one index of what lies where.

A prepared folder holds `prepared.json` (the shards, and the names that the index numbers), the index it points to (a
structured `.npy`), `manifest.jsonl`, `rejected.jsonl`, `shards/` and `units/` (what is done, for the next `prepare`).
The utterances of a speaker lie one behind the other, so that a crop is one slice of a shard even where clips are short.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from codecctl.audio.files import Audio
from codecctl.data.manifest import SAMPLE_RATE, write_lines
from codecctl.errors import CodecctlError
from codecctl.files import replacing

FORMAT = "codecctl.prepared"
VERSION = 1
_PCM = np.dtype("<i2")
_N_MAPPED = 512  # shards kept open; each costs a file descriptor

# An utterance: where it lies, and the numbers of its names (see `Index`). An unknown speaker is a speaker of its own.
ROW = np.dtype([
    ("shard", "<u4"), ("first_sample", "<u8"), ("n_samples", "<u8"), ("speaker", "<u4"), ("dataset", "<u2"),
    ("language", "<u2"), ("licence", "<u2"), ("split", "u1"), ("bandwidth_hz", "<f4"), ("level_db", "<f4"),
])  # fmt: skip
Rows = NDArray[np.void]


@dataclass(frozen=True)
class Index:
    """What lies where in a prepared folder."""

    rows: Rows  # [n_utterances] of ROW, in the order of the shards
    shards: tuple[str, ...]  # files in the folder
    datasets: tuple[str, ...]
    languages: tuple[str | None, ...]
    licences: tuple[str | None, ...]


class ShardWriter:
    """Appends float32 mono audio as 16-bit samples to a new shard, which appears when the `with` block ends well.

    `start` opens an utterance and `drop` takes the open one back; a shard in which nothing is left is not written.
    """

    def __init__(self, path_without_suffix: Path) -> None:
        self._base = path_without_suffix
        self._temporary = self._base.with_name(f".{self._base.name}.{os.getpid()}.partial")
        self._file = open(self._temporary, "wb")  # noqa: SIM115  closed in __exit__
        self._names = blake2b(digest_size=6)
        self.n_samples = self.first_sample = 0
        self._digest = sha256()
        self.path: Path | None = None  # known at the end: the name carries a hash of the content

    def start(self) -> None:
        self.first_sample = self.n_samples
        self._digest = sha256()

    def append(self, samples: NDArray[np.int16]) -> None:
        """`[L]`, more of the open utterance."""
        data = np.ascontiguousarray(samples, _PCM).data
        self._digest.update(data)
        self._file.write(data)
        self.n_samples += len(samples)

    def keep(self) -> str:
        """Close the open utterance; returns a hash of its samples."""
        digest = self._digest.hexdigest()[:32]
        self._names.update(digest.encode())
        return digest

    def drop(self) -> None:
        self._file.seek(self.first_sample * _PCM.itemsize)
        self._file.truncate()
        self.n_samples = self.first_sample

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.n_samples:
                self._file.flush()
                os.fsync(self._file.fileno())
                self.path = self._base.with_name(f"{self._base.name}-{self._names.hexdigest()}.pcm")
            self._file.close()
            if self.path:
                os.replace(self._temporary, self.path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class ShardReader:
    """The samples of a prepared folder, through memory maps that are opened when they are first needed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._map = lru_cache(maxsize=_N_MAPPED)(self._open)

    def samples(self, shard: str, first_sample: int, n_samples: int) -> NDArray[np.int16]:
        """`[L]`, a view of the file. Raises `CodecctlError` if the shard is missing or too short."""
        found = self._map(shard)[first_sample : first_sample + n_samples]
        if len(found) != n_samples:
            raise CodecctlError(f"{self.folder / shard}: is cut off; run prepare again")
        return found

    def _open(self, shard: str) -> NDArray[np.int16]:
        try:
            return np.memmap(self.folder / shard, _PCM, "r")
        except (OSError, ValueError) as error:
            raise CodecctlError(f"{self.folder / shard}: cannot be read ({error}); run prepare again") from None


def to_float(samples: NDArray[np.int16]) -> Audio:
    """16-bit samples -> float32 in [-1, 1): the one level rule, the same in training, validation and encoding."""
    return samples.astype(np.float32) * np.float32(1 / 32768)


def write_index(folder: Path, index: Index, **facts: Any) -> None:
    """Write the index; `prepared.json` comes last, so that a reader sees the old one or the new one."""
    name = f"index-{blake2b(index.rows.tobytes(), digest_size=6).hexdigest()}.npy"
    with replacing(folder / name) as partial, open(partial, "wb") as file:
        np.save(file, index.rows, allow_pickle=False)
    names = {
        "shards": index.shards,
        "datasets": index.datasets,
        "languages": index.languages,
        "licences": index.licences,
    }
    about = {"format": FORMAT, "version": VERSION, "sample_rate": SAMPLE_RATE, "index": name, **facts, **names}
    write_lines(folder / "prepared.json", [json.dumps(about, ensure_ascii=False, indent=1) + "\n"])
    for old in folder.glob("index-*.npy"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read_index(folder: str | Path) -> Index:
    """The index of a prepared folder. Raises `CodecctlError` if there is none or another version wrote it."""
    about = read_about(folder)
    try:
        rows = np.load(Path(folder) / about["index"], allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CodecctlError(f"{Path(folder) / about['index']}: cannot be read ({error}); run prepare again") from None
    if rows.dtype != ROW:
        raise CodecctlError(f"{Path(folder) / about['index']}: another version wrote this; prepare into a new folder")
    names = {key: tuple(about[key]) for key in ("shards", "datasets", "languages", "licences")}
    return Index(rows, **names)


def read_about(folder: str | Path) -> dict[str, Any]:
    """`prepared.json`. Raises `CodecctlError` if it is missing or not ours."""
    path = Path(folder) / "prepared.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CodecctlError(
            f"{folder}: holds no prepared audio; make some with `codecctl prepare SOURCE --out {folder}`"
        ) from None
    except (OSError, ValueError) as error:
        raise CodecctlError(f"{path}: cannot be read ({error}); run prepare again") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("version") != VERSION:
        raise CodecctlError(f"{path}: not what this version of codecctl writes; prepare into a new folder")
    return about


def run_edges(rows: Rows) -> NDArray[np.intp]:
    """`[n_runs + 1]`: a run is a stretch of utterances of one speaker, split and shard that follow without a gap."""
    if not len(rows):
        return np.zeros(1, np.intp)
    before, after = rows[:-1], rows[1:]
    joined = before["first_sample"] + before["n_samples"] == after["first_sample"]
    for key in ("shard", "speaker", "split", "dataset", "language", "licence"):
        joined &= before[key] == after[key]
    return np.concatenate([[0], np.flatnonzero(~joined) + 1, [len(rows)]])
