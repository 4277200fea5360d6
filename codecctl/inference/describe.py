"""What a file is: a checkpoint, packed codes, an array of codes or audio."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from codecctl.audio.files import AudioReader
from codecctl.bitstream import VERSION, PackedReader, is_packed
from codecctl.inference.arrays import first_bytes, is_npy, load_npy


def describe(path: str | Path, *, name: str | None = None) -> dict[str, Any]:
    """Facts that go into JSON, with the key `kind` first; recognised by the bytes, not by the name.

    Packed codes are read from end to end, so what is described is whole. Raises `CodecctlError` for a file of no kind,
    or a damaged one.
    """
    name = name or str(path)
    start = first_bytes(path, name)
    if is_packed(start):
        return _describe_packed(path, name)
    if is_npy(start):
        return _describe_npy(path, name)
    if start.startswith(b"PK\x03\x04") or start[8:10] == b'{"':  # the zip that torch writes, or safetensors
        return _describe_checkpoint(path)
    return _describe_audio(path, name)


def _describe_packed(path: str | Path, name: str) -> dict[str, Any]:
    with PackedReader(path, name=name) as reader:
        reader.check()
        header = reader.header
    return {
        "kind": "packed codes",
        "format_version": VERSION,
        "fingerprint": header.fingerprint,
        "sample_rate": header.sample_rate,
        "hop_length": header.hop_length,
        "frame_rate": header.frame_rate,
        "n_samples": header.n_samples,
        "seconds": header.seconds,
        "n_frames": header.n_frames,
        "codebook_sizes": header.codebook_sizes,
        "bits_per_frame": sum(header.bits),
        "frames_per_block": header.frames_per_block,
        "n_blocks": header.n_blocks,
        "n_bytes": header.n_file_bytes,
        "file_bitrate_kbps": header.file_bitrate_kbps,
    }


def _describe_npy(path: str | Path, name: str) -> dict[str, Any]:
    codes = load_npy(path, name)
    facts: dict[str, Any] = {"kind": "array", "dtype": str(codes.dtype), "shape": codes.shape}
    if codes.ndim == 2 and codes.size and codes.dtype.kind in "iu":
        facts |= {
            "kind": "codes",
            "n_books": codes.shape[0],
            "n_frames": codes.shape[1],
            "largest_codes": codes.max(axis=1).tolist(),
        }
    return facts | {"n_bytes": os.path.getsize(path)}


def _describe_checkpoint(path: str | Path) -> dict[str, Any]:
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.shapes import shell

    checkpoint = Checkpoint.read(path)
    model = checkpoint.model
    codec = shell(model)
    norms = [weight for name, weight in codec.named_parameters() if name.endswith(".weight.original0")]  # folded in use
    return {
        "kind": "checkpoint",
        "step": checkpoint.step,
        "model": _shipped_name(model),
        "n_parameters": sum(weight.numel() for weight in codec.parameters()) - sum(norm.numel() for norm in norms),
        "n_codebook_values": sum(codebook.codewords.numel() for codebook in codec.quantizer.codebooks),
        "fingerprint": checkpoint.fingerprint,
        "sample_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "frame_rate": model.frame_rate,
        "codebook_sizes": model.quantizer.codebook_sizes,
        "bitrate_kbps": model.bitrate_kbps,
        "n_bytes": os.path.getsize(path),
    }


def _shipped_name(model: Any) -> str:
    """The shipped config that describes this very model, if there is one."""
    from codecctl.config.load import configs_folder, load_config

    for path in sorted(configs_folder().glob("*.yaml")):
        if load_config(path).model == model:
            return path.stem
    return "of its own"


def _describe_audio(path: str | Path, name: str) -> dict[str, Any]:
    with AudioReader(path, name=name) as reader:
        audio = reader.info
    return {
        "kind": "audio",
        "sample_rate": audio.sample_rate,
        "n_channels": audio.n_channels,
        "n_samples": audio.n_samples,
        "seconds": audio.seconds,
        "lossy": audio.lossy,
    }
