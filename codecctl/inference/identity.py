"""What identifies a codec, its fingerprint, and what shows that a file is intact, its checksum."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from codecctl.config.model import ModelConfig


def fingerprint(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of all that decides which codes a signal gets: rate, encoder and codebooks, not the decoder.

    Keys at their defaults do not count, so that a new key with a neutral default changes no fingerprint.
    """
    config = config.model_copy(update={"front": config.front.encoder})
    decisive: dict[str, Any] = {"sample_rate": True, "front": True, "transformer": True}
    decisive["quantizer"] = {"codebook_sizes", "beam_width", "gain"}
    keys = config.model_dump(mode="json", include=decisive, exclude_defaults=True) | {"kind": config.front.kind}
    digest = hashlib.blake2b(json.dumps(keys, sort_keys=True).encode(), digest_size=8)
    for name in sorted(weights):
        if name.startswith("encoder.") or name.endswith((".codewords", ".gains")):
            digest.update(name.encode())
            digest.update(_bytes(weights[name].float()))
    return digest.hexdigest()


def checksum(content: object) -> str:
    """8 hex digits of nested dicts, lists, numbers, text and tensors. Raises `ValueError` for anything else."""
    return f"{_crc(content, 0):08x}"


def _crc(part: object, crc: int) -> int:
    if isinstance(part, Tensor):
        crc = zlib.crc32(f"{part.dtype}{tuple(part.shape)}".encode(), crc)
        return zlib.crc32(_bytes(part), crc)
    if isinstance(part, Mapping):
        for key in sorted(part, key=repr):
            crc = _crc(part[key], zlib.crc32(repr(key).encode(), crc))
        return zlib.crc32(b"}", crc)
    if isinstance(part, list | tuple):
        for item in part:
            crc = _crc(item, crc)
        return zlib.crc32(b"]", crc)
    if part is None or isinstance(part, bool | int | float | str):
        return zlib.crc32(repr(part).encode(), crc)
    raise ValueError(f"a {type(part).__name__} has no checksum")


def _bytes(tensor: Tensor) -> memoryview:
    """The values of a dense tensor. Raises `ValueError` where they would take more memory than the tensor has."""
    if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor without storage of its own")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
