"""A codec for use alone: one `.safetensors` file of a few megabytes, its config inside, and no pickle to trust.

Matrices may be kept as 8-bit integers with one float32 scale a row, about a quarter of float32; the codebooks and the
last layers, whose rounding costs most, then have 16 bits. Reading gives back a checkpoint like any other: to
encode and decode with, to validate, and to start a training from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing

COMPACT_FORMAT = "codecctl.codec"
COMPACT_VERSION = 1
Precision = Literal["int8", "float16", "float32"]
_SCALE = ".row_scale"
_FINE = (".codebook", ".last.weight", ".refine_first.weight", ".refine_last.weight")  # never fewer than 16 bits
_SMALL = 4096  # values: vectors and small matrices stay as they are, they weigh nothing


def write_compact(
    path: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], step: int, precision: Precision
) -> None:
    """One file, written whole or not at all. What follows from the codebooks, their running sums, is left out.

    Raises `UsageError` for another precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"--precision {precision}: expected {', '.join(get_args(Precision))}")
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith((".codeword_sum", ".cluster_size", ".left_over")):
            continue
        tensors.update(_packed(name, weight.detach().float().cpu().contiguous(), precision))
    about = {
        "format": COMPACT_FORMAT,
        "version": str(COMPACT_VERSION),
        "step": str(step),
        "config": json.dumps(config, sort_keys=True),
    }
    with replacing(Path(path)) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, about))


def read_compact(path: str | Path) -> dict[str, Any]:
    """What `write_compact` wrote: its config, step, and weights in float32 under `model`.

    Raises `CodecctlError` if the file cannot be read, is not one of ours, or is of a newer version.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != COMPACT_FORMAT:
                raise CodecctlError(f"{path}: a safetensors file, but not a codecctl codec")
            if int(about["version"]) > COMPACT_VERSION:
                raise CodecctlError(f"{path}: written by a newer codecctl (version {about['version']}); update it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        config, step = json.loads(about["config"]), int(about["step"])
    except (safetensors.SafetensorError, KeyError, ValueError):
        raise CodecctlError(f"{path}: not a codec that can be read; was it copied whole?") from None
    return {"config": config, "step": step, "model": dict(_unpacked(tensors))}


def _packed(name: str, weight: Tensor, precision: Precision) -> dict[str, Tensor]:
    if precision == "float32" or weight.dim() < 2 or weight.numel() < _SMALL:
        return {name: weight}
    if precision == "float16" or name.endswith(_FINE):
        return {name: weight.half()}
    rows = weight.flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return {name: (rows / scale[:, None]).round().to(torch.int8).view_as(weight), name + _SCALE: scale}


def _unpacked(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, packed in tensors.items():
        if name.endswith(_SCALE):
            continue
        weight = packed.float()
        if packed.dtype == torch.int8:
            weight = (weight.flatten(1) * tensors[name + _SCALE][:, None]).view_as(weight)
        yield name, weight
        if name.endswith(".codebook"):
            yield name.replace(".codebook", ".codeword_sum"), weight.clone()
            yield name.replace(".codebook", ".cluster_size"), torch.ones(len(weight))
        if name.endswith(".gains"):
            yield name.replace(".gains", ".left_over"), weight.square()
