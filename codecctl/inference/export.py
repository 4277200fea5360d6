"""A model alone: one `.safetensors` file of a few megabytes with the model's config, and no pickle.

Matrices may be stored as 8-bit integers with one float32 scale a row (see `rounding`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from codecctl import __version__
from codecctl.config.model import ModelConfig
from codecctl.errors import CodecctlError
from codecctl.files import replacing, utf8_path
from codecctl.inference.identity import checksum, fingerprint
from codecctl.model.codebook import with_running_sums
from codecctl.parsing import parse_json, shorten

EXPORT_FORMAT = "codecctl.codec"
EXPORT_VERSION = 1
ROW_SCALE = ".row_scale"  # behind the name of an int8 matrix: its scales
_FACTS = ("model", "step", "fingerprint")
_STORED_TYPES = (torch.float32, torch.float16, torch.int8)


def write_packed(
    path: Path,
    model: ModelConfig,
    packed: Mapping[str, Tensor],
    step: int,
    *,
    container: str = EXPORT_FORMAT,
    tables: Mapping[str, Tensor] | None = None,
) -> None:
    """Write one file atomically: tensors in the precision in which they are given, with the identity of what they are
    read as.

    `container`: the metadata's `format`, where another program asks for one of its own. `tables`: tensors for that
    program, which `read_export` leaves out.
    """
    weights = unpacked(packed, path)
    config = model.model_dump(mode="json")
    facts = {"model": config, "step": step, "fingerprint": fingerprint(model, weights)}
    metadata = {
        "format": container,
        "content": EXPORT_FORMAT,
        "version": str(EXPORT_VERSION),
        "codecctl": __version__,
        "facts": json.dumps(facts, sort_keys=True),
        "checksum": checksum({**facts, "weights": weights}),
    }
    if tables:
        metadata["tables"] = " ".join(sorted(tables))
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save({**packed, **(tables or {})}, metadata))


def read_export(path: Path) -> dict[str, Any]:
    """The entries of an exported file: `model`, `step`, `fingerprint`, `checksum`, `codecctl`, `weights` in float32.

    Raises `CodecctlError` if the file cannot be read, is not an export of codecctl, or is of a newer version.
    """
    try:
        with utf8_path(path) as place, safetensors.safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            if EXPORT_FORMAT not in (metadata.get("content"), metadata.get("format")):
                raise CodecctlError(f"{path}: a safetensors file, but not a codecctl codec")
            if int(metadata["version"]) > EXPORT_VERSION:
                raise CodecctlError(
                    f"{path}: written by a newer codecctl ({metadata.get('codecctl')}, format version "
                    f"{metadata['version']}); update it"
                )
            tables = metadata.get("tables", "").split()
            names = [name for name in file.keys() if name not in tables]  # noqa: SIM118 - it is no dict
            packed = {name: file.get_tensor(name) for name in names}
        facts = parse_json(metadata["facts"], str(path))
        identity = {"codecctl": metadata["codecctl"], "checksum": metadata["checksum"]}
        return {**identity, **{key: facts[key] for key in _FACTS}, "weights": unpacked(packed, path)}
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        raise CodecctlError(f"{path}: not a codec that can be read; was it copied whole?") from None


def unpacked(packed: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """All weights of a codec in float32. Raises `CodecctlError` for an odd type or scale."""
    weights = {}
    for name, stored in packed.items():
        if name.endswith(ROW_SCALE):
            continue
        if stored.dtype not in _STORED_TYPES:
            raise CodecctlError(f"{path}: weight {shorten(name)} is stored as {stored.dtype}, which no export contains")
        weights[name] = stored.float()
        if stored.dtype == torch.int8:
            scale = packed.get(name + ROW_SCALE)
            if scale is None or stored.dim() < 2 or scale.shape != stored.shape[:1] or scale.dtype != torch.float32:
                raise CodecctlError(f"{path}: weight {shorten(name)} has no scale for each of its rows")
            weights[name] = (weights[name].flatten(1) * scale[:, None]).view_as(stored)
    return with_running_sums(weights)
