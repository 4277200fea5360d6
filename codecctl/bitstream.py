"""The packed file `.cctl`: codes in exactly the bits they need, with checksums, random access and the model's name.

All numbers are little-endian. A header, then blocks of `frames_per_block` frames, the last one shorter:

| bytes | what |
|---|---|
| 4 | magic, `CCTL` |
| 2, 2 | format version, length of the header with its CRC (magic, version and length stay in place in every version) |
| 8 | fingerprint of the model |
| 4, 4, 8 | sample rate in Hz, hop length in samples, number of samples |
| 4 | frames per block, a multiple of 8, so that a full block is whole bytes |
| 1, K | number of codebooks K, bits of each |
| 4 | CRC32 of everything before |

A block holds its codes, frame after frame and in each frame codebook after codebook, highest bit first, padded with
zeros to a whole byte; then the CRC32 of the fingerprint, the block's number and those bytes, so that blocks of another
file or in another order are detected too. The header determines the size of the file exactly.
"""

from __future__ import annotations

import collections
import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError
from codecctl.files import replacing

Codes = NDArray[np.uint16]

MAGIC = b"CCTL"
VERSION = 1
FRAMES_PER_BLOCK = 400  # 8 seconds at 50 frames a second
MAX_FRAMES_PER_BLOCK = 8192  # with 255 codebooks of 16 bits a block stays below 5 MB, whatever a header claims
MAX_CODEBOOKS = 255
STREAMED = 2**64 - 1  # number of samples in the header of a stream: its end mark has the true one

_START = struct.Struct("<4sHH")
_FIELDS = struct.Struct("<8sIIQIB")
_CRC = struct.Struct("<I")
_AGAIN = "copy the file again from where it came"


@dataclass(frozen=True)
class PackedHeader:
    """The header of a packed file. Raises `CodecctlError` for values that no file can have."""

    fingerprint: str  # 16 hex digits
    sample_rate: int  # Hz
    hop_length: int  # samples a frame
    codebook_sizes: tuple[int, ...]  # of the codebooks used
    n_samples: int
    frames_per_block: int = FRAMES_PER_BLOCK

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise CodecctlError(f"no packed file can have {problem}")

    def _problem(self) -> str | None:
        if len(self.fingerprint) != 16 or set(self.fingerprint) - set("0123456789abcdef"):
            return f"the fingerprint {self.fingerprint!r}: it must be 16 hex digits"
        if not 1 <= len(self.codebook_sizes) <= MAX_CODEBOOKS:
            return f"{len(self.codebook_sizes)} codebooks: 1 to {MAX_CODEBOOKS} are possible"
        for size in self.codebook_sizes:
            if not 2 <= size <= 65536 or size & (size - 1):
                return f"a codebook of {size} codewords: it must be a power of two from 2 to 65536"
        if not 8 <= self.frames_per_block <= MAX_FRAMES_PER_BLOCK or self.frames_per_block % 8:
            return f"blocks of {self.frames_per_block} frames: a multiple of 8 up to {MAX_FRAMES_PER_BLOCK} is possible"
        for name, n_bits in (("sample_rate", 32), ("hop_length", 32), ("n_samples", 64)):
            if not 1 <= getattr(self, name) < 1 << n_bits:
                return f"{name} {getattr(self, name)}: it must be positive and fit into {n_bits} bits"
        return None

    @property
    def n_quantizers(self) -> int:
        return len(self.codebook_sizes)

    @property
    def bits(self) -> tuple[int, ...]:
        """Of one code of each codebook."""
        return tuple(size.bit_length() - 1 for size in self.codebook_sizes)

    @property
    def n_frames(self) -> int:
        return -(-self.n_samples // self.hop_length)

    @property
    def n_blocks(self) -> int:
        return -(-self.n_frames // self.frames_per_block)

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def n_header_bytes(self) -> int:
        return _START.size + _FIELDS.size + self.n_quantizers + _CRC.size

    @property
    def n_file_bytes(self) -> int:
        return self.block_start(self.n_blocks - 1) + self.n_block_bytes(self.n_blocks - 1) + _CRC.size

    def block_start(self, block: int) -> int:
        """Offset of the block in the file."""
        full = self.frames_per_block * sum(self.bits) // 8 + _CRC.size
        return self.n_header_bytes + block * full

    def block_frames(self, block: int) -> int:
        return min(self.frames_per_block, self.n_frames - block * self.frames_per_block)

    def n_block_bytes(self, block: int) -> int:
        """The block's packed codes, without its CRC."""
        return -(-self.block_frames(block) * sum(self.bits) // 8)

    def block_crc(self, block: int, packed: bytes) -> bytes:
        place = zlib.crc32(bytes.fromhex(self.fingerprint) + struct.pack("<Q", block))
        return _CRC.pack(zlib.crc32(packed, place))

    def to_bytes(self) -> bytes:
        lengths = (self.sample_rate, self.hop_length, self.n_samples, self.frames_per_block, self.n_quantizers)
        head = _START.pack(MAGIC, VERSION, self.n_header_bytes)
        head += _FIELDS.pack(bytes.fromhex(self.fingerprint), *lengths) + bytes(self.bits)
        return head + _CRC.pack(zlib.crc32(head))


def is_packed(first_bytes: bytes) -> bool:
    """Whether a file with these first bytes is a packed one, complete or not."""
    return first_bytes.startswith(MAGIC)


def pack_codes(codes: NDArray[Any], bits: tuple[int, ...]) -> bytes:
    """`[K, T]` codes, code k below 2 ** bits[k] -> ceil(T * sum(bits) / 8) bytes."""
    wide = np.ascontiguousarray(codes.T, dtype=">u2").view(np.uint8)  # [T, 2K]
    return np.packbits(np.unpackbits(wide, axis=1)[:, _used_columns(bits)]).tobytes()


def unpack_codes(packed: bytes, bits: tuple[int, ...], n_frames: int) -> Codes:
    """The inverse of `pack_codes` -> uint16 `[K, n_frames]`."""
    used = _used_columns(bits)
    narrow = np.unpackbits(np.frombuffer(packed, np.uint8), count=n_frames * len(used)).reshape(n_frames, len(used))
    wide = np.zeros((n_frames, 16 * len(bits)), np.uint8)
    wide[:, used] = narrow
    return np.ascontiguousarray(np.packbits(wide, axis=1).view(">u2").T, dtype=np.uint16)  # [K, T]


def _used_columns(bits: tuple[int, ...]) -> NDArray[np.intp]:
    """The columns of bits that can be set, of 16 bits for each codebook's code, highest first."""
    return np.concatenate([np.arange(16 * k + 16 - n_bits, 16 * k + 16) for k, n_bits in enumerate(bits)])


class PackedWriter:
    """Writes a packed file in constant memory; the file appears when the `with` block ends without an error.

    `n_samples` may be set until then, since it is seldom known earlier; by default all frames count in full. After an
    exception in the block the folder is as it was.
    """

    def __init__(self, path: Path | str, **header: Any) -> None:
        """`header`: the fields of `PackedHeader` but for the number of samples."""
        self.path = Path(path)
        self.n_samples: int | None = None
        self.n_frames = 0
        self._header = PackedHeader(**header, n_samples=1)  # until the number is known
        self._pending = np.empty((self._header.n_quantizers, self._header.frames_per_block), np.uint16)  # one block
        with contextlib.ExitStack() as stack:
            self._file: BinaryIO = open(stack.enter_context(replacing(self.path)), "wb")  # noqa: SIM115  see _close
            stack.callback(self._close)
            stack.push(self._finish)
            self._stack = stack.pop_all()
        self._file.write(bytes(self._header.n_header_bytes))  # reserves its place until the numbers are known

    def write(self, codes: NDArray[Any]) -> None:
        """Append integer codes `[K, t]`, any t including 0. Raises `CodecctlError` for a wrong shape or code."""
        check_codes(codes, self._header.codebook_sizes, name=str(self.path))
        if len(codes) != self._header.n_quantizers:
            raise CodecctlError(f"{self.path}: {len(codes)} codebooks in a file of {self._header.n_quantizers}")
        done, size = 0, self._header.frames_per_block
        while done < codes.shape[1]:
            filled = self.n_frames % size
            piece = codes[:, done : done + size - filled]
            self._pending[:, filled : filled + piece.shape[1]] = piece
            done += piece.shape[1]
            self.n_frames += piece.shape[1]
            if self.n_frames % size == 0:
                self._write_block(size)

    def _write_block(self, n_frames: int) -> None:
        block = (self.n_frames - 1) // self._header.frames_per_block
        packed = pack_codes(self._pending[:, :n_frames], self._header.bits)
        self._file.write(packed + self._header.block_crc(block, packed))

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if rest := self.n_frames % self._header.frames_per_block:
            self._write_block(rest)
        n_samples = self.n_frames * self._header.hop_length if self.n_samples is None else self.n_samples
        if self.n_frames == 0 or -(-n_samples // self._header.hop_length) != self.n_frames:
            raise CodecctlError(f"{self.path}: {n_samples} samples do not match {self.n_frames} frames")
        self._file.seek(0)
        self._file.write(replace(self._header, n_samples=n_samples).to_bytes())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes; a full disk was reported before
            self._file.close()


class PackedReader:
    """Reads a packed file in order or from any frame, a block at a time.

    Opening checks the header and the file's size; reading checks the CRC of each block read. Any damage raises a
    `CodecctlError` that names the file and the place. `source` is a path or a seekable binary file.
    """

    def __init__(self, source: Path | str | BinaryIO, *, name: str | None = None) -> None:
        self._owns_file = isinstance(source, Path | str)
        self.name = name or (str(source) if self._owns_file else "packed codes")
        self._file = open(source, "rb") if isinstance(source, Path | str) else source  # noqa: SIM115  closed by close
        try:
            self._file.seek(0)
            self.header = read_header(self._file, self.name)
            self._check_size()
        except BaseException:
            self.close()
            raise

    def _check_size(self) -> None:
        if self.header.n_samples == STREAMED:
            raise CodecctlError(f"{self.name}: a stream; decode it with `codecctl decode - --stream < {self.name}`")
        size, expected = self._file.seek(0, os.SEEK_END), self.header.n_file_bytes
        if size < expected:
            seconds = self.header.seconds
            raise CodecctlError(
                f"{self.name}: truncated: {size} of {expected} bytes, about {seconds * size / expected:.1f} "
                f"of {seconds:.1f} s; {_AGAIN}"
            )
        if size > expected:
            raise CodecctlError(f"{self.name}: {size - expected} bytes too many after the {expected} of the codes")

    def read(self, start: int = 0, stop: int | None = None) -> Codes:
        """Frames [start, stop) -> `[K, stop - start]`; reads only the blocks that contain them."""
        stop = self.header.n_frames if stop is None else stop
        if not 0 <= start <= stop <= self.header.n_frames:
            raise CodecctlError(f"{self.name}: has {self.header.n_frames} frames, not {start} to {stop}")
        if start == stop:
            return np.empty((self.header.n_quantizers, 0), np.uint16)
        size = self.header.frames_per_block
        first, last = start // size, (stop - 1) // size
        blocks = np.concatenate([self.read_block(block) for block in range(first, last + 1)], axis=1)
        return blocks[:, start - first * size : stop - first * size]

    def read_block(self, block: int) -> Codes:
        """Block number `block` -> `[K, t]`. Raises `CodecctlError` that names block and time if it is damaged."""
        header, n_bytes = self.header, self.header.n_block_bytes(block)
        self._file.seek(header.block_start(block))
        data = self._file.read(n_bytes + _CRC.size)
        packed, crc = data[:n_bytes], data[n_bytes:]
        if crc != header.block_crc(block, packed):
            frame_seconds = header.hop_length / header.sample_rate
            start = block * header.frames_per_block * frame_seconds
            stop = start + header.block_frames(block) * frame_seconds
            raise CodecctlError(
                f"{self.name}: block {block} of {header.n_blocks} ({start:.2f} to {stop:.2f} s) is damaged: "
                f"its CRC differs; {_AGAIN}"
            )
        return unpack_codes(packed, header.bits, header.block_frames(block))

    def __iter__(self) -> Iterator[Codes]:
        """All blocks in order, each `[K, t]`."""
        return map(self.read_block, range(self.header.n_blocks))

    def check(self) -> None:
        """Read everything once. Raises `CodecctlError` for the first damaged block."""
        collections.deque(self, maxlen=0)

    def close(self) -> None:
        if self._owns_file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_codes(codes: NDArray[Any], codebook_sizes: tuple[int, ...], *, name: str) -> None:
    """Raises `CodecctlError` unless `codes` are integers `[K, T]`, 1 <= K <= all codebooks, in range."""
    if codes.dtype.kind not in "iu":
        raise CodecctlError(f"{name}: codes must be integers, got {'records' if codes.dtype.names else codes.dtype}")
    if codes.ndim != 2:
        raise CodecctlError(f"{name}: codes must have two axes, codebooks x frames, got the shape {codes.shape}")
    if not 1 <= len(codes) <= len(codebook_sizes):
        raise CodecctlError(f"{name}: codes [K, T] of {len(codes)} codebooks, but there are {len(codebook_sizes)}")
    for k, (row, size) in enumerate(zip(codes, codebook_sizes, strict=False)):
        bad = np.flatnonzero((row < 0) | (row >= size))
        if len(bad):
            raise CodecctlError(
                f"{name}: codebook {k + 1} has codes from 0 to {size - 1}, but frame {bad[0]} holds {row[bad[0]]}"
            )


def read_header(file: BinaryIO, name: str) -> PackedHeader:
    """The header, read up to its last byte. Raises `CodecctlError` that says what is wrong with it."""
    start = file.read(_START.size)
    if not is_packed(start):
        raise CodecctlError(f"{name}: not a packed file: it does not start with {MAGIC.decode()}")
    if len(start) < _START.size:
        raise CodecctlError(f"{name}: truncated within its header; {_AGAIN}")
    _, version, n_bytes = _START.unpack(start)
    rest = file.read(max(n_bytes - _START.size, 0))
    head, crc = (start + rest)[: -_CRC.size], rest[-_CRC.size :]
    if _START.size + len(rest) != n_bytes:
        raise CodecctlError(f"{name}: the header is truncated or damaged; {_AGAIN}")
    if crc != _CRC.pack(zlib.crc32(head)):
        raise CodecctlError(f"{name}: the header is damaged: its CRC differs; {_AGAIN}")
    if version != VERSION:
        raise CodecctlError(f"{name}: format version {version}, but this codecctl reads version {VERSION}; update it")
    return _parse_header(head, name)


def _parse_header(head: bytes, name: str) -> PackedHeader:
    """The header's values, checked before anything is allocated: a matching CRC does not make them plausible."""
    fixed = _START.size + _FIELDS.size
    if len(head) < fixed:
        raise CodecctlError(f"{name}: the header is too short")
    fingerprint, sample_rate, hop_length, n_samples, frames_per_block, n_sizes = _FIELDS.unpack_from(head, _START.size)
    if len(head) != fixed + n_sizes:
        raise CodecctlError(f"{name}: the header states {n_sizes} codebooks and lists {len(head) - fixed}")
    sizes = tuple(1 << n_bits for n_bits in head[fixed:])
    try:
        return PackedHeader(fingerprint.hex(), sample_rate, hop_length, sizes, n_samples, frames_per_block)
    except CodecctlError as error:
        raise CodecctlError(f"{name}: {error}") from None
