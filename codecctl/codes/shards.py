"""The container `shards`: safetensors files that are memory-mapped, so that an utterance is read without its shard.

A file holds `codes`, uint16 `[T, K]` with the utterances one after the other, and `first_frame`, int64 `[N + 1]`, where
each one starts and the last one ends. The header is the JSON text of the metadata `codecctl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from codecctl.bitstream import Codes
from codecctl.codes.container import ShardContainer, ShardHeader, check_shard, damaged, reading
from codecctl.codes.folder import About, Coded

_N_MAPPED = 256  # shards kept open; each takes a file descriptor


class ShardReader:
    """The codes of a folder's shards, which are mapped and compared with their checksums when they are first needed."""

    def __init__(self, folder: Path, about: About) -> None:
        self._folder, self._about = folder, about
        self._map = lru_cache(maxsize=_N_MAPPED)(self._open)
        self._intact = set[str]()  # shards whose checksum was compared

    def codes(self, shard: str, first_frame: int, n_frames: int, n_codebooks: int | None = None) -> Codes:
        """uint16 `[K, T]`. Raises `CodecctlError` for a shard that is missing, damaged or of another model."""
        codes = self._map(shard)
        if first_frame + n_frames > codes.get_shape()[0]:
            raise damaged(self._folder / shard, "it is too short for its index")
        rows: Codes = codes[first_frame : first_frame + n_frames, :n_codebooks]
        return rows.T

    def _open(self, shard: str) -> Any:
        path = self._folder / shard
        if shard not in self._intact:
            check_shard(path, *_read(path), self._about)
            self._intact.add(shard)
        return _open_shard(path)[0].get_slice("codes")


def _open_shard(path: Path) -> tuple[Any, ShardHeader]:
    """A file of safetensors, mapped, and its header. Raises `CodecctlError` for one that is missing or damaged."""
    with reading(path, safetensors.SafetensorError):
        file: Any = safetensors.safe_open(path, "numpy")
        return file, ShardHeader.parse((file.metadata() or {}).get("codecctl"), path)


def _write(path: Path, header: ShardHeader, utterances: Sequence[Coded]) -> None:
    codes = [codes.T for _, codes in utterances]
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "codes": np.ascontiguousarray(np.concatenate(codes)),
        "first_frame": np.cumsum([0, *map(len, codes)], dtype=np.int64),
    }
    path.write_bytes(safetensors.numpy.save(tensors, {"codecctl": header.model_dump_json()}))


def _read(path: Path) -> tuple[ShardHeader, list[Codes]]:
    file, header = _open_shard(path)
    with reading(path, safetensors.SafetensorError):
        codes, first_frame = file.get_tensor("codes"), file.get_tensor("first_frame")
    is_right = codes.dtype == np.uint16 and codes.ndim == 2 and first_frame.dtype == np.int64
    if not is_right or first_frame[0] != 0 or first_frame[-1] != len(codes) or (np.diff(first_frame) < 0).any():
        raise damaged(path, "its tensors are not those of a shard")
    return header, [each.T for each in np.split(codes, first_frame[1:-1])]


SHARDS = ShardContainer(".safetensors", _write, _read)
