"""Files for codes: `.npy`, a plain numpy array, and `.cctl`, packed and tied to the model that made them. No torch.

`.npy` is uint16 [K, T], whole frames, with no model named and no checksum; for `.cctl` see `codecctl.bitstream`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from codecctl.audio.files import find_files
from codecctl.bitstream import VERSION, Codes, PackedHeader, PackedReader, PackedWriter, check_codes, is_packed
from codecctl.errors import CodecctlError
from codecctl.files import replacing
from codecctl.inference.container import FRAMES_PER_CHUNK, CodesFormat, Container, StoredCodes, check_fingerprint


class NpyWriter:
    """Keeps the codes in memory until the end: with 8 codebooks at 50 frames a second, 2.9 MB for an hour."""

    def __init__(self) -> None:
        self.n_samples: int | None = None
        self.codes: list[Codes] = []

    def write(self, codes: Codes) -> None:
        self.codes.append(codes)


@contextmanager
def _create_npy(path: Path, _: CodesFormat) -> Iterator[NpyWriter]:
    writer = NpyWriter()
    yield writer
    with replacing(path) as partial:
        partial.write_bytes(npy_bytes(np.concatenate(writer.codes, axis=1)))


@contextmanager
def _open_npy(path: Path, name: str, form: CodesFormat) -> Iterator[StoredCodes]:
    codes = load_npy(path, name)
    check_codes(codes, form.codebook_sizes, name=name)
    if not codes.size:
        raise CodecctlError(f"{name}: holds no codes")
    starts = range(0, codes.shape[1], FRAMES_PER_CHUNK)
    blocks = (codes[:, start : start + FRAMES_PER_CHUNK].astype(np.uint16) for start in starts)
    yield StoredCodes(len(codes), codes.shape[1] * form.hop_length, blocks)


def _describe_npy(path: Path, name: str) -> dict[str, Any]:
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


def _create_packed(path: Path, form: CodesFormat) -> PackedWriter:
    return PackedWriter(path, **form.named())


@contextmanager
def _open_packed(path: Path, name: str, form: CodesFormat) -> Iterator[StoredCodes]:
    with PackedReader(path, name=name) as reader:
        check_model(reader.header, name, form)
        reader.check()
        yield StoredCodes(reader.header.n_quantizers, reader.header.n_samples, reader)


def _describe_packed(path: Path, name: str) -> dict[str, Any]:
    """The file is read from end to end, so what is described is intact."""
    with PackedReader(path, name=name) as reader:
        reader.check()
        header = reader.header
    return {
        "kind": "packed codes",
        "format_version": VERSION,
        "fingerprint": header.fingerprint,
        "sample_rate": header.sample_rate,
        "hop_length": header.hop_length,
        "frame_rate": header.sample_rate / header.hop_length,
        "n_samples": header.n_samples,
        "seconds": header.seconds,
        "n_frames": header.n_frames,
        "codebook_sizes": header.codebook_sizes,
        "bits_per_frame": sum(header.bits),
        "frames_per_block": header.frames_per_block,
        "n_blocks": header.n_blocks,
        "n_bytes": header.n_file_bytes,
        "file_bitrate_kbps": 8 * header.n_file_bytes / header.seconds / 1000,
    }


def check_model(header: PackedHeader, name: str, form: CodesFormat) -> None:
    """Raises `CodecctlError` unless the codes are of this codec."""
    check_fingerprint(header.fingerprint, name, form.fingerprint)
    ours = (form.sample_rate, form.hop_length, form.codebook_sizes[: header.n_quantizers])
    if (header.sample_rate, header.hop_length, header.codebook_sizes) != ours:
        raise CodecctlError(
            f"{name}: the header names this model, but not its sample rate, hop length and codebooks; it is damaged"
        )


CONTAINERS: dict[str, Container] = {  # by suffix
    ".npy": Container(lambda start: start.startswith(b"\x93NUMPY"), _create_npy, _open_npy, _describe_npy),
    ".cctl": Container(is_packed, _create_packed, _open_packed, _describe_packed),
}


def recognise(start: bytes) -> Container | None:
    """The container of a file with these first bytes, if it is one."""
    return next((container for container in CONTAINERS.values() if container.recognise(start)), None)


def find_codes(folder: Path) -> list[Path]:
    """The files of codes below a folder, by suffix, in order."""
    return sorted(map(Path, find_files(folder, CONTAINERS)))
