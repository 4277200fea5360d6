"""Prepared audio: shards of raw little-endian 16-bit mono samples, memory-mapped, and one index of their utterances.

A prepared folder holds `prepared.json` (the shards, and the names that the index numbers), the index it names (a
structured `.npy`), `manifest.jsonl`, `rejected.jsonl`, `shards/` and `units/` (finished work, for the next `prepare`).
The utterances of a speaker are adjacent, so that a crop is one slice of a shard even where utterances are short.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from types import NoneType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from codecctl.audio import Audio
from codecctl.data import SAMPLE_RATE, SPLITS
from codecctl.errors import CodecctlError
from codecctl.files import partial_path, replacing, sync, write_json
from codecctl.parsing import load_json

FORMAT = "codecctl.prepared"
VERSION = 2
_PCM = np.dtype("<i2")
_MOST_SAMPLES = 2**40  # in a shard: two years
_N_MAPPED = 512  # shards kept open; each takes a file descriptor

# An utterance: its place, and the numbers of its names (see `Index`). An unknown speaker is a speaker of its own.
ROW = np.dtype([
    ("shard", "<u4"), ("first_sample", "<u8"), ("n_samples", "<u8"), ("speaker", "<u4"), ("dataset", "<u2"),
    ("language", "<u2"), ("licence", "<u2"), ("split", "u1"), ("bandwidth_hz", "<f4"), ("level_db", "<f4"),
])  # fmt: skip
Rows = NDArray[np.void]


@dataclass(frozen=True)
class Index:
    """The utterances of a prepared folder, and the names that their rows number."""

    rows: Rows  # [n_utterances] of ROW, in the order of the shards
    shards: tuple[str, ...]  # files in the folder
    datasets: tuple[str, ...]
    languages: tuple[str | None, ...]
    licences: tuple[str | None, ...]


class ShardWriter:
    """Appends mono audio as 16-bit samples to a new shard, which appears when the `with` block succeeds.

    `keep` or `drop` ends an utterance; a shard without utterances is not written.
    """

    def __init__(self, path_without_suffix: Path) -> None:
        self._base = path_without_suffix
        self._temporary = partial_path(self._base)
        self._file = open(self._temporary, "wb")  # noqa: SIM115  closed in __exit__
        self._names = blake2b(digest_size=6)
        self.n_samples = self.first_sample = 0  # `first_sample` is of the current utterance
        self._digest = sha256()
        self.path: Path | None = None  # set at the end, since the name contains a hash of the content

    def append(self, samples: NDArray[np.int16]) -> None:
        """`[L]`, the next samples of the current utterance."""
        data = np.ascontiguousarray(samples, _PCM).data
        self._digest.update(data)
        self._file.write(data)
        self.n_samples += len(samples)

    def keep(self) -> str:
        """Returns a hash of the utterance's samples."""
        digest = self._digest.hexdigest()[:32]
        self._names.update(digest.encode())
        self.first_sample, self._digest = self.n_samples, sha256()
        return digest

    def drop(self) -> None:
        self._file.seek(self.first_sample * _PCM.itemsize)
        self._file.truncate()
        self.n_samples, self._digest = self.first_sample, sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None and self.n_samples:
                sync(self._temporary)
                self.path = self._base.with_name(f"{self._base.name}-{self._names.hexdigest()}.pcm")
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


class ShardReader:
    """The samples of a prepared folder, through memory maps that are opened when first needed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._map = lru_cache(maxsize=_N_MAPPED)(self._open)

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.folder,)  # a copy in another process opens its own maps

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
    """16-bit samples -> float32 in [-1, 1), the same scale in training, validation and encoding."""
    return samples.astype(np.float32) * np.float32(1 / 32768)


def write_rows(folder: Path, rows: Rows) -> str:
    """Write a structured `.npy` under a name that follows from its content; returns that."""
    name = rows_name(rows)
    with replacing(folder / name) as partial, open(partial, "wb") as file:
        np.save(file, rows, allow_pickle=False)
    return name


def rows_name(rows: Rows) -> str:
    return f"index-{blake2b(rows.data, digest_size=6).hexdigest()}.npy"


def map_rows(path: Path, *, redo: str) -> Rows:
    """Such a file, memory-mapped. Raises `CodecctlError` that says to run `redo` again."""
    try:
        rows: Rows = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy passes on whatever Python's parser raises for a broken header
        raise CodecctlError(f"{path}: cannot be read ({' '.join(str(error).split())}); run {redo} again") from None
    return rows


def write_index(folder: Path, index: Index, **facts: Any) -> str:
    """Write the index, then `prepared.json`, so that a reader sees the old index or the new one; returns its name."""
    name = write_rows(folder, index.rows)
    names = {key: getattr(index, key) for key in ("shards", "datasets", "languages", "licences")}
    about = {"format": FORMAT, "version": VERSION, "sample_rate": SAMPLE_RATE, "index": name, **facts, **names}
    write_json(folder / "prepared.json", about)
    return name


def read_index(folder: str | Path) -> Index:
    """The index of a prepared folder. Raises `CodecctlError` if there is none, or one that does not fit its shards."""
    about = read_about(folder)
    where = Path(folder) / "prepared.json"
    names = {key: _names(about.get(key), key, where) for key in ("shards", "datasets", "languages", "licences")}
    (name,) = _names([about.get("index")], "index", where)
    path = where.with_name(name)
    rows = map_rows(path, redo="prepare")
    if rows.dtype != ROW or rows.ndim != 1:
        raise CodecctlError(f"{path}: is no index of this version of codecctl; run prepare again")
    index = Index(np.array(rows), **names)
    _check_rows(index, path)
    if rows_name(rows) != path.name:
        raise CodecctlError(f"{path}: damaged: its content is not that of its name; run prepare again")
    return index


def _names(value: Any, key: str, where: Path) -> tuple[Any, ...]:
    """What the rows of the index number: text, where a language or a licence is unknown None."""
    kinds = (str, NoneType) if key in ("languages", "licences") else str
    is_right = isinstance(value, list) and all(isinstance(name, kinds) for name in value)
    if is_right and key in ("shards", "index"):  # files in the folder
        is_right = all(re.fullmatch(r"(shards/)?[\w-][\w.-]*", name) for name in value)
    if not is_right:
        raise CodecctlError(f"{where}: '{key}' is not what prepare writes there; run prepare again")
    return tuple(value)


def _check_rows(index: Index, path: Path) -> None:
    """Raises `CodecctlError` for a row whose names or samples there cannot be."""
    names = {"shard": index.shards, "dataset": index.datasets, "language": index.languages, "licence": index.licences}
    limits = {key: len(there) for key, there in names.items()} | {"split": len(SPLITS)}
    limits |= {"first_sample": _MOST_SAMPLES, "n_samples": _MOST_SAMPLES}
    for key, limit in limits.items():
        if len(index.rows) and index.rows[key].max() >= limit:
            raise CodecctlError(f"{path}: damaged: '{key}' goes beyond {limit}; run prepare again")
    for key in ("bandwidth_hz", "level_db"):
        if not np.isfinite(index.rows[key]).all():
            raise CodecctlError(f"{path}: damaged: '{key}' is not finite; run prepare again")


def read_about(folder: str | Path) -> dict[str, Any]:
    """`prepared.json`. Raises `CodecctlError` if it is missing, damaged, or written by another version."""
    path = Path(folder) / "prepared.json"
    missing = (
        f"{folder}: holds no prepared audio; make a folder of it with `codecctl prepare SOURCE --out FOLDER`, or give "
        "another with --data"
    )
    about = load_json(path, dict[str, Any], missing=missing, hint="run prepare again")
    if about.get("format") != FORMAT:
        raise CodecctlError(f"{path}: was not written by codecctl prepare; prepare into a new folder")
    if (version := about.get("version")) != VERSION:
        age = "an older" if version in range(VERSION) else "another"
        raise CodecctlError(f"{path}: prepared by {age} version of codecctl; run prepare again, into a new folder")
    return about


def run_edges(rows: Rows) -> NDArray[np.intp]:
    """`[n_runs + 1]`: a run is a sequence of adjacent utterances of one speaker, split and shard."""
    if not len(rows):
        return np.zeros(1, np.intp)
    before, after = rows[:-1], rows[1:]
    joined = before["first_sample"] + before["n_samples"] == after["first_sample"]
    for key in ("shard", "speaker", "split", "dataset", "language", "licence"):
        joined &= before[key] == after[key]
    return np.concatenate([[0], np.flatnonzero(~joined) + 1, [len(rows)]])
