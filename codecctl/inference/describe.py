"""Describes any file that codecctl reads: a checkpoint, codes or audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codecctl.audio.files import AudioReader
from codecctl.inference.container import first_bytes
from codecctl.inference.containers import recognise


def describe(path: str | Path, *, name: str | None = None) -> dict[str, Any]:
    """Facts for JSON, with the key `kind` first; files are recognised by their bytes, not by their name.

    Files with checksums are read from end to end. Raises `CodecctlError` for a damaged file or one of unknown kind.
    """
    path, name = Path(path), name or str(path)
    start = first_bytes(path, name)
    if container := recognise(start):
        return container.describe(path, name)
    if start.startswith(b"PK\x03\x04") or start[8:10] == b'{"':  # the zip that torch writes, or safetensors
        return _describe_checkpoint(path)
    return _describe_audio(path, name)


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    from codecctl.config.load import configs_folder, load_config
    from codecctl.inference.checkpoint import Checkpoint, shell

    checkpoint = Checkpoint.read(path)
    model = checkpoint.model
    codec = shell(model)
    shipped = sorted(configs_folder().glob("*.yaml"), key=lambda path: path.stem)  # starter before its variants
    norms = [weight for name, weight in codec.named_parameters() if name.endswith(".weight.original0")]  # folded in use
    return {
        "kind": "checkpoint",
        "step": checkpoint.step,
        "model": next((path.stem for path in shipped if load_config(path).model == model), "custom"),
        "n_parameters": sum(weight.numel() for weight in codec.parameters()) - sum(norm.numel() for norm in norms),
        "n_codebook_values": sum(codebook.codewords.numel() for codebook in codec.quantizer.codebooks),
        "fingerprint": checkpoint.fingerprint,
        "sample_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "frame_rate": model.frame_rate,
        "codebook_sizes": model.quantizer.codebook_sizes,
        "bitrate_kbps": model.bitrate_kbps,
        "n_bytes": path.stat().st_size,
    }


def _describe_audio(path: Path, name: str) -> dict[str, Any]:
    with AudioReader(path, name=name) as reader:
        audio = reader.info
    return {
        "kind": "audio",
        "format": audio.format,
        "sample_rate": audio.sample_rate,
        "n_channels": audio.n_channels,
        "n_samples": audio.n_samples,
        "seconds": audio.seconds,
        "lossy": audio.lossy,
    }
