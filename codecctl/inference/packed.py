"""Packed codes, `.cctl`: tied to the model that made them, checked, as long as the audio; see `codecctl.bitstream`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codecctl.bitstream import VERSION, PackedHeader, PackedReader, PackedWriter, is_packed
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.container import CodesFormat, Container, StoredCodes


def _create(path: Path, form: CodesFormat) -> PackedWriter:
    if form.fingerprint is None:
        raise UsageError("a packed file names its model, and this codec has no fingerprint; use Codec.load(checkpoint)")
    return PackedWriter(path, **vars(form))


@contextmanager
def _open(path: Path, name: str, form: CodesFormat) -> Iterator[StoredCodes]:
    with PackedReader(path, name=name) as reader:
        check_model(reader.header, name, form)
        reader.check()
        yield StoredCodes(reader.header.n_quantizers, reader.header.n_samples, reader)


def _describe(path: Path, name: str) -> dict[str, Any]:
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
    if header.fingerprint != form.fingerprint:
        raise CodecctlError(
            f"{name}: made by the model {header.fingerprint}, but the given one is {form.fingerprint}; "
            f"pass --checkpoint with the one for which `codecctl info` shows {header.fingerprint}"
        )
    ours = (form.sample_rate, form.hop_length, form.codebook_sizes[: header.n_quantizers])
    if (header.sample_rate, header.hop_length, header.codebook_sizes) != ours:
        raise CodecctlError(
            f"{name}: the header names this model, but not its sample rate, hop length and codebooks; it is damaged"
        )


PACKED = Container(is_packed, _create, _open, _describe)
