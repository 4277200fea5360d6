"""The codec as its users hold it: loaded, frozen, ready. And its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from codecctl.inference.checkpoint import Checkpoint, write_checkpoint
from codecctl.inference.device import find_device
from codecctl.inference.export import write_packed
from codecctl.inference.find import STARTER, find_checkpoint
from codecctl.inference.outputs import check_output
from codecctl.inference.rounding import packed
from codecctl.inference.stream import StreamDecoder, StreamEncoder
from codecctl.model import codec as model


class Codec(model.Codec):
    """The codec for use: `Codec.load(name)` is in evaluation mode, its weights frozen, its weight norm folded."""

    fingerprint: str | None = None
    """16 hex digits that change only when the encoder or a codebook does; set by `load`."""

    path: Path | None = None
    """The file that it was loaded from."""

    @classmethod
    def load(cls, checkpoint: str | Path = STARTER, device: str = "auto") -> Self:
        """The codec of a shipped model's name, a file, or a model on the Hugging Face hub (`owner/name[@revision]`), on
        `device`: `auto`, `cpu`, `cuda` or `cuda:N`.

        Raises `CodecctlError` if the file is not an intact checkpoint, `UsageError` for a device that is not there.
        """
        where = find_device(device)
        return cls.of(Checkpoint.read(find_checkpoint(checkpoint)), where)

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device) -> Self:
        """The codec of a checkpoint that was read."""
        with _NoRandomWeights():
            codec = cls(checkpoint.model)
        checkpoint.fill(codec)
        codec.fingerprint, codec.path = checkpoint.fingerprint, checkpoint.path
        codec.fold_weight_norm()
        return codec.eval().requires_grad_(False).to(device)

    def stream_encoder(
        self, batch_size: int = 1, n_quantizers: int | None = None, frames_per_push: int = 1, traced: bool = False
    ) -> StreamEncoder:
        """A batch of new streams; any number of them share the codec."""
        return StreamEncoder(self, n_quantizers, batch_size, frames_per_push, traced)

    def stream_decoder(self, batch_size: int = 1, traced: bool = False) -> StreamDecoder:
        """A batch of new streams; any number of them share the codec."""
        return StreamDecoder(self, batch_size, traced)


class _NoRandomWeights(TorchFunctionMode):
    """Layers do not draw their first weights, which takes longer than reading those of the checkpoint."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func is Tensor.uniform_ else func(*args, **(kwargs or {}))


def export_codec(source: Checkpoint, target: str | Path, precision: str = "int8") -> Checkpoint:
    """Write the model of a checkpoint as `target`.safetensors, without its training; returns what is in the new file.

    Raises `UsageError` for a target that cannot be written as asked.
    """
    target = Path(target)
    check_output(target, (".safetensors",), inputs=[source.path])
    write_packed(target, source.model, packed(source.model, source.weights, precision), source.step)
    return Checkpoint.read(target)


def save_codec(codec: model.Codec, path: str | Path) -> None:
    """Write a codec whose weight norm is not folded as a checkpoint without training state."""
    write_checkpoint(path, codec.config, codec.state_dict())
