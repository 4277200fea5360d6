"""Model files: what one contains, how it is checked, and how a training's `.pt` is written.

A file contains the model's config and weights, the number of training steps, the fingerprint and a checksum of all
these. A training adds a description of its run and the state from which it resumes, with a checksum of its own: using
the codec does not read gigabytes of optimiser state.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from codecctl import __version__
from codecctl.config.load import parse_config
from codecctl.config.model import ModelConfig
from codecctl.config.schema import Config
from codecctl.errors import CodecctlError, ConfigError
from codecctl.files import replacing, utf8_path
from codecctl.inference.export import read_export
from codecctl.inference.identity import checksum, fingerprint
from codecctl.model.codec import Codec
from codecctl.parsing import shorten

CHECKPOINT_FORMAT = "codecctl.checkpoint"
CHECKPOINT_VERSION = 1
_ZIP = b"PK\x03\x04"  # a file of torch.save
_DAMAGED = "was changed or damaged: checksum differs; copy the file again from where it came"
_CHECKED = ("model", "weights", "step", "fingerprint", "run")  # the entries under `checksum`; `run` may be absent


@dataclass(frozen=True)
class Checkpoint:
    """A model file that was read and found intact."""

    path: Path
    model: ModelConfig
    weights: Mapping[str, Tensor]  # those in use: of a training the running average
    step: int  # updates of its training
    fingerprint: str  # 16 hex digits, see `identity.fingerprint`
    run: Mapping[str, Any] | None = None  # of a training: `config`, `versions`, `n_ranks`
    training: Mapping[str, Any] | None = None  # of a training, if asked for: all that resuming needs

    @classmethod
    def read(cls, path: str | Path, *, with_training: bool = False) -> Checkpoint:
        """The model in a `.pt` of a training or an exported `.safetensors`, recognised by their first bytes.

        Tensors of a `.pt` stay on disk until they are used. Raises `CodecctlError` that names what is wrong: no such
        file, not a checkpoint, written by a newer codecctl, weights that do not fit the config, that were damaged, or
        that are not finite.
        """
        path = Path(path)
        content = _read(path)
        model = _parse({"model": _entry(content, "model", dict, path)}, content.get("codecctl"), path).model
        weights = _entry(content, "weights", dict, path)
        for name, weight in weights.items():
            if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.device.type != "cpu":
                raise CodecctlError(f"{path}: weight {shorten(name)} is not a tensor of floating-point numbers")
        n_layers = model.transformer.n_layers
        if len(weights) < 2 * n_layers:  # on two sides; even without memory a codec of many layers takes seconds
            raise CodecctlError(
                f"{path}: a weight of transformer layer {n_layers} is missing; its config does not describe this model"
            )
        compare_shapes(shell(model).state_dict(), weights, path)  # before any memory is spent on a codec
        _compare(content, {key: content[key] for key in _CHECKED if content.get(key) is not None}, "checksum", path)
        check_finite(weights, path)
        training = content.get("training") if with_training else None
        if training is not None:
            _compare(content, training, "training_checksum", path)
        run = content.get("run")
        if not (run is None or isinstance(run, dict)) or not (training is None or isinstance(training, dict)):
            raise CodecctlError(f"{path}: 'run' or 'training' is not a section of keys")
        step, digits = _entry(content, "step", int, path), _entry(content, "fingerprint", str, path)
        return cls(path, model, weights, step, digits, run, training)

    def config(self) -> Config:
        """The config of the training that wrote it; for an export the defaults around its model.

        Raises `CodecctlError` if this version does not know one of its keys.
        """
        if self.run is None:
            return Config(model=self.model)
        versions = self.run.get("versions")
        version = versions.get("codecctl") if isinstance(versions, dict) else None
        return _parse({**_entry(self.run, "config", dict, self.path)}, version, self.path)

    def fill(self, codec: Codec) -> None:
        """Copy the weights into a codec. Raises `CodecctlError` that names the first weight which does not fit."""
        load_weights(codec, self.weights, self.path)


def write_checkpoint(
    path: str | Path,
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    step: int = 0,
    *,
    run: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a `.pt` file atomically and durably. `run` and `training`: tensors, numbers, text, lists and dicts."""
    content: dict[str, Any] = {
        "model": model.model_dump(mode="json"),
        "weights": dict(weights),
        "step": step,
        "fingerprint": fingerprint(model, weights),
    }
    if run is not None:
        content["run"] = run
    content["checksum"] = checksum(content)
    if training is not None:
        content |= {"training": training, "training_checksum": checksum(training)}
    head = {"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, "codecctl": __version__}
    with replacing(Path(path), durable=True) as partial, partial.open("wb") as file:
        _save({**head, **content}, file)


def load_weights(codec: Codec, weights: Mapping[str, Tensor], path: Path) -> None:
    """Fill a codec from a state dict. Raises `CodecctlError` that names the first weight which does not fit."""
    compare_shapes(codec.state_dict(), weights, path)
    check_finite(weights, path)
    codec.load_state_dict(weights)


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises `CodecctlError` that names the first weight with a NaN or an infinity."""
    for name, weight in weights.items():
        # The sum takes one pass instead of four.
        if not math.isfinite(weight.sum(dtype=torch.float64)) and not weight.isfinite().all():
            raise CodecctlError(f"{path}: weight {shorten(name)} is not finite; the training that wrote it had failed")


def _read(path: Path) -> dict[str, Any]:
    """The entries of either container; nothing but the version is checked."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CodecctlError(f"{path}: is no file; give a checkpoint such as runs/NAME/last.pt")
        with path.open("rb") as file:
            is_torch = file.read(len(_ZIP)) == _ZIP
    except FileNotFoundError:
        raise CodecctlError(f"{path}: no such file; give a checkpoint such as runs/NAME/last.pt") from None
    except OSError as error:
        raise CodecctlError(f"{path}: cannot be read ({error.strerror})") from None
    if not is_torch:
        return read_export(path)
    try:
        with utf8_path(path) as place:
            content = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch.load raises whatever its parsers meet in a foreign or broken file
        raise CodecctlError(f"{path}: not a checkpoint that can be read; was it copied whole?") from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CodecctlError(f"{path}: a torch file, but not a codecctl checkpoint")
    version = _entry(content, "version", int, path)
    if version > CHECKPOINT_VERSION:
        raise CodecctlError(
            f"{path}: written by a newer codecctl ({content.get('codecctl')}, format version {version}); update it"
        )
    return content


def _entry(content: Mapping[str, Any], name: str, kind: type, path: Path) -> Any:
    """An entry of this type. Raises `CodecctlError` if it is missing or of another."""
    if name not in content:
        raise CodecctlError(f"{path}: '{name}' is missing; this is not a whole checkpoint")
    if type(content[name]) is not kind:
        raise CodecctlError(f"{path}: '{name}' is a {type(content[name]).__name__}, expected {kind.__name__}")
    return content[name]


def _parse(values: Mapping[str, Any], version: object, path: Path) -> Config:
    """Raises `CodecctlError` that names the version which wrote keys that this one does not accept."""
    try:
        return parse_config(values, source=str(path))
    except ConfigError as error:
        wrote = f"; the file was written by codecctl {version}, this is {__version__}" if version != __version__ else ""
        raise CodecctlError(f"{error}{wrote}") from None


def compare_shapes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], where: str | Path) -> None:
    """Raises `CodecctlError` that names the first weight which `theirs` lack, have beyond ours, or in another shape."""
    for name in sorted(ours.keys() | theirs.keys()):
        weight = f"{where}: weight {shorten(name)} is"
        if name not in ours or name not in theirs:
            is_missing = name in ours
            raise CodecctlError(
                f"{weight} {'missing' if is_missing else 'foreign'}; its config does not describe this model"
            )
        if ours[name].shape != theirs[name].shape:
            there, here = list(theirs[name].shape), list(ours[name].shape)
            raise CodecctlError(f"{weight} {there}, the config asks for {here}")


def _compare(content: Mapping[str, Any], checked: object, name: str, path: Path) -> None:
    """Raises `CodecctlError` unless the checksum of `checked` is the one that the file states under `name`."""
    stated = _entry(content, name, str, path)
    try:
        found = checksum(checked)
    except (ValueError, RuntimeError, TypeError, RecursionError):
        found = ""
    if found != stated:
        raise CodecctlError(f"{path}: {_DAMAGED}")


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """Raises `OSError` where the disk is full: torch hides it behind a RuntimeError of its own."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def shell(model: ModelConfig) -> Codec:
    """A codec on the meta device: all its tensors have a shape and no values."""
    with torch.device("meta"), _ShapesOnly():
        return Codec(model)


class _ShapesOnly(TorchFunctionMode):
    """Random numbers and norms as empty tensors: on the meta device torch imports its compiler for them, a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args)
        if func is torch.norm_except_dim:
            weight, _, dim = args
            return torch.empty([size if axis == dim else 1 for axis, size in enumerate(weight.shape)])
        return func(*args, **(kwargs or {}))
