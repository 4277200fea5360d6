"""The packed file: exact size, exact codes, and any damage found."""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecctl.bitstream import PackedHeader, PackedReader, PackedWriter, is_packed, pack_codes, unpack_codes
from codecctl.errors import CodecctlError

Array = np.ndarray[Any, Any]

PRODUCTION = (2048, *[1024] * 7)
MODEL: dict[str, Any] = {"fingerprint": "0123456789abcdef", "sample_rate": 16000, "hop_length": 320}
SIZES = st.lists(st.integers(1, 16).map(lambda n_bits: 1 << n_bits), min_size=1, max_size=12).map(tuple)

# The format never drifts: 1000 samples of a tiny model, worked out by hand but for the two CRCs.
GOLDEN_CODES = np.array([[0b11111111111, 1, 0b10000000000, 0b11110000000], [0, 1, 0, 1]])
GOLDEN = bytes.fromhex(
    "4343544c 0100 2b00"  # CCTL, version 1, a header of 43 bytes
    "0123456789abcdef 803e0000 40010000 e803000000000000"  # the model, 16000 Hz, hop 320, 1000 samples
    "08000000 02 0b01 df5fe86b"  # blocks of 8 frames, codebooks of 11 bits and of 1 bit, CRC
    "ffe003800f01 b7db2df7"  # 11111111111 0, 00000000001 1, 10000000000 0, 11110000000 1, CRC
)


def random_codes(sizes: tuple[int, ...], n_frames: int, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, size, n_frames) for size in sizes])


def write_packed(path: Path, codes: Array, sizes: tuple[int, ...], **keys: Any) -> bytes:
    with PackedWriter(path, codebook_sizes=sizes, **MODEL, **keys) as writer:
        writer.write(codes)
    return path.read_bytes()


def read_packed(data: bytes) -> Array:
    return PackedReader(io.BytesIO(data), name="x.cctl").read()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """45 production frames in six blocks."""
    path = tmp_path_factory.mktemp("packed") / "small.cctl"
    return write_packed(path, random_codes(PRODUCTION, 45), PRODUCTION, frames_per_block=8)


def test_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "golden.cctl"
    with PackedWriter(path, codebook_sizes=(2048, 2), frames_per_block=8, **MODEL) as writer:
        writer.write(GOLDEN_CODES)
        writer.n_samples = 1000
    assert path.read_bytes().hex() == GOLDEN.hex()
    reader = PackedReader(io.BytesIO(GOLDEN))
    assert reader.header == PackedHeader("0123456789abcdef", 16000, 320, (2048, 2), 1000, 8)
    assert np.array_equal(reader.read(), GOLDEN_CODES)


@given(SIZES, st.integers(1, 70), st.integers(0, 2**32))
def test_unpack_inverts_pack_for_any_codebooks(sizes: tuple[int, ...], n_frames: int, seed: int) -> None:
    bits = tuple(int(math.log2(size)) for size in sizes)
    codes = random_codes(sizes, n_frames, seed)
    packed = pack_codes(codes, bits)
    assert len(packed) == math.ceil(n_frames * sum(bits) / 8)
    assert np.array_equal(unpack_codes(packed, bits, n_frames), codes)


@pytest.mark.parametrize("n_frames", [1, 7, 399, 400, 401, 1000])
def test_size_is_header_and_packed_bits(tmp_path: Path, n_frames: int) -> None:
    data = write_packed(tmp_path / "x.cctl", random_codes(PRODUCTION, n_frames), PRODUCTION)
    blocks = [min(400, n_frames - start) for start in range(0, n_frames, 400)]
    assert len(data) == 49 + sum(math.ceil(81 * frames / 8) + 4 for frames in blocks)
    assert PackedReader(io.BytesIO(data)).header.n_file_bytes == len(data)


@given(st.lists(st.integers(0, 30), max_size=20), st.sampled_from([8, 16, 400]))
def test_chunking_of_the_writes_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], frames_per_block: int
) -> None:
    codes = random_codes(PRODUCTION, sum(chunks) + 1)
    folder = tmp_path_factory.mktemp("chunks")
    whole = write_packed(folder / "whole.cctl", codes, PRODUCTION, frames_per_block=frames_per_block)
    with PackedWriter(
        folder / "x.cctl", codebook_sizes=PRODUCTION, frames_per_block=frames_per_block, **MODEL
    ) as writer:
        for piece in np.split(codes, np.cumsum(chunks), axis=1):
            writer.write(piece)
    assert (folder / "x.cctl").read_bytes() == whole
    assert np.array_equal(np.concatenate(list(PackedReader(folder / "x.cctl")), axis=1), codes)


@given(st.data())
def test_any_frames_are_read_by_seeking(small: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 45))
    stop = data.draw(st.integers(start, 45))
    assert np.array_equal(
        PackedReader(io.BytesIO(small)).read(start, stop), random_codes(PRODUCTION, 45)[:, start:stop]
    )


def test_seeking_touches_only_its_blocks(small: bytes) -> None:
    damaged = bytearray(small)
    damaged[PackedReader(io.BytesIO(small)).header.block_start(2)] ^= 1  # frames 16 to 24
    reader = PackedReader(io.BytesIO(damaged))
    assert reader.read(0, 16).shape == (8, 16)
    assert reader.read(24).shape == (8, 21)
    with pytest.raises(CodecctlError, match=r"block 2 of 6 \(0\.32 to 0\.48 s\) is damaged"):
        reader.read(15, 17)


@pytest.mark.parametrize("mask", [1 << bit for bit in range(8)])
def test_every_single_bit_flip_is_an_error(small: bytes, mask: int) -> None:
    for place in range(len(small)):
        flipped = bytearray(small)
        flipped[place] ^= mask
        with pytest.raises(CodecctlError, match=r"^x\.cctl: "):
            read_packed(bytes(flipped))


def test_every_truncation_is_an_error(small: bytes) -> None:
    for size in range(len(small)):
        with pytest.raises(CodecctlError, match=r"^x\.cctl: "):
            read_packed(small[:size])


@given(st.binary(max_size=100), st.integers(0, 600))
def test_garbage_is_an_error_and_nothing_else(small: bytes, garbage: bytes, place: int) -> None:
    mixed = small[:place] + garbage + small[place + len(garbage) :]
    if mixed == small:
        return
    with pytest.raises(CodecctlError):
        read_packed(mixed)


def test_trailing_bytes_and_swapped_blocks_are_errors(small: bytes) -> None:
    with pytest.raises(CodecctlError, match="1 bytes too many"):
        read_packed(small + b"\0")
    header = PackedReader(io.BytesIO(small)).header
    first, second, third = (header.block_start(block) for block in range(3))
    swapped = small[:first] + small[second:third] + small[first:second] + small[third:]
    with pytest.raises(CodecctlError, match="block 0 of 6"):
        read_packed(swapped)


@pytest.mark.parametrize(
    "header",
    [
        PackedHeader("0" * 16, 1, 1, (65536,) * 255, 2**64 - 2, 8192),
        PackedHeader("0" * 16, 1, 2**32 - 1, (65536,) * 255, 2**64 - 2, 8192),
    ],
)
def test_a_lying_header_allocates_nothing(header: PackedHeader) -> None:
    tracemalloc.start()
    with pytest.raises(CodecctlError, match="truncated"):
        read_packed(header.to_bytes())
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("place", "layout", "value", "message"),
    [
        (4, "<H", 2, "format version 2"),
        (16, "<I", 0, "sample_rate 0"),
        (20, "<I", 0, "hop_length 0"),
        (24, "<Q", 0, "n_samples 0"),
        (32, "<I", 0, "blocks of 0 frames"),
        (32, "<I", 12, "blocks of 12 frames"),
        (32, "<I", 8200, "blocks of 8200 frames"),
        (32, "<I", 2**32 - 8, "blocks of 4294967288 frames"),
        (36, "<B", 0, "0 codebooks"),
        (36, "<B", 255, "255 codebooks"),
        (37, "<B", 0, "a codebook of 1 codewords"),
        (38, "<B", 17, "a codebook of 131072 codewords"),
    ],
)
def test_a_header_with_a_fitting_crc_is_still_checked(place: int, layout: str, value: int, message: str) -> None:
    head = bytearray(GOLDEN[:39])
    struct.pack_into(layout, head, place, value)
    with pytest.raises(CodecctlError, match=rf"^x\.cctl: .*{message}"):
        read_packed(bytes(head) + struct.pack("<I", zlib.crc32(head)) + GOLDEN[43:])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.full((8, 3), 1024), "codebook 2 has codes from 0 to 1023, but frame 0 holds 1024"),
        (np.full((8, 3), -1), "codebook 1 .* holds -1"),
        (np.zeros((8, 3)), "must be integers, got float64"),
        (np.zeros((8, 3), bool), "must be integers, got bool"),
        (np.zeros(8, int), "two axes"),
        (np.zeros((7, 3), int), "7 codebooks"),
        (np.zeros((9, 3), int), "9 codebooks"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path, codes: Array, message: str) -> None:
    with pytest.raises(CodecctlError, match=message):
        write_packed(tmp_path / "x.cctl", codes, PRODUCTION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n_frames", "n_samples"), [(0, None), (0, 0), (3, 640), (3, 961)])
def test_a_sample_count_that_does_not_fit_is_refused(tmp_path: Path, n_frames: int, n_samples: int | None) -> None:
    writer = PackedWriter(tmp_path / "x.cctl", codebook_sizes=PRODUCTION, **MODEL)
    writer.write(np.zeros((8, n_frames), int))
    writer.n_samples = n_samples
    with pytest.raises(CodecctlError, match=f"do not match {n_frames} frames"):
        writer.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.cctl"
    before = write_packed(path, random_codes(PRODUCTION, 5), PRODUCTION)
    with contextlib.suppress(KeyboardInterrupt), PackedWriter(path, codebook_sizes=PRODUCTION, **MODEL) as writer:
        writer.write(random_codes(PRODUCTION, 1000))
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.cctl"]
    assert path.read_bytes() == before


def test_recognised_by_the_first_bytes(small: bytes) -> None:
    assert is_packed(small[:4])
    assert not is_packed(b"\x93NUMPY")
    assert not is_packed(b"")
