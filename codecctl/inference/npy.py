"""Codes as a plain numpy array, `.npy`: uint16 [K, T], whole frames, no model named and no checksum."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.bitstream import Codes, check_codes
from codecctl.errors import CodecctlError
from codecctl.files import replacing
from codecctl.inference.container import FRAMES_PER_CHUNK, CodesFormat, Container, StoredCodes

_MAGIC = b"\x93NUMPY"


class NpyWriter:
    """Keeps the codes in memory until the end: with 8 codebooks at 50 frames a second, 2.9 MB for an hour."""

    def __init__(self) -> None:
        self.n_samples: int | None = None
        self.codes: list[Codes] = []

    def write(self, codes: Codes) -> None:
        self.codes.append(codes)


@contextmanager
def _create(path: Path, _: CodesFormat) -> Iterator[NpyWriter]:
    writer = NpyWriter()
    yield writer
    with replacing(path) as partial:
        partial.write_bytes(npy_bytes(np.concatenate(writer.codes, axis=1)))


@contextmanager
def _open(path: Path, name: str, form: CodesFormat) -> Iterator[StoredCodes]:
    codes = load_npy(path, name)
    check_codes(codes, form.codebook_sizes, name=name)
    if not codes.size:
        raise CodecctlError(f"{name}: holds no codes")
    starts = range(0, codes.shape[1], FRAMES_PER_CHUNK)
    blocks = (codes[:, start : start + FRAMES_PER_CHUNK].astype(np.uint16) for start in starts)
    yield StoredCodes(len(codes), codes.shape[1] * form.hop_length, blocks)


def _describe(path: Path, name: str) -> dict[str, Any]:
    codes = load_npy(path, name)
    facts: dict[str, Any] = {"kind": "array", "dtype": str(codes.dtype), "shape": codes.shape}
    if codes.ndim == 2 and codes.size and codes.dtype.kind in "iu":
        facts |= {
            "kind": "codes",
            "n_quantizers": codes.shape[0],
            "n_frames": codes.shape[1],
            "largest_codes": codes.max(axis=1).tolist(),
        }
    return facts | {"n_bytes": path.stat().st_size, "not_stored": "model, length of the audio, checksum"}


def load_npy(path: Path, name: str) -> np.memmap[Any, Any]:
    """The array of a `.npy` file, memory-mapped: a header that claims too much allocates nothing.

    Raises `CodecctlError` for a file that cannot be read, or is longer than its array.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy passes on whatever Python's parser raises for a broken header
        raise CodecctlError(f"{name}: cannot be read as .npy ({' '.join(str(error).split())})") from None
    n_more = path.stat().st_size - array.offset - array.nbytes
    if n_more > 0:
        raise CodecctlError(f"{name}: {n_more} bytes too many after its array")
    return array


def npy_bytes(codes: Codes) -> bytes:
    """The array as the content of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    return buffer.getvalue()


NPY = Container(lambda start: start.startswith(_MAGIC), _create, _open, _describe)
