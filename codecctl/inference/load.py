"""Checkpoints in and out, and the codec as its users hold it: loaded, frozen, ready."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from codecctl.config import Config, parse_config
from codecctl.config.schema import DataConfig, ModelConfig
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import replacing
from codecctl.inference.compact import Precision, read_compact, write_compact
from codecctl.model import codec as model

CHECKPOINT_FORMAT = "codecctl.checkpoint"
SCHEMA_VERSION = 2
_TRAINING_ONLY = {"ema_decay", "revive_below", "quantizer_dropout"}


class Codec(model.Codec):
    """The codec for use: `Codec.load(path)` is in evaluation mode, its weights frozen, its weight norm folded."""

    fingerprint: str | None = None
    """16 hex digits that change only when the encoder or a codebook does; set by `load`."""

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Self:
        """The codec of a checkpoint, on `device`: `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises `CodecctlError` if the file is no checkpoint, `UsageError` for a device that is not there.
        """
        find_device(device)
        return cls.of(read_checkpoint(path), path, device)

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], path: str | Path, device: str = "auto") -> Self:
        """The codec of a checkpoint that was read from `path`. Raises as `load` does."""
        where = find_device(device)
        codec = cls(read_config(checkpoint, path).model)
        weights = weights_in_use(checkpoint)
        load_weights(codec, weights, path)
        codec.fingerprint = fingerprint(codec.config, weights)
        codec.fold_weight_norm()
        return codec.eval().requires_grad_(False).to(where)


def export_codec(source: str | Path, target: str | Path, precision: Precision = "int8") -> None:
    """Write the codec of a checkpoint, without its training state, as `target`.safetensors.

    Raises `CodecctlError` if `source` is no checkpoint, `UsageError` for another suffix of `target`.
    """
    if Path(target).suffix != ".safetensors":
        raise UsageError(f"{target}: the suffix must be .safetensors")
    content = read_checkpoint(source)
    config = read_config(content, source)
    # Where the data lay on the machine of the training is nobody else's business.
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": DataConfig().path})})
    write_compact(
        target, config.model_dump(mode="json", by_alias=True), weights_in_use(content), content["step"], precision
    )


def save_codec(codec: model.Codec, path: str | Path) -> None:
    """Write a codec whose weight norm is not folded as a checkpoint without training state."""
    config = Config(model=codec.config)
    write_checkpoint(
        path, {"config": config.model_dump(mode="json", by_alias=True), "step": 0, "model": codec.state_dict()}
    )


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """One file, written whole or not at all: tensors, numbers, text, and lists and dicts of them."""
    with replacing(Path(path), durable=True) as partial, partial.open("wb") as file:
        _save({"format": CHECKPOINT_FORMAT, "schema_version": SCHEMA_VERSION, **content}, file)


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """Raises `OSError` where the disk is full: torch hides it behind a RuntimeError of its own."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What `write_checkpoint` or `export_codec` wrote; of the former, tensors stay on disk until they are used.

    Raises `CodecctlError` if there is no such file, or it is not a checkpoint of ours, or of a newer version.
    """
    if not Path(path).is_file():
        raise CodecctlError(f"{path}: no such file; give a checkpoint such as runs/NAME/last.pt")
    if Path(path).suffix == ".safetensors":
        return {"format": CHECKPOINT_FORMAT, "schema_version": SCHEMA_VERSION, **read_compact(path)}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch.load raises whatever a foreign or broken file makes its parsers say
        raise CodecctlError(f"{path}: not a checkpoint that can be read; was it copied whole?") from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CodecctlError(f"{path}: a torch file, but not a codecctl checkpoint")
    if content["schema_version"] > SCHEMA_VERSION:
        raise CodecctlError(
            f"{path}: written by a newer codecctl (schema {content['schema_version']}); update codecctl"
        )
    return content


def read_config(checkpoint: Mapping[str, Any], path: str | Path) -> Config:
    """The resolved config inside a checkpoint."""
    return parse_config(checkpoint["config"], source=str(path))


def weights_in_use(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """What is used of a checkpoint: the running average of a training, else the weights themselves."""
    weights: Mapping[str, Tensor] = checkpoint.get("ema", checkpoint["model"])
    return weights


def load_weights(codec: model.Codec, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill the codec from a state dict.

    Raises `CodecctlError` that names the first key which is missing, foreign or of another shape.
    """
    ours = codec.state_dict()
    for name in sorted(ours.keys() | weights.keys()):
        if name not in weights:
            raise CodecctlError(f"{path}: weight '{name}' is missing; its config does not describe this model")
        if name not in ours:
            raise CodecctlError(f"{path}: weight '{name}' is foreign; its config does not describe this model")
        if ours[name].shape != weights[name].shape:
            raise CodecctlError(
                f"{path}: weight '{name}' is {list(weights[name].shape)}, the config asks for {list(ours[name].shape)}"
            )
    codec.load_state_dict(weights)


def fingerprint(config: ModelConfig, weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of all that decides which codes a signal gets: rates, encoder and codebooks, not the decoder."""
    decides = config.model_dump(mode="json", exclude={"output_tanh": True, "quantizer": _TRAINING_ONLY})
    # Where these are off, a codec is who it was before there were any.
    for part, name in ((decides, "level_prediction"), (decides["quantizer"], "gain")):
        if not part[name]:
            del part[name]
    digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=8)
    for name in sorted(weights):
        if name.startswith("encoder.") or name.endswith((".codebook", ".gains")):
            digest.update(name.encode())
            digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def find_device(name: str) -> torch.device:
    """`auto` (a CUDA card if there is one), `cpu`, `cuda` or `cuda:N`. Raises `UsageError` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA cards; --device cpu goes on without"
        )
    return device
